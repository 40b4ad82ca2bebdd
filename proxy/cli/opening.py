"""What every command begins with: the settings and the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from proxy import settings
from proxy.errors import ConfigurationError, StoreError
from proxy.settings import Settings
from proxy.store.database import Database

#: Here the path is at fault; a file that is locked, read-only or on a full disk may be all right in a minute.
_WRONG_PATH = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB)
_PRIMARY_CODE = 0xFF


def open_store() -> tuple[Settings, Database]:
    """The settings, and the store with its schema up to date. Raises `ConfigurationError` and `StoreError`."""
    loaded = settings.load()
    database = Database(loaded.database_url)
    try:
        database.create()
    except ConfigurationError as error:
        cause = error.__context__
        if isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & _PRIMARY_CODE not in _WRONG_PATH:
            raise StoreError(str(error)) from None
        raise
    return loaded, database


@contextmanager
def reading(database: Database) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, with one view of the data from its first read on."""
    with closing(database.connect(read_only=True)) as connection:
        connection.execute("BEGIN")
        yield connection
