"""That every query is valid is tested in `test_queries`; here, that keys and tenants are found without a walk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store import accounts
from proxy.store.database import Database
from tests.store.test_queries import plan


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with closing(database.connect()) as made:
        yield made


@pytest.mark.parametrize(
    "name", ["TENANT", "KEY", "CALLER", "LIMITS_OF", "TOP_UP_SUMS", "DECLARED_STATE", "KEY_OWNER", "ANSWERED"]
)
def test_what_is_asked_for_by_name_is_searched_for(connection: sqlite3.Connection, name: str) -> None:
    assert plan(connection, getattr(accounts, name)).startswith("SEARCH")
