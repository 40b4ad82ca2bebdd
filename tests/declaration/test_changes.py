"""A declaration and a store: what changes, what stays, and what cannot be."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from proxy.errors import StoreError, WrongDeclaration
from proxy.limits import Written
from proxy.model import Key, Tenant, Unit, Window
from proxy.store import accounts, tenants
from proxy.store.database import Database
from proxy.store.declared import applied, provenance
from proxy.store.limits import effective, limits_of, set_limit, top_up, unset_limit
from proxy.store.tenants import create_key, create_tenant, hash_of, revoke_key, set_active, set_plan
from tests.declaration.files import (
    ACME,
    FILE,
    FIRST,
    NOBODY,
    NOW,
    OTHER,
    SECOND,
    WITH_SECOND,
    apply,
    compared,
    declaration,
    digest,
)

ADOPTED = ACME.replace("[tenants.acme]", "[tenants.acme]\nadopt = true")
BARE = "[tenants.acme]\n"
DAY = Written.parse("tokens/day=7")


def acme(connection: sqlite3.Connection) -> Tenant:
    return tenants.tenant(connection, "acme")


def the_key(connection: sqlite3.Connection) -> Key:
    (key,) = tenants.keys(connection, "acme")
    return key


def finds(connection: sqlite3.Connection, secret: str) -> bool:
    return connection.execute(accounts.CALLER, (hash_of(secret.encode()),)).fetchone() is not None


def refused(connection: sqlite3.Connection, text: str, *, file: str = FILE) -> str:
    before = [*connection.iterdump()]
    with pytest.raises(WrongDeclaration) as error:
        apply(connection, text, file=file)
    assert [*connection.iterdump()] == before, "it is refused whole"
    return str(error.value)


def test_what_is_declared_is_there_as_if_it_had_been_made_by_command(connection: sqlite3.Connection) -> None:
    assert apply(connection, ACME) == "1 key added, 1 plan added, 1 tenant added"
    assert acme(connection) == Tenant("acme", "Acme", "active", NOW, "", "starter", 1_794_700_800_000, "declared")
    key = the_key(connection)
    expires_ms = 4_102_358_400_000
    assert key == Key(key.id, "acme", "ci", "", ("gpt-4o-mini",), False, NOW, expires_ms, None, "declared")
    assert finds(connection, FIRST)
    found = {
        (one.counted.scope, one.counted.name): (one.value, one.origin, one.soft)
        for one in effective(connection, "acme", key.id)
    }
    assert found == {
        ("tenant", "tokens/month"): (10_000, "plan starter", False),
        ("tenant", "requests/minute (of gpt-4o*)"): (60, "plan starter", True),
        ("tenant", "requests/day"): (100, "tenant", False),
        ("key", "requests/day"): (50, "key", False),
    }
    last = applied(connection)
    assert (last.file, last.digest, last.applied_ms) == (FILE, declaration(ACME).digest, NOW)


def test_without_a_name_a_tenant_is_named_by_its_id_and_without_a_day_its_periods_begin_when_it_was_made(
    connection: sqlite3.Connection,
) -> None:
    apply(connection, BARE)
    assert acme(connection) == Tenant("acme", "acme", "active", NOW, anchor_ms=NOW, origin="declared")


def test_what_is_in_force_already_writes_nothing(database: Database, connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    before = [*connection.iterdump()]
    with closing(database.connect()) as other:
        version = other.execute("PRAGMA data_version").fetchone()
        found = compared(connection, f"# as it was\n{ACME}", now_ms=NOW + 1)
        assert (found.rows, found.words, found.warning) == ({}, "", "")
        assert apply(connection, ACME, now_ms=NOW + 1) == ""
        assert other.execute("PRAGMA data_version").fetchone() == version
    assert [*connection.iterdump()] == before


def test_only_what_differs_is_written(connection: sqlite3.Connection) -> None:
    apply(connection, f"{ACME}[tenants.zed]\n")
    key = the_key(connection)
    changed = f"{ACME}[tenants.zed]\n".replace("requests/day=50", "requests/day=51")
    found = compared(connection, changed)
    assert found.words == "1 key changed"
    assert {sql: len(rows) for sql, rows in found.rows.items()} == {accounts.SET_LIMIT: 1, accounts.SET_DECLARATION: 1}
    assert apply(connection, changed) == "1 key changed"
    assert the_key(connection) == key
    assert apply(connection, changed.replace('name = "Acme"', "disabled = true")) == "1 tenant changed"
    assert acme(connection).status == "disabled"
    assert apply(connection, changed.replace("[tenants.zed]", "")) == "1 tenant changed, 1 tenant withdrawn"
    assert acme(connection).status == "active"


def test_a_limit_that_is_declared_no_more_is_gone(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    assert apply(connection, ACME.replace('"tokens/month=10000", ', "")) == "1 plan changed"
    assert [one.counted.name for one in limits_of(connection, "plan", "starter")] == ["requests/minute (of gpt-4o*)"]


def test_a_key_that_is_taken_out_is_revoked_and_one_that_is_put_back_holds_again(
    connection: sqlite3.Connection,
) -> None:
    apply(connection, WITH_SECOND)
    first, second = tenants.keys(connection, "acme")
    assert apply(connection, ACME, now_ms=NOW + 5) == "1 key withdrawn"
    revoked = {key.name: (key.revoked_ms, key.origin) for key in tenants.keys(connection, "acme")}
    assert revoked == {"ci": (None, "declared"), "": (NOW + 5, "withdrawn")}
    assert not finds(connection, SECOND)
    assert apply(connection, WITH_SECOND, now_ms=NOW + 9) == "1 key added"
    assert finds(connection, SECOND)
    assert tenants.keys(connection, "acme") == [first, second], "the same keys, with all that they have used"


def test_a_tenant_that_is_taken_out_is_disabled_and_comes_back_with_its_history(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    key = the_key(connection)
    with connection:
        top_up(connection, "acme", Unit.TOKENS, 5, top_up_id="t", note="", now_ms=NOW)
    assert apply(connection, NOBODY, now_ms=NOW + 5) == "1 key withdrawn, 1 plan withdrawn, 1 tenant withdrawn"
    assert (acme(connection).status, acme(connection).origin) == ("disabled", "withdrawn")
    assert the_key(connection).revoked_ms == NOW + 5
    assert compared(connection, NOBODY).rows == {}
    assert len(effective(connection, "acme", key.id)) == 5, "whoever enables it does not set it loose"
    assert apply(connection, ACME, now_ms=NOW + 9) == "1 key added, 1 plan added, 1 tenant added"
    assert (acme(connection).status, acme(connection).created_ms) == ("active", NOW)
    assert the_key(connection) == key


def test_nobody_becomes_unlimited_when_a_plan_is_taken_out(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    create_tenant(connection, "managed", plan="starter", now_ms=NOW)
    apply(connection, NOBODY)
    assert len(effective(connection, "managed")) == 2
    assert provenance(connection, "plan", "starter") == "withdrawn"
    assert "tenants.acme.plan: there is no plan starter; declare it" in refused(
        connection, "[tenants.acme]\nplan = 'starter'"
    )


def test_managed_tenants_are_left_alone(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "managed", now_ms=NOW)
    key, _ = create_key(connection, "managed", secret=OTHER, now_ms=NOW)
    set_limit(connection, "tenant", "managed", DAY)
    set_limit(connection, "plan", "pro", DAY)
    managed = tenants.tenant(connection, "managed"), limits_of(connection, "tenant", "managed")
    for text in (ACME, f"{BARE}plan = 'pro'\n", NOBODY):
        apply(connection, text)
        assert (tenants.tenant(connection, "managed"), limits_of(connection, "tenant", "managed")) == managed
        assert tenants.keys(connection, "managed") == [key]
        assert [one.value for one in limits_of(connection, "plan", "pro")] == [7]


def test_a_managed_tenant_or_plan_is_declared_only_by_adoption(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "acme", name="Managed", now_ms=5)
    set_limit(connection, "tenant", "acme", DAY)
    kept, _ = create_key(connection, "acme", secret=FIRST, now_ms=5)
    other, _ = create_key(connection, "acme", secret=SECOND, now_ms=5)
    said = refused(connection, ACME)
    assert said.startswith("tenants.acme: there is a tenant acme already, made by command; choose another id, or write")
    assert apply(connection, ADOPTED) == "1 key added, 1 key withdrawn, 1 plan added, 1 tenant added"
    assert (acme(connection).name, acme(connection).created_ms) == ("Acme", 5)
    found = {key.id: (key.origin, key.revoked_ms) for key in tenants.keys(connection, "acme")}
    assert found == {kept.id: ("declared", None), other.id: ("withdrawn", NOW)}
    assert [one.counted.name for one in limits_of(connection, "tenant", "acme")] == ["requests/day"]
    assert compared(connection, ADOPTED).rows == {}
    set_limit(connection, "plan", "pro", DAY)
    assert "plans.pro: there is a plan pro already, made by command" in refused(connection, f"{ADOPTED}[plans.pro]")
    apply(connection, f"{ADOPTED}[plans.pro]\nadopt = true")
    assert limits_of(connection, "plan", "pro") == []


def test_a_key_belongs_to_one_tenant(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "zed", now_ms=NOW)
    create_key(connection, "zed", secret=FIRST, now_ms=NOW)
    said = refused(connection, ACME)
    assert said == "tenants.acme.keys[0]: this key is tenant zed's, and no key moves; make a new one"
    apply(connection, f"{BARE}keys = [{{sha256 = '{digest(OTHER)}'}}]")
    said = refused(connection, f"[tenants.new]\nkeys = [{{sha256 = '{digest(OTHER)}'}}]")
    assert "tenants.new.keys[0]: this key is tenant acme's" in said


def test_a_key_that_was_revoked_by_command_does_not_come_back(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "acme", now_ms=NOW)
    key, _ = create_key(connection, "acme", secret=FIRST, now_ms=NOW)
    revoke_key(connection, key.id, now_ms=NOW)
    assert "tenants.acme.keys[0]: this key was revoked by command" in refused(connection, ADOPTED)
    assert not finds(connection, FIRST)


def test_what_is_withdrawn_is_managed_again_by_the_first_command(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    apply(connection, NOBODY)
    set_active(connection, "acme", active=True)
    assert (acme(connection).origin, the_key(connection).origin) == ("managed", "managed")
    assert not finds(connection, FIRST), "its keys stay revoked"
    set_limit(connection, "plan", "starter", DAY)
    assert provenance(connection, "plan", "starter") == "managed"
    set_plan(connection, "acme", "starter")
    assert compared(connection, NOBODY).rows == {}
    assert "there is a plan starter already" in refused(connection, ACME)
    assert "there is a tenant acme already" in refused(connection, BARE)


def test_what_another_file_declared_is_replaced_with_a_warning(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    found = compared(connection, ACME, file="/other.toml")
    assert found.words == ""
    assert found.warning.startswith(f"/other.toml takes the place of {FILE}, applied at 1970-01-01T00:16:40Z; servers")
    apply(connection, ACME, file="/other.toml")
    assert applied(connection).file == "/other.toml"
    with pytest.raises(StoreError, match=r"tenant acme is declared in /other\.toml: change it there"):
        set_active(connection, "acme", active=False)


def test_a_file_without_tenants_leaves_alone_what_another_one_declared(connection: sqlite3.Connection) -> None:
    apply(connection, "", file="/other.toml")
    assert applied(connection).file == "", "a file that never declared anything is not remembered"
    apply(connection, ACME)
    found = compared(connection, "", file="/other.toml")
    assert (found.rows, found.words) == ({}, "")
    assert found.warning == f"/other.toml declares no tenants, and what {FILE} declares stays"


def test_a_file_that_was_emptied_is_not_taken_for_one_that_declares_nobody(connection: sqlite3.Connection) -> None:
    apply(connection, ACME)
    assert refused(connection, "").startswith("the file: is empty; to withdraw all that it declared")
    apply(connection, NOBODY)
    assert compared(connection, "").words == "", "there is nothing left to withdraw"


def test_it_is_compared_anew_where_the_store_has_changed_since(connection: sqlite3.Connection) -> None:
    found = compared(connection, ACME)
    create_tenant(connection, "acme", now_ms=NOW)
    assert not found.write(connection)
    assert acme(connection).origin == "managed"
    assert tenants.keys(connection) == []


def test_a_managed_plan_that_loses_its_limits_makes_no_file_wrong(connection: sqlite3.Connection) -> None:
    set_limit(connection, "plan", "pro", DAY)
    apply(connection, f"{BARE}plan = 'pro'")
    unset_limit(connection, "plan", "pro", Unit.TOKENS, Window.DAY)
    assert compared(connection, f"{BARE}plan = 'pro'").rows == {}
    assert "there is no plan pro" in refused(connection, f"{BARE}plan = 'pro'\n[tenants.new]\nplan = 'pro'")
