"""SQLite: the file, its pragmas, its migrations."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from proxy.errors import ConfigurationError, StoreError

log = logging.getLogger(__name__)

#: How long a write waits for another process's (the command line's, another worker's).
_BUSY_MS = 5_000
_WAL_RETRY_S = 0.01
#: What is left of the write-ahead log, at most, once all of it is in the file. A long reader lets it grow.
_LOG_BYTES_MAX = 16 * 1024 * 1024
_SCHEME = "sqlite:///"

#: What to do about a file that is damaged.
RESTORE = "if it is your ledger, stop every server on it and restore a backup (docs/operating.md, Backup and restore)"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY_CODE = 0xFF

_File = tuple[int, int]


class Database:
    """A SQLite file in WAL mode. Every commit is on disk when it returns (`synchronous=FULL`)."""

    def __init__(self, url: str, *, busy_ms: int = _BUSY_MS) -> None:
        """`url` is `sqlite:///relative/path` or `sqlite:////absolute/path`. Raises `ConfigurationError`."""
        if not url.startswith(_SCHEME) or url == _SCHEME:
            raise ConfigurationError(
                f"database_url: {url.split(':', 1)[0]!r} is not supported yet; write sqlite:///path/to/file.db"
            )
        if "?" in url:
            raise ConfigurationError("database_url: options after a ? are not supported; write sqlite:///path/to/file")
        self.path = Path(url.removeprefix(_SCHEME))
        self._name = str(self.path)
        self._log_name = f"{self._name}-wal"
        self._busy_ms = busy_ms

    def create(self) -> None:
        """Make the file and bring its schema up to date. Raises `ConfigurationError` where that is impossible."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else's to read: it holds who used what. SQLite gives its other files the same mode.
            os.close(os.open(self.path, os.O_RDONLY | os.O_CREAT, 0o600))
            with closing(self.open()) as connection:
                self._switch_to_wal(connection)
                migrate(connection)
        except (OSError, ValueError, sqlite3.Error, StoreError) as error:
            words = f"{error}; {RESTORE}" if is_damage(error) else str(error)
            raise ConfigurationError(f"database_url: {self.path}: {words}") from None

    def connect(self, *, read_only: bool = False, busy_ms: int | None = None) -> sqlite3.Connection:
        """A connection for use by one thread at a time. Raises `sqlite3.Error`, also where `create` was not called."""
        connection = self.open(busy_ms)
        try:
            schema, expected = _schema_of(connection), len(migrations())
            if schema != expected:
                raise sqlite3.OperationalError(f"the file has schema {schema}, not {expected}")
            if read_only:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def identity(self) -> _File:
        """Which file it is that the path names just now. Raises `sqlite3.OperationalError` where there is none."""
        return _file(self._stat())

    def log_identity(self) -> _File | None:
        """Which file is its write-ahead log just now; None where there is none."""
        try:
            return _file(os.stat(self._log_name))  # noqa: PTH116 (see `_stat`)
        except OSError:
            return None

    def stamp(self) -> tuple[int, ...]:
        """Changes when another file takes the place, or this one is written. Raises `sqlite3.OperationalError`."""
        found = self._stat()
        return *_file(found), found.st_size, found.st_mtime_ns

    def _stat(self) -> os.stat_result:
        try:
            return os.stat(self._name)  # noqa: PTH116 (before every commit: half the time of Path.stat)
        except OSError as error:
            raise sqlite3.OperationalError(f"{self.path}: {error.strerror}") from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write transaction on a connection of its own, for the command line."""
        with closing(self.connect()) as connection, begin(connection):
            yield connection

    def open(self, busy_ms: int | None = None) -> sqlite3.Connection:
        """A connection whatever schema the file has. Raises `sqlite3.Error`."""
        # Never creating: a file that was deleted under a running server must not come back empty.
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout = {self._busy_ms if busy_ms is None else busy_ms}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES_MAX}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        """The file stays in WAL mode once it is. Of two servers that start at once, one finds it busy at this."""
        deadline = time.monotonic() + self._busy_ms / 1000
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:  # the busy timeout does not hold for this pragma
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_WAL_RETRY_S)
            else:
                if mode != "wal":
                    raise sqlite3.OperationalError("its file system cannot hold a write-ahead log")
                return


class Link:
    """A connection that is opened when it is needed, and anew where the path names another file by then.

    SQLite itself goes on with a file that was deleted, and all that is written to it is lost. So it is with its
    write-ahead log, which holds the newest commits; what stands in a deleted one is saved into the file here.
    """

    def __init__(self, database: Database, *, read_only: bool = False, busy_ms: int | None = None) -> None:
        self._database = database
        self._read_only = read_only
        self._busy_ms = busy_ms
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._log: _File | None = None
        self._is_unsaved = False
        #: The file as it was when it was found to be damaged. It is not touched again before it has changed.
        self._damaged: tuple[int, ...] | None = None

    def connection(self) -> sqlite3.Connection:
        """The connection to the file that the path names now. Raises `sqlite3.Error`, also where the file is gone."""
        if self._damaged is not None:
            if self._damaged == self._database.stamp():
                raise sqlite3.DatabaseError(f"{self._database.path} is damaged; {RESTORE}")
            self._damaged = None
        identity = self._database.identity()
        if self._connection is not None and identity != self._identity:
            log.warning("%s was replaced, and the new file is used from now on", self._database.path)
            self.close()
        elif self._connection is not None and not self._read_only and self._database.log_identity() != self._log:
            self._save_log(self._connection)
            self.close()
        if self._connection is None:
            self._connection = self._database.connect(read_only=self._read_only, busy_ms=self._busy_ms)
            self._identity = identity
            self._log = self._database.log_identity()
        return self._connection

    def close(self) -> None:
        """Close the connection; `connection` opens it again."""
        connection, self._connection, self._is_unsaved = self._connection, None, False
        if connection is not None:
            connection.close()

    def fail(self, error: Exception) -> None:
        """The connection has failed so: the next one is new, if there is to be one."""
        if not self._is_unsaved:
            self.close()
        if is_damage(error):
            with suppress(sqlite3.Error):  # it is gone, which will be seen
                self._damaged = self._database.stamp()

    def _save_log(self, connection: sqlite3.Connection) -> None:
        """Copy what stands in the deleted log into the file. Until that is done the connection is held on to."""
        if not self._is_unsaved:
            log.error("%s-wal was deleted while in use; what stands in it is saved now", self._database.path)
        self._is_unsaved = True
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("its -wal file was deleted, and cannot be saved while another process reads")
        self._is_unsaved = False


def is_damage(error: Exception) -> bool:
    """Whether SQLite found that the file's content cannot be right."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY_CODE in _DAMAGE


