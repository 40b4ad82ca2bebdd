"""The file, its pragmas and its migrations."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from proxy.errors import ConfigurationError
from proxy.store.database import Database, Link, begin, migrate, migrations, savepoint
from tests.store.conftest import BUSY_MS

INSERT = "INSERT INTO tenants (id, name, status, created_ms) VALUES "


def schema(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """The objects of a file, whitespace and comments aside (what ALTER TABLE adds is laid out otherwise)."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name")
    bare = [(kind, name, re.sub(r"--.*", "", sql)) for kind, name, sql in rows]
    return [(kind, name, re.sub(r"\s*([(),])\s*|\s+", r"\1 ", sql).strip()) for kind, name, sql in bare]


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_the_schema_is_the_sum_of_its_migrations(connection: sqlite3.Connection) -> None:
    script = (files("proxy.store") / "schema.sql").read_text("utf-8")
    with closing(sqlite3.connect(":memory:")) as whole:
        whole.executescript(script)
        assert schema(whole) == schema(connection)
        for table in ("revision", "probe"):
            rows = f"SELECT * FROM {table}"
            assert whole.execute(rows).fetchall() == connection.execute(rows).fetchall()


def test_migrating_again_changes_nothing(database: Database, connection: sqlite3.Connection) -> None:
    before = [*connection.iterdump()]
    database.create()
    migrate(connection)
    assert [*connection.iterdump()] == before
    assert pragma(connection, "user_version") == len(migrations())


def test_a_file_that_is_up_to_date_opens_while_another_process_writes(database: Database) -> None:
    with closing(database.connect()) as writer, begin(writer):
        database.create()


def test_threads_that_start_at_once_all_find_the_schema(tmp_path: Path) -> None:
    errors: list[Exception] = []
    for turn in range(20):
        barrier = threading.Barrier(6)

        def start(path: str, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                Database(f"sqlite:///{path}").create()
            except ConfigurationError as error:
                errors.append(error)

        threads = [threading.Thread(target=start, args=(f"{tmp_path}/{turn}.db",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_processes_that_start_at_once_all_find_the_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/tollgate.db"
    code = f"from proxy.store.database import Database; Database({url!r}).create()"
    processes = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    with closing(Database(url).connect()) as connection:
        assert pragma(connection, "user_version") == len(migrations())


def test_a_newer_schema_is_refused(database: Database) -> None:
    with closing(database.connect()) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match=r"^database_url: .*tollgate\.db: the database has schema 99, this"):
        database.create()
    with pytest.raises(sqlite3.OperationalError, match="schema 99"):
        database.connect()


def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: .*directory"):
        Database(f"sqlite:///{tmp_path}").create()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^database_url: "):
        Database(f"sqlite:///{tmp_path}/file/tollgate.db").create()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match=r"^database_url: .*Permission denied"):
        Database(f"sqlite:///{tmp_path}/tollgate.db").create()


def test_a_kernel_folder_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: /proc/nowhere"):
        Database("sqlite:////proc/nowhere/tollgate.db").create()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, not a database\n" * 100)
    with pytest.raises(ConfigurationError, match=r"^database_url: .*notes\.txt: file is not a database; if it is"):
        Database(f"sqlite:///{path}").create()
    assert path.read_text().startswith("these are notes")


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: "):
        Database("sqlite:///a\0b").create()


@pytest.mark.parametrize(
    "url", ["postgres://me:s3cret@host/db", "sqlite:///", "tollgate.db", "", "sqlite:///a?mode=ro"]
)
def test_other_urls_are_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: .*sqlite:///path/to/file") as refused:
        Database(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("name", ["with space.db", "100%.db", "a#b.db", ":memory:", "dätenbank.db"])
def test_every_name_of_a_file_is_a_file(tmp_path: Path, name: str) -> None:
    database = Database(f"sqlite:///{tmp_path}/{name}")
    database.create()
    assert (tmp_path / name).stat().st_size > 0
    database.connect().close()


def test_a_relative_path_begins_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Database("sqlite:///var/tollgate.db").create()
    assert (tmp_path / "var" / "tollgate.db").is_file()


def test_what_was_written_survives_a_new_start(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(INSERT + "('a', 'A', 'active', 1)")
    Database(f"sqlite:///{database.path}").create()
    with closing(database.connect(read_only=True)) as connection:
        assert connection.execute("SELECT * FROM tenants").fetchall() == [("a", "A", "active", 1, "", "", None)]


def test_commits_are_on_disk_when_they_return(connection: sqlite3.Connection) -> None:
    assert pragma(connection, "journal_mode") == "wal"
    assert pragma(connection, "synchronous") == 2  # FULL
    assert pragma(connection, "foreign_keys") == 1
    assert pragma(connection, "busy_timeout") == BUSY_MS


def test_a_reading_connection_cannot_write(database: Database) -> None:
    with closing(database.connect(read_only=True, busy_ms=7)) as connection:
        assert pragma(connection, "busy_timeout") == 7
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM tenants")


def test_the_files_are_nobody_elses_to_read(database: Database, connection: sqlite3.Connection) -> None:
    with begin(connection):
        connection.execute(INSERT + "('a', 'A', 'active', 1)")
    found = [*database.path.parent.iterdir()]
    assert len(found) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


def test_a_connection_never_makes_a_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    with pytest.raises(sqlite3.OperationalError):
        database.connect()
    with pytest.raises(sqlite3.OperationalError, match="No such file"):
        database.identity()
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_ledger_is_not_kept_open(database: Database) -> None:
    database.path.write_bytes(b"something else" * 1_000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database") as caught:
        database.open()
    assert caught.tb.tb_next, "and its frames keep alive what they hold"
    opened = [one.resolve() for one in Path("/proc/self/fd").iterdir()]
    assert database.path not in opened


def test_a_transaction_is_undone_on_an_exception(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        connection.executemany(INSERT + "(?, 'A', 'active', 1)", [("a",), ("a",)])
    with closing(database.connect()) as connection:
        assert connection.execute("SELECT * FROM tenants").fetchall() == []


def test_a_commit_that_fails_is_undone(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE late (id TEXT REFERENCES tenants (id) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError), begin(connection):
        connection.execute("INSERT INTO late VALUES ('nobody')")
    assert not connection.in_transaction
    assert connection.execute("SELECT * FROM late").fetchall() == []


def test_a_savepoint_is_undone_alone(connection: sqlite3.Connection) -> None:
    with begin(connection):
        connection.execute(INSERT + "('a', 'A', 'active', 1)")
        with pytest.raises(sqlite3.IntegrityError), savepoint(connection):
            connection.executemany(INSERT + "(?, 'B', 'active', 1)", [("b",), ("a",)])
    assert connection.execute("SELECT id FROM tenants").fetchall() == [("a",)]


def test_a_link_follows_its_path_to_a_new_file(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(database)
    first = link.connection()
    assert link.connection() is first
    other = Database(f"sqlite:///{tmp_path}/other.db")
    other.create()
    other.path.rename(database.path)
    with caplog.at_level(logging.WARNING):
        second = link.connection()
    assert second is not first
    assert "was replaced" in caplog.text
    database.path.unlink()
    with pytest.raises(sqlite3.OperationalError, match="No such file"):
        link.connection()
    link.close()
    link.close()
