from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from proxy.store import others as watching
from proxy.store.database import Database, begin
from proxy.store.ledger import record
from proxy.store.others import Others, last_row
from tests.store.samples import settlement, settlements


def write(connection: sqlite3.Connection, *ids: str) -> None:
    with begin(connection):
        record(connection, [settlement(one) for one in ids])


def own(others: Others, connection: sqlite3.Connection, *ids: str) -> None:
    """As the writer does it."""
    with begin(connection):
        others.look(connection)
        record(connection, [settlement(one) for one in ids])
        last = last_row(connection)
    others.committed(last)


def ids(others: Others) -> list[list[str] | None]:
    return [None if found is None else [one.id for one in found] for found in others.news()]


def test_what_others_record_is_told_once_and_what_is_ours_never(database: Database) -> None:
    others = Others()
    with closing(database.connect()) as ours, closing(database.connect()) as theirs:
        write(theirs, "before we began")
        own(others, ours, "a")
        own(others, ours, "b")
        assert ids(others) == []
        write(theirs, "x", "y")
        own(others, ours, "c")
        assert ids(others) == [["x", "y"]]
        others.look(ours)
        own(others, ours, "d")
        assert ids(others) == []
        write(theirs, "z")
        others.look(ours)
        assert ids(others) == [["z"]]


def test_a_commit_of_others_without_an_event_is_nothing_new(database: Database) -> None:
    others = Others()
    with closing(database.connect()) as ours, closing(database.connect()) as theirs:
        own(others, ours, "a")
        theirs.execute("UPDATE revision SET number = number + 1")
        own(others, ours, "b")
        assert ids(others) == []


def test_what_was_recorded_while_the_ledger_was_out_of_reach_is_told(database: Database) -> None:
    others = Others()
    with closing(database.connect()) as ours, closing(database.connect()) as theirs:
        own(others, ours, "a")
        write(theirs, "x")
    with closing(database.connect()) as again:
        own(others, again, "b")
        assert ids(others) == [["x"]]


def test_a_ledger_with_less_in_it_or_a_great_many_new_ones_is_to_be_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_ROWS_MAX", 10)
    others = Others()
    with closing(database.connect()) as ours, closing(database.connect()) as theirs:
        own(others, ours, "a", "b")
        with begin(theirs):
            record(theirs, settlements(11))
        own(others, ours, "c")
        assert ids(others) == [None]
        theirs.execute("DELETE FROM events WHERE seq > 1")
        others.look(ours)
        assert ids(others) == [None]


def test_a_transaction_that_failed_leaves_what_is_known(database: Database) -> None:
    others = Others()
    with closing(database.connect()) as ours, closing(database.connect()) as theirs:
        own(others, ours, "a")
        with pytest.raises(sqlite3.IntegrityError):
            own(others, ours, "b", "a")
        write(theirs, "x")
        own(others, ours, "b")
        assert ids(others) == [["x"]]
