"""A real server and its file: what changes there is in force, what is wrong there is not, and requests go on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest

from proxy.declaration import reload
from proxy.declaration.apply import Declared
from proxy.declaration.reload import Reload
from proxy.source import FILE_BYTES_MAX, Source
from proxy.store import tenants
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.reader import Reader
from tests.declaration.files import (
    ACME,
    FIRST,
    NOBODY,
    SECOND,
    WITH_SECOND,
    digest,
    replace,
    standing,
    status,
    until,
    write,
)
from tests.running import Running, tollgate, wait_until

OK, REFUSED, DISABLED = 200, 401, 403
ON = f"[tenants.acme]\nkeys = [{{sha256 = '{digest(FIRST)}'}}]\n"

WRONG: dict[str, bytes] = {
    "nothing in it": b"",
    "syntax": b"[tenants.acme",
    "half a string": ON.encode()[:-8],
    "UTF-8": b"[tenants.acme]\nname = '\xff'",
    "a NUL": b"[tenants.acme]\nname = '\x00'",
    "huge": b"#" * (FILE_BYTES_MAX + 1),
    "deep": b"x = " + b"[" * 5000,
    "digits": b"port = 1" + b"1" * 5000,
    "a table twice": b"[tenants.acme]\n[tenants.acme]",
    "a member twice": b"[tenants.acme]\nname = 'a'\nname = 'b'",
    "an unknown table": b"[tenant.acme]",
    "an unknown member": b"[tenants.acme]\nnmae = 'x'",
    "a wrong setting": b"port = 'x'",
    "a wrong type": b"tenants = []",
    "a wrong id": b"[tenants.'a b']",
    "a wrong hash": b"[tenants.acme]\nkeys = [{sha256 = 'x'}]",
    "a key in clear": b"[tenants.acme]\nkeys = [{key = 'tg_secret'}]",
    "a key twice": ON.encode() + ON.replace("acme", "zed").encode(),
    "a wrong limit": b"[tenants.acme]\nlimits = ['tokens/moth=1']",
    "a limit twice": b"[plans.a]\nlimits = ['tokens/day=1', 'tokens/day=2']",
    "an unknown plan": b"[tenants.acme]\nplan = 'none'",
    "a wrong instant": b"[tenants.acme]\nperiod_anchor = 2026-11-15T00:00:00",
    "a managed tenant": b"[tenants.managed]",
    "a managed tenant's key": f"[tenants.acme]\nkeys = [{{sha256 = '{digest('ak_managed_key')}'}}]".encode(),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "LOOK_S", 0.02)
    monkeypatch.setattr(reload, "RETRY_S", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tollgate.toml"
    made.write_text(ON)
    return made


@pytest.fixture
def server(tmp_path: Path, path: Path) -> Iterator[Running]:
    with tollgate(tmp_path, TOLLGATE_CONFIG=str(path)) as running:
        yield running


def reads(server: Running, *results: str) -> int:
    """How often the file was read with one of these results."""
    assert server.app.reload is not None
    return sum(server.app.reload.declared.results[result] for result in results)


def has_read(server: Running, before: int, *results: str) -> bool:
    return reads(server, *results) > before


def answers(server: Running, secret: str, expected: int) -> bool:
    return status(server, secret) == expected


def test_a_tenant_that_is_put_in_is_served_and_one_that_is_taken_out_is_not(server: Running, path: Path) -> None:
    assert server.app.demo_key == "", "who declares tenants needs no demo"
    assert status(server, FIRST) == OK
    assert status(server, SECOND) == REFUSED
    replace(path, WITH_SECOND)
    wait_until(lambda: status(server, SECOND) == OK)
    assert status(server, FIRST) == OK
    replace(path, ACME)
    wait_until(lambda: status(server, SECOND) == REFUSED)
    replace(path, NOBODY)
    wait_until(lambda: status(server, FIRST) == REFUSED)
    assert [one.subject for one in server.settlements()] == ["acme"] * len(server.settlements())
    replace(path, ACME)
    wait_until(lambda: status(server, FIRST) == OK)


def test_a_limit_and_a_switch_are_in_force(server: Running, path: Path) -> None:
    assert status(server, FIRST) == OK
    replace(path, ON.replace("\n", "\nlimits = ['requests/day=2']\n", 1))
    wait_until(lambda: status(server, FIRST) == 429)
    assert len(server.settlements()) >= 2
    replace(path, ON.replace("\n", "\ndisabled = true\n", 1))
    wait_until(lambda: status(server, FIRST) == DISABLED)


def test_a_wrong_file_is_refused_whole_and_requests_go_on(server: Running, path: Path) -> None:
    server.key("managed")
    with server.app.database.transaction() as connection:
        tenants.create_key(connection, "managed", secret="ak_managed_key", now_ms=0)

    def state() -> list[str]:
        with closing(server.app.database.connect()) as connection:
            tables = ("tenants", "keys", "limits", "declared", "declaration")
            return [repr(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]

    before = state()
    for count, (name, content) in enumerate(WRONG.items()):
        path.write_bytes(content)
        wait_until(partial(has_read, server, count, "refused"))
        assert standing(server)["state"] == "failing", name
        assert "acme" not in standing(server)["trouble"]
        assert status(server, FIRST) == OK, name
        assert state() == before, name
    assert "tollgate_declaration_up 0.0" in httpx.get(f"{server.url}/metrics").text
    assert (
        f'tollgate_declaration_reads_total{{result="refused"}} {len(WRONG)}.0'
        in httpx.get(f"{server.url}/metrics").text
    )
    path.write_text(ON)
    wait_until(lambda: standing(server) == {"state": "ok", "trouble": ""})
    assert "tollgate_declaration_up 1.0" in httpx.get(f"{server.url}/metrics").text


def test_a_file_that_vanishes_changes_nothing_and_may_come_back(server: Running, path: Path) -> None:
    path.unlink()
    wait_until(lambda: standing(server)["state"] == "failing")
    assert status(server, FIRST) == OK
    path.write_text(ON)
    wait_until(lambda: standing(server)["state"] == "ok")
    assert reads(server, "applied") == 1
    path.unlink()
    path.mkdir()
    wait_until(lambda: standing(server)["state"] == "failing")
    assert status(server, FIRST) == OK


def test_a_config_map_is_followed(tmp_path: Path) -> None:
    def version(name: str, text: str) -> None:
        """As the kubelet does it: a folder for each version, and a link to the current one."""
        (tmp_path / name).mkdir()
        (tmp_path / name / "tollgate.toml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(name)
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH105 (what is meant)

    version("..2026_1", ON)
    path = tmp_path / "tollgate.toml"
    path.symlink_to("..data/tollgate.toml")
    with tollgate(tmp_path, TOLLGATE_CONFIG=str(path)) as server:
        assert status(server, FIRST) == OK
        version("..2026_2", WITH_SECOND)
        wait_until(lambda: status(server, SECOND) == OK)
        assert reads(server, "refused") == 0


def test_servers_with_one_ledger_and_one_file_agree(tmp_path: Path, path: Path, server: Running) -> None:
    with tollgate(tmp_path, TOLLGATE_CONFIG=str(path)) as other:
        for text, expected in ((WITH_SECOND, OK), (ON, REFUSED), (WITH_SECOND, OK)):
            before = [reads(one, "applied", "unchanged") for one in (server, other)]
            replace(path, text)
            for one, count in zip((server, other), before, strict=True):
                wait_until(partial(has_read, one, count, "applied", "unchanged"))
                wait_until(partial(answers, one, SECOND, expected))
        assert standing(server) == standing(other) == {"state": "ok", "trouble": ""}
        written = [reads(one, "applied") for one in (server, other)]
        assert sum(written) == 4, "each change was written once, by one of them"


def test_a_server_that_is_asked_reads_it_again_though_nothing_has_changed(server: Running) -> None:
    assert server.app.reload is not None
    server.app.reload.soon()
    wait_until(lambda: reads(server, "unchanged") == 1)


@pytest.mark.anyio
async def test_a_file_that_is_being_written_is_not_read_before_it_stays_the_same(
    database: Database, path: Path
) -> None:
    write(path, WITH_SECOND)
    declared = Declared(Source(path, {}), "UTC", lambda: 5)
    declared.apply_first(database)
    following = Reload(declared, database)
    commit, reader = GroupCommit(database), Reader(database)
    commit.start()
    try:
        with path.open("w") as file:
            for part in (ACME, "\n[[tenants.acme.keys]]\n", f"sha256 = '{digest(SECOND)}'\n", "name = 'new'\n"):
                file.write(part)  # the first part alone would revoke a key
                file.flush()
                assert not await following.look(commit, reader)
        assert await following.look(commit, reader)
        assert declared.results == {"applied": 2}
        with closing(database.connect()) as connection:
            assert {key.revoked_ms for key in tenants.keys(connection)} == {None}
    finally:
        await commit.stop()
        await reader.stop()


@pytest.mark.anyio
async def test_a_ledger_in_trouble_is_tried_again(database: Database, path: Path) -> None:
    declared = Declared(Source(path, {}), "UTC", lambda: 5)
    declared.apply_first(database)
    following = Reload(declared, database)
    commit, reader = GroupCommit(Database(f"sqlite:///{database.path}", busy_ms=20)), Reader(database)
    told = asyncio.Event()
    write(path, WITH_SECOND)
    commit.start()
    with closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        following.start(commit, told.set)
        following.start(commit, told.set)
        await until(lambda: declared.results["failed"] >= 2)
        assert declared.trouble
        assert not told.is_set()
        other.execute("ROLLBACK")
        await until(told.is_set)
    await following.stop()
    await following.stop()
    await commit.stop()
    await reader.stop()
    assert declared.trouble == ""


@pytest.mark.anyio
async def test_who_asks_while_something_else_is_looked_at_is_heard(
    database: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = Declared(Source(path, {}), "UTC", lambda: 5)
    declared.apply_first(database)
    following = Reload(declared, database)
    commit, reader = GroupCommit(database), Reader(database)

    async def is_gone(_: Reader) -> bool:
        following.soon()
        return False

    monkeypatch.setattr(declared, "is_gone", is_gone)
    await following.look(commit, reader)
    await following.look(commit, reader)
    await reader.stop()
    assert declared.results["unchanged"] == 1
