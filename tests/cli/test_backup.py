from __future__ import annotations

import resource
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from proxy.store import ledger
from proxy.store.database import Database
from tests.cli.conftest import Command, clean_environment, settlement
from tests.delivery.receiver import Receiver
from tests.process import command, process
from tests.running import wait_until
from tests.store.samples import rollups, sums_of_events
from tests.streams import ASK


def test_a_backup_says_where_it_is_and_replaces_nothing_unasked(tollgate: Command, tmp_path: Path) -> None:
    tollgate.record(settlement("req_1"))
    assert "copy.db holds the ledger" in tollgate.done("backup", "copy.db")
    assert "copy.db exists already" in tollgate.refused("backup", "copy.db")
    told = tollgate.json("backup", "copy.db", "--force")
    assert told["bytes"] == (tmp_path / "copy.db").stat().st_size


def test_where_there_is_no_ledger_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no ledger at var/tollgate.db" in Command(tmp_path).refused("backup", "copy.db")
    assert [*tmp_path.iterdir()] == []


def test_a_disk_that_fills_leaves_no_part_of_a_file(tollgate: Command, tmp_path: Path) -> None:
    tollgate.record(*(settlement(f"req_{number}") for number in range(2_000)))
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "backup", "copy.db"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        # No file may grow beyond this: to SQLite the same as a disk that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tollgate: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["var"]


def test_a_backup_under_load_is_restored_elsewhere_with_all_that_was_committed_before(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (there / "var").mkdir(parents=True)
    with Receiver() as receiver:
        variables = {"KONNECT_API_URL": receiver.base_url, "TOLLGATE_SINK__LINGER_S": "0"}
        with process(here, **variables) as server:
            url = server.url
            command(here, "tenants", "create", "user-001", **variables)
            key = command(here, "keys", "create", "user-001", "--import", "ak_user1_abc123", **variables)
            assert key
            answered: list[str] = []
            stopping = threading.Event()

            def ask() -> None:
                with httpx.Client(headers={"x-api-key": "ak_user1_abc123"}) as client:
                    while not stopping.is_set():
                        answer = client.post(f"{url}/v1/chat/completions", json=ASK)
                        assert answer.status_code == 200
                        answered.append(answer.headers["x-tollgate-request-id"])

            clients = [threading.Thread(target=ask) for _ in range(4)]
            for client in clients:
                client.start()
            wait_until(lambda: len(answered) > 50)
            before = set(answered)
            command(here, "backup", str(there / "var" / "tollgate.db"), **variables)
            wait_until(lambda: len(answered) > len(before) + 10)
            stopping.set()
            for client in clients:
                client.join()
            wait_until(lambda: set(answered) <= set(receiver.accepted_ids))
        taken = len(receiver.taken)
        restored = Database(f"sqlite:///{there}/var/tollgate.db")
        with closing(restored.open()) as connection:
            copied = {one.settlement.id for one in ledger.newest(connection, limit=100_000)}
            pending = {id_ for (id_,) in connection.execute("SELECT id FROM events WHERE state = 'pending'")}
            # As one that was made while the sink was down: all of them go out once more.
            connection.execute("UPDATE events SET state = 'pending', delivered_ms = NULL")
            assert rollups(connection) == sums_of_events(connection)
        assert before <= copied <= set(answered)
        assert pending <= copied
        with process(there, **variables) as server:
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": "ak_user1_abc123"})
            assert answer.status_code == 200
            again = {*copied, answer.headers["x-tollgate-request-id"]}
            wait_until(lambda: again <= {event["id"] for event in receiver.taken[taken:]})
        assert len(receiver.taken) > len(receiver.accepted), "repeats came, and were dropped by their ids"
        assert set(receiver.accepted_ids) == set(answered) | again
