"""What the long runs share: a load of clients, a receiver that keeps counts alone, and what a process holds."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.crash.machine import Server
from tests.crash.world import BOUND_S, KINDS, Kind, Upstream, request_of
from tests.delivery.receiver import Answer, Event, Receiver
from tests.delivery.receiver import Received as Request

CLIENTS = 32
_LEAVES_ONE_IN = 20
#: A ledger's page cache, a batch or two, and what Python does not give back; not a hundred thousand events.
_GROWTH_MAX_KIB = 24 * 1024
_PLAIN = [kind for kind in KINDS.values() if not kind.body.get("stream")]
_STREAMED = [kind for kind in KINDS.values() if kind.body.get("stream")]


class Tally(Receiver):
    """A receiver that keeps counts alone: the events of a long run would fill the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.events = 0
        self.tokens = 0
        self.outcomes: Counter[str] = Counter()

    def _take(self, request: Request) -> Answer:
        for event in request.events:
            self._count(event)
        return Answer()

    def _count(self, event: Event) -> None:
        self.events += 1
        if event["id"] not in self.ids:
            self.ids.add(event["id"])
            self.tokens += event["data"]["total_tokens"]
            self.outcomes[event["data"]["outcome"]] += 1


class Client:
    """A client that keeps its connection, as SDKs do."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, kind: Kind, number: int, *, leaves: bool) -> None:
        """One request, read to its end, or left in the middle of its answer."""
        kept = self._writer is not None
        try:
            head = await self._head(kind, number)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if not kept or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                raise
            self.close()  # the server closed it while it was idle: once more on a new one, as every client does
            head = await self._head(kind, number)
        assert head.startswith(b"http/1.1 200"), head
        if leaves:
            self.close()
        elif length := re.search(rb"content-length: (\d+)", head):
            await self._reader.readexactly(int(length[1]))
        else:
            await self._reader.readuntil(b"\r\n0\r\n\r\n")

    async def _head(self, kind: Kind, number: int) -> bytes:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(request_of(self._key, kind, number))
        return (await self._reader.readuntil(b"\r\n\r\n")).lower()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


@dataclass(slots=True)
class Load:
    """Clients without end, in pairs of a request and a connection that is free."""

    port: int
    key: str
    dice: random.Random
    asked: int = 0
    failed: int = 0
    idle: list[Client] = field(default_factory=list)

    async def one(self) -> None:
        self.asked += 1
        kind = self.dice.choice(_STREAMED if self.asked % 2 else _PLAIN)
        client = self.idle.pop() if self.idle else Client(self.port, self.key)
        try:
            async with asyncio.timeout(BOUND_S):
                await client.ask(kind, self.asked, leaves=self.dice.randrange(_LEAVES_ONE_IN) == 0)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.failed += 1
            client.close()
        self.idle.append(client)

    async def full(self, goes_on: Callable[[], bool]) -> None:
        """Each client asks as soon as it was answered."""

        async def work() -> None:
            while goes_on():
                await self.one()

        await asyncio.gather(*(work() for _ in range(CLIENTS)))

    async def capacity(self, seconds: float) -> float:
        """Requests a second under a full load."""
        until = time.monotonic() + seconds
        before = self.asked
        await self.full(lambda: time.monotonic() < until)
        return (self.asked - before) / seconds

    async def steady(self, per_second: float, seconds: float) -> None:
        """So many a second, whether the earlier ones are answered or not."""
        started = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        for number in range(int(per_second * seconds)):
            wait_s = started + number / per_second - time.monotonic()
            if wait_s > 0.002:
                await asyncio.sleep(wait_s)
            running.add(task := asyncio.create_task(self.one()))
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    def close(self) -> None:
        for client in self.idle:
            client.close()
        self.idle.clear()


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process holds: resident memory (KiB) and open files."""

    rss_kib: int
    files: int

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> Self:
        status = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return cls(int(found[1]), len([*Path(f"/proc/{process.pid}/fd").iterdir()]))

    def __str__(self) -> str:
        return f"{self.rss_kib / 1024:.1f} MiB"


@asynccontextmanager
async def sampling(process: subprocess.Popen[bytes], every_s: float) -> AsyncIterator[list[Vitals]]:
    """Looks again and again at what a process holds, first and last at the ends of the block."""
    samples = [Vitals.of(process)]

    async def sample() -> None:
        while True:
            await asyncio.sleep(every_s)
            samples.append(Vitals.of(process))

    task = asyncio.create_task(sample())
    try:
        yield samples
    finally:
        task.cancel()
        samples.append(Vitals.of(process))


def metrics(port: int) -> dict[str, float]:
    """The sums of a server's metrics, by name."""
    sums: defaultdict[str, float] = defaultdict(float)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=BOUND_S) as answer:
        for line in answer.read().decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                sums[name.partition("{")[0]] += float(value)
    return dict(sums)


@asynccontextmanager
async def served(
    directory: Path, receiver: Tally, *, pause_s: float, seed: int = 1, prepare: Callable[[Server], None] | None = None
) -> AsyncIterator[tuple[Server, subprocess.Popen[bytes]]]:
    """A real `tollgate serve` between an upstream and a receiver, which at the end stops as it should."""
    with receiver, Upstream(pause_s=pause_s, seed=seed) as upstream:
        server = await asyncio.to_thread(Server, directory, upstream, receiver)
        if prepare is not None:
            await asyncio.to_thread(prepare, server)
        with server.life() as process:
            yield server, process
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, BOUND_S) == 0


def delivery_faults(*, failed: int, lost: int, duplicates: int, loaded: Vitals, peak: Vitals) -> list[str]:
    """What went wrong while events waited, in words."""
    found = []
    if failed:
        found.append(f"{failed} requests failed")
    if lost or duplicates:
        found.append(f"{lost} lost, {duplicates} duplicates")
    if (growth := peak.rss_kib - loaded.rss_kib) > _GROWTH_MAX_KIB:
        found.append(f"memory grew by {growth} KiB")
    return found


def conclude(report: object, faults: list[str], fine: str) -> None:
    """Print what a run showed, and exit by it."""
    print(report)
    print("\n".join(faults) or fine)
    sys.exit(1 if faults else 0)
