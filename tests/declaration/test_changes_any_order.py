"""Whatever was declared before: the store is as the file says now, but for what must stay."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.declaration.changes import changes
from proxy.declaration.document import Declaration
from proxy.limits import Calendar
from proxy.store.database import begin, migrate
from tests.declaration.files import FILE, digest

TENANTS, PLANS = ("a", "b", "c"), ("p", "q")
EMPTY: dict[str, Any] = {"plans": {}, "tenants": {}}

_limits = st.lists(
    st.sampled_from(("tokens/month=1", "tokens/month=2", "requests/day=3", "inflight=4")).flatmap(
        lambda text: st.fixed_dictionaries(
            {"limit": st.just(text)}, optional={"soft": st.booleans(), "model": st.just("m*")}
        )
    ),
    max_size=3,
    unique_by=lambda one: (str(one["limit"]).partition("=")[0], one.get("model")),
)


def _keys(tenant: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    key = st.fixed_dictionaries(
        {"sha256": st.sampled_from([digest(f"key-{tenant}-{number}") for number in range(3)])},
        optional={
            "name": st.sampled_from(("x", "y")),
            "models": st.sampled_from(([], ["m"], ["m", "n"])),
            "trusted": st.booleans(),
            "expires": st.sampled_from(("2030-01-01", "2020-01-01")),
            "limits": _limits,
        },
    )
    return st.lists(key, max_size=2, unique_by=lambda one: one["sha256"])


def _tenant(tenant: str, plans: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(("x", "y")),
            "plan": st.sampled_from(("", *plans)),
            "disabled": st.booleans(),
            "period_anchor": st.sampled_from(("2026-01-01", "2026-01-15")),
            "upstream_key": st.sampled_from(("", "env:KEY")),
            "limits": _limits,
            "keys": _keys(tenant),
        },
    )


@st.composite
def declarations(draw: st.DrawFn) -> dict[str, Any]:
    plans = {name: {"limits": draw(_limits)} for name in draw(st.sets(st.sampled_from(PLANS)))}
    named = draw(st.sets(st.sampled_from(TENANTS)))
    return {"plans": plans, "tenants": {name: draw(_tenant(name, [*plans])) for name in sorted(named)}}


@pytest.fixture(scope="module")
def template() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        migrate(made)
        yield made


def store_of(template: sqlite3.Connection, *declared: dict[str, Any]) -> sqlite3.Connection:
    """A store to which these were applied, one after the other."""
    store = sqlite3.connect(":memory:", isolation_level=None)
    template.backup(store)
    for number, tables in enumerate(declared):
        declaration = Declaration.read(tables, Calendar())
        with begin(store):
            assert changes(store, declaration, FILE, number).write(store)
        assert changes(store, declaration, FILE, number).rows == {}, "the same again writes nothing"
    return store


def in_force(store: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
    """All that is declared, without what differs by its nature: when it was made, and the ids of keys."""
    owned = "(owner_kind, owner) IN (SELECT owner_kind, owner FROM declared WHERE state = 'declared')"
    queries = (
        "SELECT file, digest FROM declaration",
        "SELECT owner FROM declared WHERE owner_kind = 'plan' AND state = 'declared'",
        """SELECT id, name, status, upstream_key, plan, anchor_ms FROM tenants
            WHERE ('tenant', id) IN (SELECT owner_kind, owner FROM declared WHERE state = 'declared')""",
        """SELECT hash, tenant_id, name, hint, models, trusted, expires_ms, revoked_ms FROM keys
           WHERE ('key', id) IN (SELECT owner_kind, owner FROM declared WHERE state = 'declared')""",
        f"SELECT * FROM limits WHERE owner_kind != 'key' AND {owned}",
        f"""SELECT hash, unit, span, model, kind, value, soft FROM limits JOIN keys ON keys.id = owner
            WHERE owner_kind = 'key' AND {owned}""",
    )
    return [sorted(store.execute(query)) for query in queries]


@given(before=st.lists(declarations(), max_size=3), now=declarations())
@settings(max_examples=150, deadline=None)
def test_what_was_declared_before_makes_no_difference(
    template: sqlite3.Connection, before: list[dict[str, Any]], now: dict[str, Any]
) -> None:
    with closing(store_of(template, *before, now)) as store, closing(store_of(template, now)) as fresh:
        assert in_force(store) == in_force(fresh)
        holding = "SELECT DISTINCT tenant_id FROM keys WHERE revoked_ms IS NULL"
        assert set(store.execute(holding)) <= {(name,) for name in now["tenants"]}
        left = store.execute("SELECT id FROM tenants WHERE status = 'active'")
        assert set(left) <= {(name,) for name in now["tenants"]}


@given(once=declarations())
@settings(max_examples=50, deadline=None)
def test_what_was_withdrawn_is_known_and_comes_back_as_it_was(
    template: sqlite3.Connection, once: dict[str, Any]
) -> None:
    ids = "SELECT id FROM tenants UNION ALL SELECT id FROM keys ORDER BY id"
    with closing(store_of(template, once)) as store:
        made = store.execute(ids).fetchall()
        standing = in_force(store)
        for tables in (EMPTY, once):
            with begin(store):
                changes(store, Declaration.read(tables, Calendar()), FILE, 9).write(store)
            assert store.execute(ids).fetchall() == made
        assert in_force(store) == standing
