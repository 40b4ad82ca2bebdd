"""Who a key belongs to: at once when it is new, and never staler than half a second."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxy.errors import LedgerUnavailable
from proxy.model import Caller, Unit
from proxy.store import callers, tenants
from proxy.store.callers import Callers
from proxy.store.database import Database
from proxy.store.limits import top_up
from proxy.store.tenants import create_key, create_tenant, hash_of

pytestmark = pytest.mark.anyio

NOW = 1_000_000
STALE_S = 0.5


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(database: Database, clock: Clock) -> Iterator[Callers]:
    made = Callers(database, clock)
    yield made
    made.close()


@pytest.fixture
def key(connection: sqlite3.Connection) -> tuple[str, bytes]:
    """The id of a key of the tenant acme, and the hash of its secret."""
    create_tenant(connection, "acme", now_ms=NOW)
    made, secret = create_key(connection, "acme", now_ms=NOW)
    return made.id, hash_of(secret.encode())


async def status_of(directory: Callers, tenant_id: str) -> str | None:
    found = await directory.tenant(tenant_id)
    return None if found is None else found.status


async def test_a_caller_has_all_that_admission_needs(connection: sqlite3.Connection, directory: Callers) -> None:
    create_tenant(connection, "acme", now_ms=NOW)
    made, secret = create_key(connection, "acme", models=("a", "b"), trusted=True, expires_ms=NOW + 5, now_ms=NOW)
    expected = Caller(made.id, "acme", True, frozenset({"a", "b"}), True, NOW + 5)
    assert await directory.find(hash_of(secret.encode())) == expected
    assert await directory.find(hash_of(secret.encode())) == expected


async def test_limits_alone_are_never_staler_either(
    connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    assert await directory.limits("acme", key[0]) == ()
    top_up(connection, "acme", Unit.TOKENS, 50, top_up_id="1", note="", now_ms=NOW)
    clock.now += STALE_S
    (limit,) = found = await directory.limits("acme", key[0])
    assert limit.value == 50
    clock.now += STALE_S
    assert await directory.limits("acme", key[0]) is found


async def test_a_new_key_works_at_once_also_after_it_was_tried_in_vain(
    connection: sqlite3.Connection, directory: Callers
) -> None:
    create_tenant(connection, "acme", now_ms=NOW)
    assert await directory.find(hash_of(b"ak_user1_abc123")) is None
    create_key(connection, "acme", secret="ak_user1_abc123", now_ms=NOW)
    found = await directory.find(hash_of(b"ak_user1_abc123"))
    assert found is not None
    assert found.subject == "acme"


async def test_a_revocation_holds_within_half_a_second(
    connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    assert await directory.find(key[1]) is not None
    tenants.revoke_key(connection, key[0], now_ms=NOW)
    clock.now += STALE_S
    assert await directory.find(key[1]) is None


async def test_who_changes_something_here_has_it_hold_at_once(
    connection: sqlite3.Connection, directory: Callers, key: tuple[str, bytes]
) -> None:
    key_id, key_hash = key
    assert await directory.find(key_hash) is not None
    tenants.revoke_key(connection, key_id, now_ms=NOW)
    assert await directory.find(key_hash) is not None
    directory.recheck()
    assert await directory.find(key_hash) is None


async def test_disabling_a_tenant_holds_within_half_a_second_and_so_does_enabling_it(
    connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    for active in (True, False, True):
        tenants.set_active(connection, "acme", active=active)
        clock.now += STALE_S
        found = await directory.find(key[1])
        assert found is not None
        assert found.active is active


async def test_an_upstream_key_of_its_own_holds_within_half_a_second(
    connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    for reference in ("", "env:ACME_KEY", "file:/run/acme", ""):
        tenants.set_upstream_key(connection, "acme", reference)
        clock.now += STALE_S
        found = await directory.find(key[1])
        assert found is not None
        assert (found.upstream_key, found.own_account) == (reference, bool(reference))


async def test_a_rotation_holds_within_half_a_second(
    connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    await directory.find(key[1])
    _, secret = tenants.rotate_key(connection, key[0], overlap_ms=60, now_ms=NOW)
    assert await directory.find(hash_of(secret.encode())) is not None
    clock.now += STALE_S
    old = await directory.find(key[1])
    assert old is not None
    assert old.expires_ms == NOW + 60


async def test_a_revocation_by_another_process_holds(
    database: Database, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    assert await directory.find(key[1]) is not None
    code = (
        "from proxy.store.database import Database\n"
        "from proxy.store.tenants import revoke_key\n"
        f"with Database('sqlite:///{database.path}').transaction() as connection:\n"
        f"    revoke_key(connection, {key[0]!r}, now_ms=1)\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True)
    clock.now += STALE_S
    assert await directory.find(key[1]) is None


async def test_a_known_key_costs_no_query_until_it_may_be_stale(
    database: Database, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    caller = await directory.find(key[1])
    database.path.rename(database.path.with_name("away.db"))
    clock.now += STALE_S - 0.01
    assert await directory.find(key[1]) is caller
    clock.now += 0.02
    with pytest.raises(LedgerUnavailable):
        await directory.find(key[1])


async def test_what_is_remembered_has_a_bound(
    connection: sqlite3.Connection, directory: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_REMEMBERED_MAX", 3)
    create_tenant(connection, "acme", now_ms=NOW)
    hashes = [hash_of(create_key(connection, "acme", now_ms=NOW)[1].encode()) for _ in range(5)]
    for key_hash in hashes * 2:
        assert await directory.find(key_hash) is not None
        assert len(directory._remembered) <= 3


async def test_unknown_keys_are_not_remembered(directory: Callers) -> None:
    for _ in range(100):
        assert await directory.find(os.urandom(32)) is None
    assert not directory._remembered


async def test_a_store_that_fails_refuses_says_so_once_and_heals(
    database: Database, directory: Callers, clock: Clock, key: tuple[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    assert await directory.find(key[1]) is not None
    away = database.path.with_name("away.db")
    database.path.rename(away)
    clock.now += STALE_S
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(LedgerUnavailable) as refused:
                await directory.find(key[1])
            with pytest.raises(LedgerUnavailable):
                await directory.tenant("acme")
            assert str(database.path) not in str(refused.value), "clients are not told where the file lies"
    assert len(caplog.records) == 1
    away.rename(database.path)
    assert await directory.find(key[1]) is not None
    assert await status_of(directory, "acme") == "active"


async def test_a_file_that_was_replaced_is_noticed_also_at_the_same_revision(
    database: Database, connection: sqlite3.Connection, directory: Callers, clock: Clock, key: tuple[str, bytes]
) -> None:
    assert await directory.find(key[1]) is not None
    connection.close()
    directory_of_another = Database(f"sqlite:///{database.path.with_name('other.db')}")
    directory_of_another.create()
    with directory_of_another.transaction() as other:
        create_tenant(other, "acme", now_ms=NOW)
        create_key(other, "acme", now_ms=NOW)
    for path in database.path.parent.glob("tollgate.db*"):
        path.unlink()
    directory_of_another.path.rename(database.path)
    clock.now += STALE_S
    assert await directory.find(key[1]) is None


async def test_a_writer_makes_nobody_wait(
    database: Database, connection: sqlite3.Connection, directory: Callers, key: tuple[str, bytes]
) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    assert await directory.find(key[1]) is not None
    connection.execute("ROLLBACK")


async def test_whether_a_named_subject_is_disabled(
    connection: sqlite3.Connection, directory: Callers, key: tuple[str, bytes]
) -> None:
    assert await status_of(directory, "acme") == "active"
    assert await status_of(directory, "nobody") is None
    tenants.set_active(connection, "acme", active=False)
    assert await status_of(directory, "acme") == "disabled"


async def test_closing_twice_is_once_and_a_later_look_up_opens_again(
    directory: Callers, key: tuple[str, bytes]
) -> None:
    directory.close()
    assert await directory.find(key[1]) is not None
    directory.close()
    directory.close()
    assert await status_of(directory, "acme") == "active"


async def test_a_change_made_here_is_in_force_with_the_next_request(
    connection: sqlite3.Connection, directory: Callers, key: tuple[str, bytes]
) -> None:
    key_id, key_hash = key
    assert await directory.find(key_hash) is not None
    tenants.revoke_key(connection, key_id, now_ms=NOW)
    assert await directory.find(key_hash) is not None, "remembered, as the clock stands still"
    directory.recheck()
    assert await directory.find(key_hash) is None
