from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.turn import Turn


def test_one_writes_at_a_time_and_the_next_waits(tmp_path: Path) -> None:
    with closing(Turn(tmp_path / "ledger")) as first, closing(Turn(tmp_path / "ledger")) as second:
        took = threading.Event()

        def write() -> None:
            with second:
                took.set()

        waiting = threading.Thread(target=write)
        with first:
            waiting.start()
            assert not took.wait(0.05)
        assert took.wait(5)
        waiting.join(5)
        with first:
            pass


def test_where_there_can_be_no_file_the_ledger_is_in_trouble(tmp_path: Path) -> None:
    turn = Turn(tmp_path / "missing" / "ledger")
    with pytest.raises(sqlite3.OperationalError, match="ledger-turn"), turn:
        pass
    turn.close()
