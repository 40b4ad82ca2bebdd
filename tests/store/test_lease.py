from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.store.lease import FileLease

#: Takes the lease, says so, and keeps it until its end.
_KEEPS = """
import sys
from pathlib import Path
from proxy.store.lease import FileLease
lease = FileLease(Path(sys.argv[1]))
print(lease.acquire(), flush=True)
sys.stdin.read()
"""


def test_one_has_it_and_the_next_when_it_is_released(tmp_path: Path) -> None:
    first, second = FileLease(tmp_path / "ledger.db"), FileLease(tmp_path / "ledger.db")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    assert not first.acquire()
    second.release()


def test_leases_of_two_ledgers_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    first, second = FileLease(tmp_path / "a.db"), FileLease(tmp_path / "b.db")
    assert first.acquire()
    assert second.acquire()
    first.release()
    second.release()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_lets_go_of_it(tmp_path: Path, number: signal.Signals) -> None:
    ledger = tmp_path / "ledger.db"
    with subprocess.Popen(
        [sys.executable, "-c", _KEEPS, str(ledger)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        mine = FileLease(ledger)
        assert not mine.acquire()
        other.send_signal(number)
        other.wait()
        assert mine.acquire()
        mine.release()


def test_a_file_that_was_deleted_or_replaced_is_nobodys_lock(tmp_path: Path) -> None:
    first, second = FileLease(tmp_path / "ledger.db"), FileLease(tmp_path / "ledger.db")
    assert first.acquire()
    (tmp_path / "ledger.db-relay").unlink()
    assert second.acquire()  # the first will see that it has lost it before its next batch
    assert not first.acquire()
    second.release()
    assert first.acquire()
    first.release()


def test_the_file_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    lease = FileLease(tmp_path / "ledger.db")
    lease.acquire()
    lease.release()
    assert (tmp_path / "ledger.db-relay").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_is_gone_is_the_stores_trouble(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match=r"ledger\.db-relay: No such file"):
        FileLease(tmp_path / "gone" / "ledger.db").acquire()


def test_the_rights_to_two_things_are_apart(tmp_path: Path) -> None:
    first, second = FileLease(tmp_path / "a.db"), FileLease(tmp_path / "a.db", "webhooks")
    assert first.acquire()
    assert second.acquire()
    assert not FileLease(tmp_path / "a.db", "webhooks").acquire()
    first.release()
    second.release()