@contextmanager
def begin(connection: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed at the end, rolled back on any exception, also one of the commit itself."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):  # the first error says more
                connection.execute("ROLLBACK")
        raise


@contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """A part of a transaction that is undone alone on any exception."""
    connection.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk ends the whole transaction
            connection.execute("ROLLBACK TO part")
            connection.execute("RELEASE part")
        raise
    connection.execute("RELEASE part")


def migrations() -> list[str]:
    """The migrations' SQL, oldest first. The number of those applied is the file's `user_version`."""
    folder = files("proxy.store") / "migrations"
    scripts = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [script.read_text("utf-8") for script in scripts]


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the migrations that are missing, in one transaction. Raises `StoreError` for a newer file."""
    scripts = migrations()
    if _schema_of(connection) == len(scripts):
        return  # without waiting for a writer: most commands only read
    with begin(connection):  # two servers that start at once migrate one after the other
        applied = _schema_of(connection)
        if applied > len(scripts):
            raise StoreError(f"the database has schema {applied}, this version of Tollgate knows {len(scripts)}")
        for number, script in enumerate(scripts[applied:], applied + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _schema_of(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def _statements(script: str) -> Iterator[str]:
    """The statements of a script: `executescript` would commit the transaction it is called in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _file(found: os.stat_result) -> _File:
    return found.st_dev, found.st_ino
