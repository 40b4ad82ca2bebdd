"""What a file declares is changed there, and by no command."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from proxy.errors import StoreError
from proxy.limits import Written
from proxy.model import Unit, Window
from proxy.store import accounts
from proxy.store.declared import Applied, applied, check_managed, provenance
from proxy.store.limits import effective, set_limit, top_up, unset_limit
from proxy.store.tenants import (
    create_key,
    create_tenant,
    key,
    keys,
    revoke_key,
    rotate_key,
    set_active,
    set_anchor,
    set_plan,
    set_upstream_key,
    tenant,
    tenants,
)

NOW = 1_000_000
DAY = Written.parse("tokens/day=5")
FILE = "/etc/tollgate.toml"


@pytest.fixture
def key_id(connection: sqlite3.Connection) -> str:
    """The key of a declared tenant, acme, which is on a declared plan, starter."""
    set_limit(connection, "plan", "starter", DAY)
    create_tenant(connection, "acme", plan="starter", now_ms=NOW)
    made, _ = create_key(connection, "acme", now_ms=NOW)
    for kind, owner in (("plan", "starter"), ("tenant", "acme"), ("key", made.id)):
        connection.execute(accounts.SET_DECLARED, (kind, owner, "declared"))
    connection.execute(accounts.SET_DECLARATION, (FILE, "digest", NOW))
    return made.id


Command = Callable[[sqlite3.Connection, str], object]
COMMANDS: dict[str, Command] = {
    "set_active": lambda connection, _: set_active(connection, "acme", active=False),
    "set_upstream_key": lambda connection, _: set_upstream_key(connection, "acme", "env:KEY"),
    "set_plan": lambda connection, _: set_plan(connection, "acme", ""),
    "set_anchor": lambda connection, _: set_anchor(connection, "acme", 0),
    "create_key": lambda connection, _: create_key(connection, "acme", now_ms=NOW),
    "revoke_key": lambda connection, key_id: revoke_key(connection, key_id, now_ms=NOW),
    "rotate_key": lambda connection, key_id: rotate_key(connection, key_id, overlap_ms=0, now_ms=NOW),
    "set_limit": lambda connection, _: set_limit(connection, "tenant", "acme", DAY),
    "set_limit of a key": lambda connection, key_id: set_limit(connection, "key", key_id, DAY),
    "set_limit of a plan": lambda connection, _: set_limit(connection, "plan", "starter", DAY),
    "unset_limit": lambda connection, _: unset_limit(connection, "plan", "starter", Unit.TOKENS, Window.DAY),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_changes_what_is_declared(connection: sqlite3.Connection, key_id: str, command: Command) -> None:
    before = [*connection.iterdump()]
    with pytest.raises(StoreError, match=rf"^(tenant|plan|key) .+ is declared in {FILE}: .+"):
        command(connection, key_id)
    assert [*connection.iterdump()] == before


def test_each_refusal_names_the_remedy(connection: sqlite3.Connection, key_id: str) -> None:
    def said(command: str) -> str:
        with pytest.raises(StoreError) as refused:
            COMMANDS[command](connection, key_id)
        return str(refused.value)

    assert said("set_active") == f"tenant acme is declared in {FILE}: change it there"
    assert said("set_limit of a plan") == f"plan starter is declared in {FILE}: change it there"
    assert said("set_limit of a key") == f"key {key_id} of tenant acme is declared in {FILE}: change it there"
    assert said("revoke_key").endswith("take it out there, and it is revoked")
    assert "put another one beside it there" in said("rotate_key")
    assert "`tollgate keys hash`" in said("create_key")


def test_what_was_paid_is_no_configuration(connection: sqlite3.Connection, key_id: str) -> None:
    assert top_up(connection, "acme", Unit.TOKENS, 50, top_up_id="invoice-7", note="", now_ms=NOW)
    assert {one.origin for one in effective(connection, "acme")} == {"plan starter", "prepaid"}


def test_listings_tell_what_is_declared(connection: sqlite3.Connection, key_id: str) -> None:
    create_tenant(connection, "zed", now_ms=NOW)
    other, _ = create_key(connection, "zed", now_ms=NOW)
    assert [(one.id, one.origin) for one in tenants(connection)] == [("acme", "declared"), ("zed", "managed")]
    assert {one.id: one.origin for one in keys(connection)} == {key_id: "declared", other.id: "managed"}
    assert provenance(connection, "plan", "starter") == "declared"
    assert provenance(connection, "plan", "none") == "managed"
    assert applied(connection) == Applied(FILE, "digest", NOW)


def test_a_ledger_to_which_no_file_was_applied_says_so(connection: sqlite3.Connection) -> None:
    assert applied(connection) == Applied("", "", 0)
    check_managed(connection, "tenant", "nobody")


def test_what_is_withdrawn_is_managed_from_the_first_command_on(connection: sqlite3.Connection, key_id: str) -> None:
    connection.execute("UPDATE declared SET state = 'withdrawn'")
    assert (tenant(connection, "acme").origin, key(connection, key_id).origin) == ("withdrawn", "withdrawn")
    set_limit(connection, "key", key_id, DAY)
    assert (tenant(connection, "acme").origin, key(connection, key_id).origin) == ("managed", "managed")
    assert provenance(connection, "plan", "starter") == "withdrawn"
    set_limit(connection, "plan", "starter", DAY)
    assert provenance(connection, "plan", "starter") == "managed"


def test_every_mark_counts_the_revision_up(connection: sqlite3.Connection, key_id: str) -> None:
    def revision() -> int:
        number: int = connection.execute(accounts.REVISION).fetchone()[0]
        return number

    for change in ("INSERT INTO declared VALUES ('plan', 'x', 'declared')", "UPDATE declared SET state = 'withdrawn'"):
        before = revision()
        connection.execute(change)
        assert revision() > before
    before = revision()
    connection.execute("DELETE FROM declared")
    assert revision() > before
