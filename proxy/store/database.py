"""SQLite: the file, its pragmas, its migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

from proxy.errors import ConfigurationError, StoreError

#: How long a write waits for another process's (the command line's, another worker's).
_BUSY_MS = 5_000
_SCHEME = "sqlite:///"


class Database:
    """A SQLite file in WAL mode. Every commit is on disk when it returns (`synchronous=FULL`)."""

    def __init__(self, url: str) -> None:
        """`url` is `sqlite:///relative/path` or `sqlite:////absolute/path`. Raises `ConfigurationError`."""
        if not url.startswith(_SCHEME) or url == _SCHEME:
            raise ConfigurationError(
                f"database_url: {url.split(':', 1)[0]!r} is not supported yet; write sqlite:///path/to/file.db"
            )
        self.path = Path(url.removeprefix(_SCHEME))

    def create(self) -> None:
        """Make the file and bring its schema up to date. Raises `ConfigurationError` where that is impossible."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self.connect()) as connection:
                migrate(connection)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"database_url: {self.path}: {error}") from None

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        """A connection for use by one thread at a time."""
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction on a connection of its own, for the command line."""
        with closing(self.connect()) as connection, begin(connection):
            yield connection


@contextmanager
def begin(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end, rolled back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def migrations() -> list[str]:
    """The migrations' SQL, oldest first. The number of those applied is the file's `user_version`."""
    folder = files("proxy.store") / "migrations"
    scripts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [script.read_text("utf-8") for script in scripts]


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the migrations that are missing, each in a transaction. Raises `StoreError` for a newer file."""
    scripts = migrations()
    with begin(connection):  # two servers that start at once migrate one after the other
        applied = connection.execute("PRAGMA user_version").fetchone()[0]
        if applied > len(scripts):
            raise StoreError(f"the database has schema {applied}, this version of Tollgate knows {len(scripts)}")
        for number, script in enumerate(scripts[applied:], applied + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit the transaction it is called in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
