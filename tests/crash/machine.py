"""Kills a real server again and again under load, and compares three lists: what the clients saw, what the upstream
did, and what the receiver holds. `python -m tests.crash --kills 300`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.store.database import Database
from tests.crash.world import BOUND_S, KINDS, Kind, Upstream, ask, free_port, is_whole, log_of, usage_of
from tests.delivery.receiver import Answer, Receiver
from tests.process import command
from tests.running import wait_until
from tests.store.samples import rollups, sums_of_events

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 50
_LEAVES_ONE_IN = 12


class Server:
    """A `tollgate serve` on a ledger and a port that stay the same from one life to the next."""

    def __init__(self, directory: Path, upstream: Upstream, receiver: Receiver) -> None:
        self.directory = directory
        self.port = free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OPENAI_BASE_URL": upstream.url,
            "OPENAI_API_KEY": "sk-upstream",
            "KONNECT_API_URL": receiver.base_url,
            "TOLLGATE_SINK__LINGER_S": "0.01",
            "TOLLGATE_SINK__RETRY_MAX_S": "0.5",
        }
        settings = {name: value for name, value in self.environment.items() if name not in ("PATH", "PYTHONPATH")}
        command(directory, "tenants", "create", "user-001", **settings)
        self.key = "key-of-user-001"
        command(directory, "keys", "create", "user-001", "--import", self.key, **settings)

    @contextmanager
    def life(self, step: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """One life, which ends with a kill at the latest. It kills itself at `step`, if one is named."""
        listened = log_of(self.directory).count("listens on") if self._log.exists() else 0
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.server", step, "serve", "--port", str(self.port)],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(
                lambda: log_of(self.directory).count("listens on") > listened or process.poll() is not None,
                seconds=BOUND_S,
            )
            yield process
        finally:
            process.kill()
            process.wait()

    def is_quiet(self) -> bool:
        """While it lives: nothing of the dead is left to settle, and nothing to deliver."""
        with closing(self.ledger()) as connection:
            (waiting,) = connection.execute("SELECT count(*) FROM events WHERE state != 'accepted'").fetchone()
        return waiting == 0 and len(self.holds()) == 1

    def ledger(self) -> sqlite3.Connection:
        return Database(f"sqlite:///{self.directory}/var/tollgate.db").connect()

    def holds(self) -> list[Path]:
        """The files of traces: the living server's, and those of the dead that are not settled yet."""
        return [*self.directory.glob("var/tollgate.db-holds-*")]

    @property
    def _log(self) -> Path:
        return self.directory / "tollgate.log"


@dataclass(slots=True)
class Clients:
    """The clients' list: what each of them asked, and whether its answer was whole."""

    asked: dict[int, Kind] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, port: int, key: str, seed: int) -> None:
        """Ask one thing after the other, until `ended`."""
        dice = random.Random(seed)
        while not self.ended.is_set():
            number = len(self.asked)
            kind = self.asked[number] = dice.choice(list(KINDS.values()))
            leaves = dice.randrange(2_000) if dice.randrange(_LEAVES_ONE_IN) == 0 else None
            answer = await ask(port, key, kind, number, leaves_after_bytes=leaves)
            if is_whole(kind, answer):
                self.whole.add(number)
            elif not answer:
                await asyncio.sleep(0.1)  # the server is not up


@dataclass(frozen=True, slots=True)
class Account:
    """The comparison of the three lists, by the requests' numbers."""

    kills: int
    asked: int
    received: int
    whole: int
    events: int
    interrupted: int
    repeats: int
    lost: list[int]
    doubled: list[int]
    wrong: list[int]

    @property
    def is_balanced(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.asked} requests asked, {self.received} received by the upstream, "
            f"{self.whole} answered whole\n"
            f"{self.events} events at the receiver ({self.interrupted} interrupted; {self.repeats} repeats dropped)\n"
            f"lost: {len(self.lost)} {self.lost[:10]}\ndoubled: {len(self.doubled)} {self.doubled[:10]}\n"
            f"answered whole, but not billed as reported: {len(self.wrong)} {self.wrong[:10]}"
        )


def account(clients: Clients, upstream: Upstream, receiver: Receiver, kills: int) -> Account:
    events = receiver.accepted
    by_number: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        by_number.setdefault(int(event["data"]["requested_model"].removeprefix("m-")), []).append(event["data"])
    billed = Counter({number: len(found) for number, found in by_number.items()})
    received = set(upstream.received)
    return Account(
        kills=kills,
        asked=len(clients.asked),
        received=len(received),
        whole=len(clients.whole),
        events=len(events),
        interrupted=sum(event["data"]["outcome"] == "interrupted" for event in events),
        repeats=len(receiver.taken) - len(events),
        lost=sorted(number for number in received | clients.whole if not billed[number]),
        doubled=sorted(number for number, count in billed.items() if count > 1),
        wrong=sorted(
            number
            for number in clients.whole
            if billed[number] == 1 and not _is_reported(clients.asked[number], number, by_number[number][0])
        ),
    )


def _is_reported(kind: Kind, number: int, data: dict[str, Any]) -> bool:
    prompt, completion = usage_of(number)
    expected = (prompt, completion if kind.reports_output else 0, "reported", "completed")
    # A client of a stream may close when it has the last event, before the answer has ended.
    outcome = "completed" if data["outcome"] == "client_disconnected" else data["outcome"]
    return (data["prompt_tokens"], data["completion_tokens"], data["usage_source"], outcome) == expected


async def kill_at_random(directory: Path, *, kills: int, seed: int, bound_s: float) -> Account:
    """Run the machine. Stops early, with fewer kills, when `bound_s` has passed."""
    dice = random.Random(seed)
    judge_dice = random.Random(seed)
    # One batch in five is taken and answered 503: its outcome is unknown to the proxy.
    receiver = Receiver(judge=lambda _: Answer(503, takes=True) if judge_dice.randrange(5) == 0 else Answer())
    clients = Clients()
    until = time.monotonic() + bound_s
    done = 0
    with receiver, Upstream(pause_s=0.1, seed=seed) as upstream:
        server = await asyncio.to_thread(Server, directory, upstream, receiver)
        running = [
            asyncio.create_task(clients.run(server.port, server.key, seed * 1_000 + number))
            for number in range(IN_FLIGHT)
        ]
        while done < kills and time.monotonic() < until:
            await asyncio.to_thread(_live_and_die, server, 0.05 + 0.4 * dice.random())
            done += 1
        clients.ended.set()
        await asyncio.wait(running, timeout=BOUND_S)
        await asyncio.to_thread(_settle_down, server)
    return account(clients, upstream, receiver, done)


def _live_and_die(server: Server, seconds: float) -> None:
    with server.life() as process:
        assert process.poll() is None, log_of(server.directory)[-2_000:]
        time.sleep(seconds)  # the instant is chance, which is the point
        process.send_signal(signal.SIGKILL)


def _settle_down(server: Server) -> None:
    """A last life, until nothing is left to settle or to deliver; then the ledger must be consistent in itself."""
    with server.life() as process:
        wait_until(server.is_quiet, seconds=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    with closing(server.ledger()) as connection:
        assert sums_of_events(connection) == rollups(connection)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert "Traceback" not in log_of(server.directory), log_of(server.directory)[-4_000:]
