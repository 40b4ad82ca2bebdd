from __future__ import annotations

import sqlite3

import pytest

from proxy.errors import StoreError
from proxy.limits import Written
from proxy.model import Counted, Limit, Unit, Window
from proxy.store import limits as stored
from proxy.store.limits import LIMITS_MAX, effective, limits_of, plans, set_limit, top_up, unset_limit
from proxy.store.tenants import create_key, create_tenant, set_anchor, set_plan

NOW = 1_000_000
MONTH, DAY = Written.parse("tokens/month=1000"), Written.parse("tokens/day=100")


@pytest.fixture
def acme(connection: sqlite3.Connection) -> str:
    return create_tenant(connection, "acme", now_ms=NOW).id


@pytest.fixture
def key_id(connection: sqlite3.Connection, acme: str) -> str:
    return create_key(connection, acme, now_ms=NOW)[0].id


def tokens(window: Window, value: int, origin: str) -> Limit:
    return Limit(Counted("tenant", "acme", Unit.TOKENS, window), value, origin)


def test_a_limit_is_set_changed_and_taken_away(connection: sqlite3.Connection, acme: str) -> None:
    set_limit(connection, "tenant", acme, MONTH)
    assert effective(connection, acme) == (tokens(Window.MONTH, 1000, "tenant"),)
    set_limit(connection, "tenant", acme, Written.parse("tokens/month=5"))
    assert [one.value for one in limits_of(connection, "tenant", acme)] == [5]
    unset_limit(connection, "tenant", acme, Unit.TOKENS, Window.MONTH)
    assert effective(connection, acme) == ()
    with pytest.raises(StoreError, match="tenant acme has no limit tokens/month;"):
        unset_limit(connection, "tenant", acme, Unit.TOKENS, Window.MONTH)


def test_limits_with_other_filters_stand_beside_each_other(connection: sqlite3.Connection, acme: str) -> None:
    set_limit(connection, "tenant", acme, DAY)
    set_limit(connection, "tenant", acme, DAY, model="gpt-4o*", tokens="output", soft=True)
    found = effective(connection, acme)
    assert [(one.counted.name, one.soft) for one in found] == [
        ("tokens/day", False),
        ("tokens/day (output of gpt-4o*)", True),
    ]


def test_a_tenants_own_limit_takes_the_place_of_its_plans(connection: sqlite3.Connection, acme: str) -> None:
    set_limit(connection, "plan", "starter", MONTH)
    set_limit(connection, "plan", "starter", DAY)
    assert effective(connection, acme) == ()
    set_plan(connection, acme, "starter")
    set_limit(connection, "tenant", acme, Written.parse("tokens/day=7"))
    found = {one.counted.name: (one.value, one.origin) for one in effective(connection, acme)}
    assert found == {"tokens/month": (1000, "plan starter"), "tokens/day": (7, "tenant")}
    assert plans(connection) == ["starter"]


def test_a_keys_limit_comes_on_top(connection: sqlite3.Connection, acme: str, key_id: str) -> None:
    set_limit(connection, "tenant", acme, DAY)
    set_limit(connection, "key", key_id, DAY)
    found = effective(connection, acme, key_id)
    assert [(one.counted.scope, one.counted.owner) for one in found] == [("tenant", acme), ("key", key_id)]
    assert len(effective(connection, acme)) == 1
    assert [one.counted.owner for one in effective(connection, "no tenant", key_id)] == [key_id]


def test_a_keys_period_is_its_own_tenants_whoever_it_acts_for(
    connection: sqlite3.Connection, acme: str, key_id: str
) -> None:
    create_tenant(connection, "other", now_ms=NOW + 5)
    set_limit(connection, "key", key_id, Written.parse("tokens/period=5"))
    for subject in (acme, "other", "no tenant"):
        assert [one.counted.anchor_ms for one in effective(connection, subject, key_id)] == [NOW]


