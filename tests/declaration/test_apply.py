"""The file of a server: applied whole or refused whole, and how that stands is told."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.declaration.apply import Declared, warn_of_unread
from proxy.errors import ConfigurationError
from proxy.source import Source
from proxy.store import tenants
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.declared import applied
from proxy.store.reader import Reader
from proxy.store.tenants import create_tenant
from tests.declaration.files import ACME, FIRST, NOBODY, WITH_SECOND, apply, digest, until, write

pytestmark = pytest.mark.anyio

BUSY_MS = 50


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tollgate.toml"
    made.write_text(ACME)
    return made


@pytest.fixture
def declared(path: Path) -> Declared:
    return Declared(Source(path, {}), "UTC", lambda: 1_000_000)


@pytest.fixture
async def commit(database: Database) -> AsyncIterator[GroupCommit]:
    made = GroupCommit(Database(f"sqlite:///{database.path}", busy_ms=BUSY_MS))
    made.start()
    yield made
    await made.stop()


@pytest.fixture
async def reader(database: Database) -> AsyncIterator[Reader]:
    made = Reader(database)
    yield made
    await made.stop()


async def applies(declared: Declared, commit: GroupCommit, reader: Reader) -> bool:
    return await declared.apply(commit, reader, lambda: True)


def ids(database: Database) -> list[tuple[str, str]]:
    with closing(database.connect()) as connection:
        return [(one.id, one.status) for one in tenants.tenants(connection)]


async def test_it_is_applied_first_and_again(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader, path: Path
) -> None:
    declared.apply_first(database)
    assert ids(database) == [("acme", "active")]
    assert not await applies(declared, commit, reader)
    write(path, NOBODY)
    assert await applies(declared, commit, reader)
    assert ids(database) == [("acme", "disabled")]
    assert declared.results == {"applied": 2, "unchanged": 1}
    assert declared.trouble == ""


def test_a_wrong_file_is_no_start_and_is_named(database: Database, declared: Declared, path: Path) -> None:
    for text in ("[tenants.acme]\nplan = 'none'", "[tenants.acme]\nnmae = 1", "port = 'x'", "="):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=rf"^({path}|port \(TOLLGATE_PORT\)): "):
            declared.apply_first(database)
    assert ids(database) == []


async def test_one_that_is_being_written_is_left_for_later(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader
) -> None:
    declared.apply_first(database)
    declared.source.path.write_text(NOBODY)
    assert not await declared.apply(commit, reader, lambda: False)
    assert ids(database) == [("acme", "active")]


async def test_trouble_is_told_once_in_the_log_and_without_names_to_everybody(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    declared.apply_first(database)
    path = declared.source.path
    with caplog.at_level(logging.INFO, "proxy.declaration"):
        for text in (f"{ACME}nmae = 1\n", f"{ACME}nmae = 1\n", "[tenants.acme]\n[tenants.acme]\n", "prot = 1"):
            path.write_text(text)
            with pytest.raises(ConfigurationError) as refused:
                await applies(declared, commit, reader)
            declared.refuse(refused.value)
            assert "acme" not in declared.trouble
        path.write_text(ACME)
        await applies(declared, commit, reader)
    words = "a change is refused whole, and what was declared before stays in force"
    assert [record.getMessage().split(" (at")[0] for record in caplog.records] == [
        f"{words}: {path}: tenants.acme.keys[0].nmae: is not known. Did you mean name?",
        f"{words}: {path}: Cannot declare ('tenants', 'acme') twice",
        f"{words}: {path}: prot is not a setting. Did you mean port?",
        f"{path} is in force: nothing that it declares has changed",
    ]
    assert (declared.trouble, declared.results) == ("", {"applied": 1, "refused": 4, "unchanged": 1})


async def test_trouble_says_where_it_can(declared: Declared) -> None:
    def told(text: str) -> str:
        declared.source.path.write_text(text)
        with pytest.raises(ConfigurationError) as refused:
            declared._read()
        declared.refuse(refused.value)
        return declared.trouble

    assert told("[tenants.acme]\n[tenants.acme]") == "the file is refused at line 2, column 14; the log says why"
    assert told("x = ") == "the file is refused at end of document; the log says why"
    assert told("[tenants.acme]\nplan = 7") == "the file is refused at tenants[0].plan; the log says why"
    assert told("prot = 1") == "the file is refused; the log says why"


async def test_settings_that_have_changed_are_named_once_as_needing_a_restart(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    declared.apply_first(database)
    with caplog.at_level(logging.WARNING):
        for text in ("port = 1\n[sink]\nbatch_max = 7\n", "port = 1\n[sink]\nbatch_max = 7\n# again", ""):
            declared.source.path.write_text(f"{text}\n{ACME}")
            await applies(declared, commit, reader)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["settings that have changed need a restart: port, sink.batch_max"]


async def test_a_ledger_that_is_locked_is_trouble_and_nothing_is_lost(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader
) -> None:
    declared.apply_first(database)
    declared.source.path.write_text(WITH_SECOND)
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked") as failed:
            await applies(declared, commit, reader)
        declared.fail(failed.value)
        assert declared.trouble == "the ledger cannot take what the file declares; the log says why"
        other.execute("ROLLBACK")
    await until(lambda: not commit.trouble)
    assert await applies(declared, commit, reader)
    assert (declared.trouble, declared.results["failed"]) == ("", 1)


async def test_what_others_change_meanwhile_is_taken_into_account(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Declared._compare
    turns = []

    def comparing(self: Declared, *arguments: object) -> object:
        found = compare(self, *arguments)  # type: ignore[arg-type]
        turns.append(found)
        if len(turns) == 1:
            with database.transaction() as connection:
                create_tenant(connection, "acme", now_ms=0)
        return found

    monkeypatch.setattr(Declared, "_compare", comparing)
    with pytest.raises(ConfigurationError, match="there is a tenant acme already"):
        await applies(declared, commit, reader)
    assert len(turns) == 1
    assert ids(database) == [("acme", "active")]


async def test_another_servers_other_file_is_noticed(
    database: Database, declared: Declared, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    declared.apply_first(database)
    with closing(database.connect()) as connection:
        apply(connection, WITH_SECOND, file="/other.toml")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert not await declared.is_gone(reader)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "another server has applied /other.toml at 1970-01-01T00:16:40Z, in the place"
    )


async def test_the_same_file_elsewhere_is_no_reason_to_warn(
    database: Database, declared: Declared, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    declared.apply_first(database)
    with closing(database.connect()) as connection:
        apply(connection, ACME, file="/other.toml")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert not await declared.is_gone(reader)
    assert caplog.records == []


async def test_where_a_backup_takes_the_ledgers_place_it_is_applied_again(
    database: Database, declared: Declared, commit: GroupCommit, reader: Reader, tmp_path: Path
) -> None:
    backup = Database(f"sqlite:///{tmp_path}/backup.db")
    backup.create()
    declared.apply_first(database)
    assert not await declared.is_gone(reader)
    backup.path.replace(database.path)
    assert await declared.is_gone(reader)
    await until(lambda: not commit.trouble)
    assert await applies(declared, commit, reader)
    assert ids(database) == [("acme", "active")]
    assert not await declared.is_gone(reader)


def test_a_server_without_a_file_says_what_it_does_not_read(
    database: Database, declared: Declared, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unread(database)
        declared.apply_first(database)
        warn_of_unread(database)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"tenants are declared in {declared.source.path}, which this server does not")


def test_it_is_checked_against_the_ledger_or_an_empty_one(
    database: Database, declared: Declared, tmp_path: Path
) -> None:
    nowhere = Database(f"sqlite:///{tmp_path}/nowhere.db")
    assert declared.check(nowhere)[1].words == "1 key added, 1 plan added, 1 tenant added"
    assert not nowhere.path.exists()
    declared.apply_first(database)
    assert declared.check(database)[1].words == ""
    declared.source.path.write_text("[tenants.acme]\nplan = 'none'")
    with pytest.raises(ConfigurationError, match="there is no plan none"):
        declared.check(nowhere)


_KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.declaration import changes
from proxy.declaration.apply import Declared
from proxy.source import Source
from proxy.store.database import Database

left = int(sys.argv[3])

def kill(statement):
    global left
    left -= statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))
    if left < 0 or statement == "COMMIT" and sys.argv[3] == "1000000":
        os.kill(os.getpid(), signal.SIGKILL)

write = changes.Changes.write
def killed(self, connection):
    connection.set_trace_callback(kill)
    return write(self, connection)
changes.Changes.write = killed
Declared(Source(Path(sys.argv[1]), {}), "UTC", lambda: 5).apply_first(Database(sys.argv[2]))
"""


@pytest.mark.parametrize("statements", [0, 5, 1_000_000], ids=["at the first", "in the middle", "at the commit"])
def test_one_that_is_killed_while_it_applies_has_applied_nothing(
    database: Database, declared: Declared, statements: int
) -> None:
    declared.apply_first(database)
    with closing(database.connect()) as connection:
        before = [*connection.iterdump()]
    declared.source.path.write_text(f"[tenants.new]\n[[tenants.new.keys]]\nsha256 = '{digest(FIRST + 'x')}'\n")
    where = [str(declared.source.path), f"sqlite:///{database.path}", str(statements)]
    done = subprocess.run([sys.executable, "-c", _KILLED, *where], cwd=os.getcwd(), capture_output=True, timeout=30)  # noqa: PTH109
    assert done.returncode == -signal.SIGKILL, done.stderr
    with closing(database.connect()) as connection:
        assert [*connection.iterdump()] == before
        assert applied(connection).applied_ms == 1_000_000
    declared.apply_first(database)
    assert ids(database) == [("acme", "disabled"), ("new", "active")]
