"""What is managed, written down: adopted, it is what it was."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.declaration.write import _text, written
from proxy.errors import StoreError
from proxy.limits import Written
from proxy.store import tenants
from proxy.store.limits import effective, set_limit
from proxy.store.tenants import create_key, create_tenant, revoke_key, set_active, set_anchor, set_upstream_key
from tests.declaration.files import ACME, NOW, WITH_SECOND, apply, compared, declaration

NASTY = 'Ac"me\\ \n\t\x00\x7f ü 🙂'


def test_what_is_adopted_so_stays_as_it_is(connection: sqlite3.Connection) -> None:
    set_limit(connection, "plan", "starter", Written.parse("tokens/month=1000"))
    set_limit(
        connection, "plan", "starter", Written.parse("tokens/day=5"), model='gpt-"4o"*', tokens="output", soft=True
    )
    create_tenant(connection, "a.b@c", name=NASTY, plan="starter", now_ms=NOW)
    set_limit(connection, "tenant", "a.b@c", Written.parse("inflight=3"))
    set_limit(connection, "tenant", "a.b@c", Written.parse("usd/month=12.345678901"))
    set_anchor(connection, "a.b@c", 123_456)
    set_upstream_key(connection, "a.b@c", "env:KEY")
    made, _ = create_key(connection, "a.b@c", name=NASTY, models=["m", NASTY], trusted=True, expires_ms=5, now_ms=NOW)
    set_limit(connection, "key", made.id, Written.parse("requests/total=9"))
    gone, _ = create_key(connection, "a.b@c", now_ms=NOW)
    revoke_key(connection, gone.id, now_ms=NOW)
    create_tenant(connection, "bare", now_ms=NOW)
    set_active(connection, "bare", active=False)

    def state() -> list[object]:
        bare = [
            (one.id, one.name, one.status, one.upstream_key, one.plan, one.anchor_ms)
            for one in tenants.tenants(connection)
        ]
        held = [
            (one.id, one.name, one.models, one.trusted, one.expires_ms, one.revoked_ms)
            for one in tenants.keys(connection)
        ]
        return [bare, held, set(effective(connection, "a.b@c", made.id))]

    before = state()
    text = written(connection, ["a.b@c", "bare"])
    assert apply(connection, text) == "1 key added, 1 plan added, 2 tenants added"
    assert state() == before
    again = written(connection, ["a.b@c", "bare"])
    assert again == text.replace("adopt = true\n", "")
    assert compared(connection, again).words == ""


def test_what_is_declared_is_written_as_it_was(connection: sqlite3.Connection) -> None:
    apply(connection, WITH_SECOND)
    assert declaration(written(connection, ["acme", "acme"])).digest == declaration(WITH_SECOND).digest
    apply(connection, ACME)
    assert declaration(written(connection, ["acme"])).digest == declaration(ACME).digest


def test_an_unknown_tenant_is_named(connection: sqlite3.Connection) -> None:
    with pytest.raises(StoreError, match="there is no tenant nobody"):
        written(connection, ["nobody"])
    assert written(connection, []) == ""


@given(st.text())
@settings(max_examples=200)
def test_any_text_is_read_as_it_was(text: str) -> None:
    assert declaration(f"[tenants.a]\nname = {_text(text)}").tenants["a"].name == text
