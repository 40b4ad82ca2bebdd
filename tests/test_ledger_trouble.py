"""A real server whose ledger gets into trouble: what clients see, what is kept, and how it heals."""

from __future__ import annotations

import json
import resource
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from proxy.store.backup import back_up
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.process import Process, command, process
from tests.running import wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.store.samples import rollups, settlements, sums_of_events
from tests.streams import ASK, PLAIN

CHAT = "/v1/chat/completions"
KEY = {"x-api-key": "ak_user1_abc123"}
SLOW = ASK | {"user": "slow"}
HEAL_S = 20.0


class World:
    """A server process on a ledger, with an upstream that keeps slow requests waiting."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, running: Process, release: threading.Event) -> None:
        self.folder = folder
        self.database = Database(f"sqlite:///{folder}/var/tollgate.db")
        self.running = running
        self.url = running.url
        self.answered: list[str] = []
        self._upstream = upstream
        self._release = release

    def ask(self, body: dict[str, object] = ASK) -> httpx.Response:
        said = httpx.post(self.url + CHAT, json=body, headers=KEY, timeout=30)
        if said.status_code == 200:
            assert said.content == PLAIN
            self.answered.append(said.headers["x-tollgate-request-id"])
        return said

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """One that was admitted before, and is answered after the end of this block."""
        count = len(self._upstream.requests)
        asking = threading.Thread(target=self.ask, args=(SLOW,))
        asking.start()
        wait_until(lambda: len(self._upstream.requests) > count)
        before = len(self.answered)
        try:
            yield
        finally:
            self._release.set()
            asking.join(HEAL_S)
        assert len(self.answered) == before + 1, "its answer was whole"

    def ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz").status_code == 200

    def refuses(self) -> None:
        """New requests are refused so that SDKs try again, and whoever balances the load looks elsewhere."""
        wait_until(lambda: not self.ready(), seconds=HEAL_S)
        refused = self.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert int(refused.headers["retry-after"]) > 0

    def heals(self) -> None:
        wait_until(self.ready, seconds=HEAL_S)
        assert self.ask().status_code == 200

    def imported(self) -> dict[str, int]:
        log = self.folder / "tollgate.log"
        found: dict[str, int] = json.loads(command(self.folder, "events", "import", str(log), "--json"))
        return found

    def recorded(self) -> list[str]:
        with closing(self.database.connect()) as connection:
            assert rollups(connection) == sums_of_events(connection)
            return [event_id for (event_id,) in connection.execute("SELECT id FROM events")]


@contextmanager
def world(folder: Path) -> Iterator[World]:
    release = threading.Event()

    def slow_if_asked(peer: Peer) -> None:
        while True:
            if b'"slow"' in peer.request().body:
                peer.wait(release)
            peer.send(answer(PLAIN, "content-type: application/json"))

    command(folder, "tenants", "create", "user-001")
    command(folder, "keys", "create", "user-001", "--import", KEY["x-api-key"])
    with (
        ScriptedUpstream(default=slow_if_asked) as upstream,
        process(folder, OPENAI_BASE_URL=f"{upstream.url}/v1") as running,
    ):
        yield World(folder, upstream, running, release)


Trouble = Callable[[World], Iterator[None]]


def locked(world: World) -> Iterator[None]:
    with closing(sqlite3.connect(world.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def full(world: World) -> Iterator[None]:
    """No file of the server may grow any more: to SQLite the same as a disk that is full."""
    pid, limits = world.running.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
    log = world.database.path.with_name("tollgate.db-wal")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def moved_away(world: World) -> Iterator[None]:
    path = world.database.path
    path.rename(path.with_name("away.db"))
    yield
    path.with_name("away.db").rename(path)


@pytest.mark.parametrize("trouble", [locked, full, moved_away])
def test_a_ledger_in_trouble_stops_new_requests_and_loses_none(tmp_path: Path, trouble: Trouble) -> None:
    with world(tmp_path) as server:
        for _ in range(10):
            assert server.ask().status_code == 200
        happening = trouble(server)
        with server.request_in_flight():
            next(happening)
        server.refuses()
        assert server.running.log.count('{"tollgate_settlement":') == 1
        assert len([line for line in server.running.log.splitlines() if "the ledger cannot be written" in line]) == 1
        assert next(happening, None) is None
        server.heals()
        assert server.imported() == {"imported": 1, "known": 0, "bad": 0}
        assert server.imported() == {"imported": 0, "known": 1, "bad": 0}
        assert sorted(server.recorded()) == sorted(server.answered)
        assert len(server.answered) == 12


def test_a_ledger_that_was_moved_while_nobody_asked_fails_the_probe(tmp_path: Path) -> None:
    with world(tmp_path) as server:
        happening = moved_away(server)
        next(happening)
        wait_until(lambda: not server.ready())
        assert next(happening, None) is None
        server.heals()
        assert sorted(server.recorded()) == server.answered


def test_a_write_ahead_log_that_was_deleted_takes_nothing_along(tmp_path: Path) -> None:
    with world(tmp_path) as server:
        for _ in range(3):
            server.ask()
        server.database.path.with_name("tollgate.db-wal").unlink()
        wait_until(lambda: "-wal was deleted while in use" in server.running.log)
        for _ in range(3):
            assert server.ask().status_code == 200
        server.running.stop(signal.SIGKILL)
        assert sorted(server.recorded()) == sorted(server.answered)
        assert len(server.answered) == 6


def garble(path: Path) -> None:
    """Overwrite the second half."""
    size = path.stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(size)
        file.write(b"\xa5" * size)


def test_a_ledger_that_is_damaged_stops_until_a_backup_takes_its_place(tmp_path: Path) -> None:
    ledger = Database(f"sqlite:///{tmp_path}/var/tollgate.db")
    ledger.create()
    with ledger.transaction() as connection:
        record(connection, settlements(5_000))
    with world(tmp_path) as server:
        back_up(ledger, tmp_path / "backup.db")
        with server.request_in_flight():
            garble(ledger.path)
        server.refuses()
        assert "database disk image is malformed" in server.running.log
        # It stays so: what is damaged is not tried again and again with requests that are then not recorded.
        for _ in range(3):
            server.refuses()
        assert server.running.log.count('{"tollgate_settlement":') == 1
        for end in ("-wal", "-shm"):
            ledger.path.with_name(ledger.path.name + end).unlink()
        (tmp_path / "backup.db").rename(ledger.path)
        server.heals()
        assert server.imported()["imported"] == 1
        assert len(server.recorded()) == 5_002


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b"\xa5" * 4_096 + path.read_bytes()[4_096:]),
        lambda path: path.write_bytes(path.read_bytes()[:4_096].ljust(path.stat().st_size, b"\xa5")),
    ],
    ids=["cut", "first page", "all but the first page"],
)
def test_a_start_on_a_damaged_ledger_fails_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    command(tmp_path, "tenants", "create", "user-001")
    damage(tmp_path / "var" / "tollgate.db")
    with process(tmp_path) as running:
        assert running.process.wait(HEAL_S) != 0
        (line,) = running.log.splitlines()
    assert line.startswith("tollgate: database_url: ")
    assert "restore a backup" in line
