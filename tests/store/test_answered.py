from __future__ import annotations

import sqlite3
from contextlib import suppress

import pytest

from proxy.errors import StoreError
from proxy.store.answered import answered, note
from proxy.store.database import begin

NOW_MS = 1_776_076_200_123
DAY_MS = 86_400_000


def test_what_was_answered_is_answered_again_to_the_same_request_alone(connection: sqlite3.Connection) -> None:
    assert answered(connection, "key-1", b"asked") is None
    note(connection, "key-1", b"asked", '{"id":"acme"}', NOW_MS)
    assert answered(connection, "key-1", b"asked") == '{"id":"acme"}'
    assert answered(connection, "key-2", b"asked") is None
    with pytest.raises(StoreError, match="key-1 stood for another request"):
        answered(connection, "key-1", b"asked otherwise")


def test_it_is_forgotten_after_a_day(connection: sqlite3.Connection) -> None:
    note(connection, "key-1", b"asked", "{}", NOW_MS)
    note(connection, "key-2", b"asked", "{}", NOW_MS + DAY_MS)
    assert answered(connection, "key-1", b"asked") == "{}"
    note(connection, "key-3", b"asked", "{}", NOW_MS + DAY_MS + 1)
    assert answered(connection, "key-1", b"asked") is None
    assert answered(connection, "key-2", b"asked") == "{}"


def test_it_is_noted_with_the_change_or_not_at_all(connection: sqlite3.Connection) -> None:
    with suppress(RuntimeError), begin(connection):
        note(connection, "key-1", b"asked", "{}", NOW_MS)
        raise RuntimeError
    assert answered(connection, "key-1", b"asked") is None
