from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path}/tollgate.db")
    made.create()
    return made


@pytest.fixture
def connection(database: Database) -> Iterator[sqlite3.Connection]:
    with closing(database.connect()) as made:
        yield made
