from __future__ import annotations

import resource
from contextlib import closing
from functools import partial

import pytest

from proxy.cli import opening
from proxy.cli.opening import open_store, reading
from proxy.store.database import Database
from tests.cli.conftest import Command


def test_the_first_command_makes_the_file(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_DATABASE_URL", "sqlite:///new/folder/t.db")
    assert tollgate.json("tenants", "list") == []
    assert (tollgate.directory / "new/folder/t.db").is_file()


def test_a_reader_sees_one_state_and_cannot_write(tollgate: Command) -> None:
    _, database = open_store()
    with reading(database) as connection:
        assert connection.execute("SELECT count(*) FROM tenants").fetchone() == (0,)
        tollgate.done("tenants", "create", "acme")
        assert connection.execute("SELECT count(*) FROM tenants").fetchone() == (0,)
        with pytest.raises(Exception, match="readonly"):
            connection.execute("DELETE FROM tenants")


def test_a_locked_file_is_one_line_and_no_fault_of_the_settings(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "Database", partial(Database, busy_ms=20))
    with closing(tollgate.database.connect()) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert "database is locked" in tollgate.refused("tenants", "create", "acme")
        connection.execute("ROLLBACK")
    tollgate.done("tenants", "create", "acme")


def test_a_disk_that_takes_no_more_is_one_line(tollgate: Command) -> None:
    result = tollgate.process(
        "tenants", "create", "acme", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_048, 2_048))
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tollgate: ")
    assert result.stderr.count("\n") == 1
    assert tollgate.json("tenants", "list") == []


def test_a_path_that_can_be_no_database_is_a_fault_of_the_settings(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tollgate.directory / "notes.txt").write_text("not a database, " * 100)
    for path in (".", "notes.txt", "notes.txt/t.db"):
        monkeypatch.setenv("TOLLGATE_DATABASE_URL", f"sqlite:///{path}")
        assert tollgate.refused("tenants", "list", code=2).startswith("database_url: ")


def test_a_file_of_a_newer_version_is_left_alone(tollgate: Command) -> None:
    with closing(tollgate.database.connect()) as connection:
        connection.execute("PRAGMA user_version = 99")
        assert "the database has schema 99" in tollgate.refused("tenants", "list", code=2)
        connection.execute("PRAGMA user_version = 1")
