"""The end of a real server: what is under way is served, what is cut is settled, what was settled is delivered."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from proxy.model import Outcome, Settlement, UsageSource
from proxy.store import ledger
from proxy.store.database import Database
from proxy.store.tenants import create_key, create_tenant
from tests.crash.world import KINDS, request_of
from tests.delivery.receiver import Answer, Receiver
from tests.process import Process, command, process
from tests.raw import RawClient, unchunked, unchunked_part
from tests.running import wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, ASK_STREAM, DONE, PLAIN, SSE_HEAD, STREAM_WITHOUT, USAGE_EVENT, chunk, text

CHAT = "/v1/chat/completions"
KEY = "ak_user1_abc123"
END_S = 20.0
SIGNALS = [
    (signal.SIGTERM, signal.SIGTERM),
    (signal.SIGINT, signal.SIGINT),
    (signal.SIGTERM, signal.SIGINT),
]


class World:
    """A ledger and what stands around it, from one life of the server to the next."""

    def __init__(self, folder: Path) -> None:
        self.upstream = ScriptedUpstream(default=self._answers)
        self.receiver = Receiver()
        self.go_on = threading.Event()
        self._folder = folder
        self._lives = 0
        self.database = Database(f"sqlite:///{folder}/tollgate.db")
        self.database.create()
        with self.database.transaction() as connection:
            create_tenant(connection, "user-001", now_ms=0)
            create_key(connection, "user-001", secret=KEY, now_ms=0)

    def _answers(self, peer: Peer) -> None:
        """With the second half of a stream, or all of a plain answer, when the test says go on."""
        while True:
            if b'"stream"' in peer.request().body:
                peer.send(SSE_HEAD + chunk(text("Hel", usage=None)))
                peer.wait(self.go_on)
                peer.send(chunk(b": ping\n\n" + text("lo", usage=None)) + chunk(USAGE_EVENT + DONE) + chunk(b""))
            else:
                peer.wait(self.go_on)
                head, _, body = answer(PLAIN, "content-type: application/json").partition(b"\r\n\r\n")
                peer.send(head + b"\r\n\r\n")
                time.sleep(0.05)  # so that the head goes on alone, as it does where its body is not there yet
                peer.send(body)

    @contextmanager
    def life(self, **settings: str) -> Iterator[Process]:
        self._lives += 1
        folder = self._folder / f"life {self._lives}"
        folder.mkdir(parents=True)
        environment = {
            "OPENAI_BASE_URL": f"{self.upstream.url}/v1",
            "KONNECT_API_URL": self.receiver.base_url,
            "TOLLGATE_DATABASE_URL": f"sqlite:///{self.database.path}",
            "TOLLGATE_SINK__RETRY_MAX_S": "0.5",
        }
        with process(folder, **environment, **settings) as running:
            assert running.url
            yield running
        assert "Traceback" not in running.log

    def client(self, running: Process) -> RawClient:
        return RawClient(httpx.URL(running.url).port or 0)

    def asking(self, running: Process, body: object, *headers: str) -> RawClient:
        """A client whose request has arrived at the upstream."""
        count = len(self.upstream.requests)
        client = self.client(running)
        client.post(CHAT, KEY, body, *headers)
        wait_until(lambda: len(self.upstream.requests) > count)
        return client

    def settlements(self) -> list[Settlement]:
        with closing(self.database.connect()) as connection:
            return [one.settlement for one in ledger.newest(connection, limit=100)]

    def settlement(self) -> Settlement:
        (only,) = self.settlements()
        return only

    def all_is_delivered(self) -> bool:
        """What is in the ledger has been taken, each once, and nothing else."""
        ids = sorted(event["id"] for event in self.receiver.taken)
        return ids == sorted(one.id for one in self.settlements())

    def imported(self) -> dict[str, int]:
        """Of what the server has written to standard error instead of the ledger."""
        options = {"TOLLGATE_DATABASE_URL": f"sqlite:///{self.database.path}"}
        log = self._folder / f"life {self._lives}" / "tollgate.log"
        found: dict[str, int] = json.loads(command(self._folder, "events", "import", str(log), "--json", **options))
        return found

    def next_life_delivers(self, count: int) -> None:
        with self.life() as running:
            wait_until(lambda: len(self.receiver.accepted) >= count and self.all_is_delivered())
            assert running.stop() == 0
        assert len(self.settlements()) == count
        assert self.all_is_delivered()
        assert not [*self._folder.glob("tollgate.db-holds-*")]


@contextmanager
def new_world(folder: Path) -> Iterator[World]:
    made = World(folder)
    with made.upstream, made.receiver:
        yield made


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with new_world(tmp_path) as made:
        yield made


def refuses(running: Process) -> bool:
    url = httpx.URL(running.url)
    try:
        socket.create_connection((url.host, url.port or 0)).close()
    except ConnectionError:
        return True
    return False


def stops(running: Process, number: signal.Signals = signal.SIGTERM) -> None:
    """The signal has come, and is heeded."""
    running.process.send_signal(number)
    wait_until(lambda: refuses(running))


def ends(running: Process) -> int:
    return running.process.wait(END_S)


@contextmanager
def locked(world: World) -> Iterator[None]:
    with closing(sqlite3.connect(world.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


# Within the grace period


def test_a_stream_is_finished_and_delivered_before_the_end_and_nobody_new_is_let_in(world: World) -> None:
    with world.life() as running, world.asking(running, ASK_STREAM) as client:
        client.read_until(text("Hel"))
        stops(running)
        world.go_on.set()
        assert unchunked(client.read_until(b"\r\n0\r\n\r\n")) == STREAM_WITHOUT
        assert ends(running) == 0
        assert client.read_to_end().endswith(b"\r\n0\r\n\r\n")
    assert world.settlement().outcome is Outcome.COMPLETED
    assert world.settlement().usage.total_tokens == 13
    assert world.all_is_delivered()


def test_an_answer_that_is_read_on_without_its_client_is_read_to_its_end(world: World) -> None:
    with world.life() as running:
        with world.asking(running, ASK_STREAM) as client:
            client.read_until(text("Hel"))
        wait_until(lambda: "answers_draining 1.0" in httpx.get(f"{running.url}/metrics").text)
        stops(running)
        world.go_on.set()
        assert ends(running) == 0
    event = world.settlement()
    assert (event.outcome, event.usage_source) == (Outcome.CLIENT_DISCONNECTED, UsageSource.REPORTED)
    assert world.all_is_delivered()


def test_a_client_that_was_told_to_go_on_is_served_once_more_after_its_stream(world: World) -> None:
    with world.life() as running, world.asking(running, ASK_STREAM) as client:
        client.read_until(text("Hel"))
        stops(running)
        world.go_on.set()
        first = client.read_until(b"\r\n0\r\n\r\n")
        client.post(CHAT, KEY, ASK)
        last = client.read_to_end().removeprefix(first)
        assert b"connection: close" in last
        assert last.endswith(PLAIN)
        assert ends(running) == 0
    assert len(world.settlements()) == 2
    assert world.all_is_delivered()


@pytest.mark.parametrize("cut", [b"POST /v1/chat", b'{"model"'], ids=["in its head", "in its body"])
def test_a_request_under_way_on_a_kept_connection_is_served_however_slow(world: World, cut: bytes) -> None:
    world.go_on.set()
    with world.life() as running, world.asking(running, ASK) as client, world.client(running) as idle:
        client.read_until(PLAIN)
        request = request_of(KEY, KINDS["chat"], 1)
        at = request.index(cut) + len(cut)
        client.send(request[:at])
        stops(running)
        assert idle.read_to_end() == b""  # those on which nothing comes are closed
        client.send(request[at:])
        first, _, last = client.read_to_end().partition(PLAIN)
        assert b"connection: close" not in first
        assert b"connection: close" in last
        assert last.endswith(PLAIN)
        assert ends(running) == 0
    assert len(world.settlements()) == 2
    assert world.all_is_delivered()


def test_those_who_wait_to_be_accepted_are_served(world: World) -> None:
    world.go_on.set()
    with world.life() as running:
        running.process.send_signal(signal.SIGSTOP)
        clients = [world.client(running) for _ in range(20)]
        for client in clients:
            client.post(CHAT, KEY, ASK)
        time.sleep(0.2)  # so that its clock wakes it before it could accept them
        running.process.send_signal(signal.SIGTERM)
        running.process.send_signal(signal.SIGCONT)
        for client in clients:
            with client:
                assert client.read_to_end().endswith(PLAIN)
        assert ends(running) == 0
    assert len(world.settlements()) == 20
    assert world.all_is_delivered()


# Beyond it


def test_what_outlasts_the_grace_period_is_cut_settled_and_delivered(world: World) -> None:
    with (
        world.life(TOLLGATE_SERVER__SHUTDOWN_GRACE_S="1") as running,
        world.asking(running, ASK_STREAM) as stream,
        world.asking(running, ASK) as plain,
        world.asking(running, ASK_STREAM) as left,
    ):
        stream.read_until(text("Hel"))
        left.reset()
        stops(running)
        assert unchunked_part(stream.read_to_end().partition(b"\r\n\r\n")[2]) == text("Hel")
        assert not stream.received.endswith(b"0\r\n\r\n")
        assert plain.read_to_end().startswith(b"HTTP/1.1 503 ")
        assert ends(running) == 0
    gone, cut, unanswered = sorted(world.settlements(), key=lambda one: (one.outcome, one.status))
    assert (gone.outcome, gone.usage_source) == (Outcome.CLIENT_DISCONNECTED, UsageSource.ESTIMATED)
    assert (cut.outcome, cut.usage_source, cut.status) == (Outcome.SHUTDOWN, UsageSource.ESTIMATED, 200)
    assert cut.usage.text_output > 0
    assert (unanswered.outcome, unanswered.usage_source) == (Outcome.SHUTDOWN, UsageSource.NONE)
    assert world.all_is_delivered()


@pytest.mark.parametrize(("first", "second"), SIGNALS)
def test_a_second_signal_ends_it_at_once_and_loses_nothing(
    world: World, first: signal.Signals, second: signal.Signals
) -> None:
    with (
        world.life(TOLLGATE_SERVER__SHUTDOWN_GRACE_S="600") as running,
        world.asking(running, ASK_STREAM) as stream,
        world.asking(running, ASK),
        world.asking(running, ASK_STREAM) as left,
    ):
        stream.read_until(text("Hel"))
        left.reset()
        stops(running, first)
        running.process.send_signal(second)
        assert ends(running) == -second
    assert not world.settlements()
    world.next_life_delivers(3)
    assert {event.outcome for event in world.settlements()} == {Outcome.INTERRUPTED}


# The sink and the ledger


def end_without_a_sink(folder: Path, *, hangs: bool) -> None:
    with new_world(folder) as world:
        world.go_on.set()
        if hangs:
            world.receiver.judge = lambda _: Answer(503, delay_s=60, takes=False)
        else:
            world.receiver.stop()
        with world.life() as running, world.asking(running, ASK) as client:
            client.read_until(PLAIN)
            stops(running)
            assert ends(running) == 0
        assert bool(world.receiver.received) == hangs
        assert not world.receiver.taken
        world.receiver.judge = None
        world.receiver.start()
        world.next_life_delivers(1)


def test_a_sink_that_is_down_or_hangs_holds_the_end_for_a_moment_and_gets_all_later(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as both:  # side by side, because each waits for its deadline
        down = both.submit(end_without_a_sink, tmp_path / "down", hangs=False)
        hanging = both.submit(end_without_a_sink, tmp_path / "hanging", hangs=True)
        down.result()
        hanging.result()


def test_a_sink_that_is_slow_gets_what_was_settled_before_the_end(world: World) -> None:
    world.go_on.set()
    world.receiver.judge = lambda _: Answer(delay_s=0.1)
    with (
        world.life(TOLLGATE_SINK__BATCH_MAX="1") as running,
        httpx.Client(base_url=running.url, headers={"x-api-key": KEY}) as client,
    ):
        for _ in range(10):
            assert client.post(CHAT, json=ASK).content == PLAIN
        assert not world.all_is_delivered()
        assert running.stop() == 0
    assert len(world.settlements()) == 10
    assert world.all_is_delivered()


def test_a_ledger_that_is_locked_for_a_while_delays_the_last_bytes(world: World) -> None:
    with world.life() as running, world.asking(running, ASK) as client:
        with locked(world):
            world.go_on.set()
            stops(running)
            client.read_until(b"\r\n\r\n")
            assert client.is_silent(0.5)
            assert PLAIN not in client.received
        assert client.read_to_end().endswith(PLAIN)
        assert ends(running) == 0
    assert world.settlement().outcome is Outcome.COMPLETED
    assert world.all_is_delivered()


def test_a_second_signal_while_the_ledger_is_locked_loses_nothing(world: World) -> None:
    with world.life() as running, world.asking(running, ASK) as client, locked(world):
        world.go_on.set()
        client.read_until(b"\r\n\r\n")
        assert client.is_silent(0.3)
        stops(running)
        running.process.send_signal(signal.SIGTERM)
        assert ends(running) == -signal.SIGTERM
    world.next_life_delivers(1)


def test_a_second_signal_after_the_cut_loses_nothing_that_waits_for_the_ledger(world: World) -> None:
    with (
        world.life(TOLLGATE_SERVER__SHUTDOWN_GRACE_S="1") as running,
        world.asking(running, ASK) as client,
        locked(world),
    ):
        world.go_on.set()
        client.read_until(b"\r\n\r\n")
        assert client.is_silent(0.3)
        stops(running)
        wait_until(lambda: "Cancel 1 running task" in running.log)
        running.process.send_signal(signal.SIGTERM)
        assert ends(running) == -signal.SIGTERM
    world.next_life_delivers(1)


def test_what_is_cut_while_the_ledger_is_locked_is_left_to_be_imported(world: World) -> None:
    with (
        world.life(TOLLGATE_SERVER__SHUTDOWN_GRACE_S="1") as running,
        world.asking(running, ASK_STREAM) as client,
    ):
        with locked(world):
            client.read_until(text("Hel"))
            stops(running)
            wait_until(lambda: '{"tollgate_settlement":' in running.log)
        client.read_to_end()
        world.go_on.set()
        assert ends(running) == 0
    assert not world.settlements()
    assert world.imported() == {"imported": 1, "known": 0, "bad": 0}
    world.next_life_delivers(1)
    assert world.settlement().outcome is Outcome.SHUTDOWN