def test_a_period_begins_on_the_tenants_day(connection: sqlite3.Connection, acme: str) -> None:
    set_limit(connection, "tenant", acme, Written.parse("tokens/period=5"))
    assert [one.counted.anchor_ms for one in effective(connection, acme)] == [NOW]
    set_anchor(connection, acme, 5_000)
    assert [one.counted.anchor_ms for one in effective(connection, acme)] == [5_000]


def test_prepaid_amounts_are_added_once(connection: sqlite3.Connection, acme: str) -> None:
    def add(amount: int, top_up_id: str) -> bool:
        return top_up(connection, acme, Unit.TOKENS, amount, top_up_id=top_up_id, note="", now_ms=NOW)

    assert add(100, "first")
    assert not add(100, "first")
    with pytest.raises(StoreError, match="was made already"):
        add(200, "first")
    assert effective(connection, acme) == (tokens(Window.TOTAL, 100, "prepaid"),)
    set_limit(connection, "tenant", acme, Written.parse("tokens/total=50"))
    assert add(7, "second")
    assert effective(connection, acme) == (tokens(Window.TOTAL, 157, "tenant, prepaid"),)
    with pytest.raises(StoreError, match="there is no tenant"):
        top_up(connection, "nobody", Unit.TOKENS, 1, top_up_id="x", note="", now_ms=NOW)


def test_every_change_counts_up_the_revision_by_which_servers_notice(connection: sqlite3.Connection, acme: str) -> None:
    def revision() -> int:
        number: int = connection.execute("SELECT number FROM revision").fetchone()[0]
        return number

    seen = [revision()]
    set_limit(connection, "tenant", acme, DAY)
    seen.append(revision())
    set_limit(connection, "tenant", acme, Written.parse("tokens/day=1"))
    seen.append(revision())
    unset_limit(connection, "tenant", acme, Unit.TOKENS, Window.DAY)
    seen.append(revision())
    top_up(connection, acme, Unit.TOKENS, 1, top_up_id="x", note="", now_ms=NOW)
    seen.append(revision())
    assert sorted(set(seen)) == seen


def test_slips_are_told(connection: sqlite3.Connection, acme: str) -> None:
    for kind, owner, words in (
        ("tenant", "nobody", "there is no tenant nobody"),
        ("key", "key_none", "there is no key key_none"),
        ("plan", "No Plan", "plan 'No Plan': use"),
    ):
        with pytest.raises(StoreError, match=words):
            set_limit(connection, kind, owner, DAY)  # type: ignore[arg-type] # one of the three
    with pytest.raises(StoreError, match="is no kind of tokens"):
        set_limit(connection, "tenant", acme, DAY, tokens="words")


def test_an_owner_has_no_more_limits_than_the_bound(connection: sqlite3.Connection, acme: str) -> None:
    for number in range(LIMITS_MAX):
        set_limit(connection, "tenant", acme, DAY, model=f"m{number}")
    with pytest.raises(StoreError, match=f"more than {LIMITS_MAX}"):
        set_limit(connection, "tenant", acme, DAY, model="one more")
    assert stored.check_plan("pro.v2") == "pro.v2"


def test_top_ups_are_listed_newest_first_and_in_parts(connection: sqlite3.Connection, acme: str) -> None:
    create_tenant(connection, "other", now_ms=NOW)
    for number, tenant_id in enumerate((acme, "other", acme)):
        top_up(connection, tenant_id, Unit.TOKENS, 5, top_up_id=f"t{number}", note=f"n{number}", now_ms=NOW)
    newest, *rest = stored.top_ups(connection)
    assert newest == stored.TopUp("t2", acme, Unit.TOKENS, 5, NOW, "n2")
    assert [one.id for one in rest] == ["t1", "t0"]
    assert [one.id for one in stored.top_ups(connection, after="t2", limit=1)] == ["t1"]
    assert [one.id for one in stored.top_ups(connection, acme)] == ["t2", "t0"]
    assert (stored.has_top_up(connection, "t0"), stored.has_top_up(connection, "t9")) == (True, False)
