"""A tenant's way into billing, from plan to plan, and out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from proxy.billing import onboarding
from proxy.billing.catalog import Catalog
from proxy.billing.onboarding import Begun, Onboarded, Person, cancel, change, going_on
from proxy.declaration.apply import Declared
from proxy.errors import StoreError
from proxy.instants import parse_instant
from proxy.limits import Written
from proxy.source import Source
from proxy.store import limits, subscriptions, tenants
from proxy.store.database import Database
from proxy.store.subscriptions import Subscription
from tests.billing.catalogs import FEE, FREE, UNIT, catalog, plan_text

NOW = parse_instant("2026-04-13T10:30:15.750Z")
SECOND = NOW // 1_000 * 1_000
OF = catalog(
    plan_text("starter", UNIT),
    plan_text("free", FREE),
    plan_text("pro", FEE, UNIT),
    more="[subscriptions]\nacme = 'pro'\n",
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    with closing(database.connect()) as made:
        yield made


def onboard(
    connection: sqlite3.Connection,
    plan: str | None = "starter",
    person: Person = Person("user-001"),  # noqa: B008 (frozen)
    *,
    of: Catalog = OF,
    now_ms: int = NOW,
) -> Onboarded:
    return onboarding.onboard(connection, of, person, plan, zone="UTC", now_ms=now_ms)


def limits_of(connection: sqlite3.Connection) -> dict[str, int]:
    return {one.counted.name: one.value for one in limits.limits_of(connection, "tenant", "user-001")}


def test_a_new_tenant_is_made_subscribed_and_given_a_key(connection: sqlite3.Connection) -> None:
    done = onboard(connection, person=Person("user-001", "Acme", "first"))
    assert (done.subscribed.is_new_tenant, done.subscribed.is_new) == (True, True)
    one = done.subscribed.subscription
    assert (one.plan, one.version, one.start_ms, one.anchor_ms, one.end_ms) == ("starter", 1, SECOND, SECOND, None)
    assert tenants.tenant(connection, "user-001").name == "Acme"
    assert done.key is not None
    assert done.secret is not None
    assert (done.key.name, tenants.has_key(connection, "user-001", done.secret)) == ("first", True)


def test_again_it_changes_nothing(connection: sqlite3.Connection) -> None:
    onboard(connection, person=Person("user-001", "Acme", "first"))
    before = [*connection.iterdump()]
    again = onboard(connection, person=Person("user-001", "Acme", "first"), now_ms=NOW + 10**9)
    assert (again.key, again.secret, again.subscribed.is_new_tenant, again.subscribed.is_new) == (
        None,
        None,
        False,
        False,
    )
    assert [*connection.iterdump()] == before


def test_a_key_of_another_name_is_another(connection: sqlite3.Connection) -> None:
    onboard(connection, person=Person("user-001", key_name="first"))
    assert onboard(connection, person=Person("user-001")).key is None
    assert onboard(connection, person=Person("user-001", key_name="second")).key is not None
    assert len(tenants.keys(connection, "user-001")) == 2


def test_a_key_that_holds_no_more_is_none(connection: sqlite3.Connection) -> None:
    first = onboard(connection).key
    assert first is not None
    tenants.revoke_key(connection, first.id, now_ms=NOW)
    assert onboard(connection).key is not None


def test_a_key_may_be_brought_along_once_or_not_be_wanted(connection: sqlite3.Connection) -> None:
    assert onboard(connection, person=Person("user-001", wants_key=False)).key is None
    brought = Person("user-001", secret="ak_user1_abc123")
    assert onboard(connection, person=brought).secret == "ak_user1_abc123"
    assert onboard(connection, person=brought).key is None
    with pytest.raises(StoreError, match="this key is in use already"):
        onboard(connection, person=Person("user-002", secret="ak_user1_abc123"))


def test_a_tenant_that_is_there_keeps_its_anchor(connection: sqlite3.Connection) -> None:
    tenants.create_tenant(connection, "user-001", now_ms=NOW - 5 * 86_400_000)
    one = onboard(connection).subscribed
    assert one.is_new_tenant is False
    assert (one.subscription.anchor_ms, one.subscription.start_ms) == (SECOND - 5 * 86_400_000, SECOND)


def test_the_plan_may_stand_in_the_catalog(connection: sqlite3.Connection) -> None:
    assert onboard(connection, None, Person("acme")).subscribed.subscription.plan == "pro"
    with pytest.raises(StoreError, match=r"say which plan user-001 is to be on, here or in the catalog"):
        onboard(connection, None)


def test_a_plan_that_is_none_and_another_plan_are_told(connection: sqlite3.Connection) -> None:
    with pytest.raises(StoreError, match=r"there is no plan startr in the catalog; did you mean starter\?"):
        onboard(connection, "startr")
    onboard(connection)
    with pytest.raises(
        StoreError, match="is on plan starter; to change that: tollgate billing change user-001 --plan pro"
    ):
        onboard(connection, "pro")


def test_limits_come_with_the_plan_and_go_with_it(connection: sqlite3.Connection) -> None:
    assert onboard(connection, "free").subscribed.held.set == ("tokens/period 10,000",)
    assert limits_of(connection) == {"tokens/period": 10_000}
    onboard(connection, "free")
    done = change(connection, OF, "user-001", "pro", now_ms=NOW + 5_000)
    assert (done.is_new, done.held.set, limits_of(connection)) == (True, (), {})
    change(connection, OF, "user-001", "free", now_ms=NOW + 9_000)
    assert limits_of(connection) == {"tokens/period": 10_000}
    cancel(connection, "user-001", now_ms=NOW + 10_000)
    assert limits_of(connection) == {}


def test_limits_that_somebody_has_set_stay(connection: sqlite3.Connection) -> None:
    tenants.create_tenant(connection, "user-001", now_ms=NOW)
    limits.set_limit(connection, "tenant", "user-001", Written.parse("tokens/period=500"))
    held = onboard(connection, "free").subscribed.held
    assert (held.set, held.kept) == ((), ("tokens/period",))
    change(connection, OF, "user-001", "pro", now_ms=NOW + 5_000)
    assert limits_of(connection) == {"tokens/period": 500}


def test_a_plan_of_limits_with_the_same_name_is_followed(connection: sqlite3.Connection) -> None:
    for name in ("free", "pro"):
        limits.set_limit(connection, "plan", name, Written.parse("requests/minute=60"))
    assert onboard(connection, "free").subscribed.tenant.plan == "free"
    assert change(connection, OF, "user-001", "pro", now_ms=NOW).tenant.plan == "pro"
    assert change(connection, OF, "user-001", "starter", now_ms=NOW).tenant.plan == ""
    tenants.set_plan(connection, "user-001", "free")
    assert change(connection, OF, "user-001", "pro", now_ms=NOW).tenant.plan == "free"


def test_a_change_is_at_once_and_the_periods_go_on(connection: sqlite3.Connection) -> None:
    onboard(connection)
    change(connection, OF, "user-001", "pro", now_ms=NOW + 60_000)
    first, second = subscriptions.subscriptions(connection, "user-001")
    assert (first.plan, first.end_ms) == ("starter", SECOND + 60_000)
    assert (second.plan, second.start_ms, second.anchor_ms) == ("pro", SECOND + 60_000, SECOND)
    assert change(connection, OF, "user-001", "pro", now_ms=NOW + 99_000).is_new is False
    assert len(subscriptions.subscriptions(connection, "user-001")) == 2


def test_a_plan_is_kept_as_it_was_until_the_tenant_is_put_on_the_new_one(connection: sqlite3.Connection) -> None:
    onboard(connection)
    dearer = catalog(plan_text("starter", UNIT.replace("0.000002", "0.000003")))
    again = onboard(connection, of=dearer).subscribed
    assert (again.is_outdated, again.subscription.version) == (True, 1)
    done = change(connection, dearer, "user-001", "starter", now_ms=NOW + 60_000)
    assert (done.is_new, done.subscription.version) == (True, 2)
    other = onboard(connection, person=Person("user-002"), of=dearer).subscribed
    assert (other.subscription.version, other.is_outdated) == (2, False)


def test_a_version_is_the_same_as_long_as_it_says_the_same(connection: sqlite3.Connection) -> None:
    """Also where another release of this program writes it otherwise."""
    onboard(connection)
    spaced = subscriptions.document(connection, "starter", 1).replace(",", ", ")
    connection.execute("UPDATE plan_versions SET document = ?", (spaced,))
    assert onboard(connection).subscribed.is_outdated is False
    assert change(connection, OF, "user-001", "starter", now_ms=NOW).is_new is False
    assert onboard(connection, person=Person("user-002")).subscribed.subscription.version == 1


def test_two_at_once_make_one_of_each(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/tollgate.db")
    database.create()
    barrier = Barrier(4)

    def one(_: int) -> bool:
        barrier.wait()
        with database.transaction() as connection:
            return onboard(connection).key is not None

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(one, range(4))) == [False, False, False, True]
    with closing(database.connect()) as connection:
        assert len(subscriptions.subscriptions(connection)) == len(tenants.keys(connection)) == 1


def test_a_clock_that_is_set_back_ends_no_subscription_before_it_began(connection: sqlite3.Connection) -> None:
    onboard(connection)
    change(connection, OF, "user-001", "pro", now_ms=NOW - 86_400_000)
    first, second = subscriptions.subscriptions(connection, "user-001")
    assert first.start_ms == first.end_ms == second.start_ms == SECOND


def test_who_has_no_subscription_is_told_how_to_make_one(connection: sqlite3.Connection) -> None:
    tenants.create_tenant(connection, "user-001", now_ms=NOW)
    for question in (
        lambda: change(connection, OF, "user-001", "pro", now_ms=NOW),
        lambda: cancel(connection, "user-001", now_ms=NOW),
        lambda: going_on(connection, "user-001"),
    ):
        with pytest.raises(StoreError, match="make one: tollgate billing onboard user-001 --plan PLAN"):
            question()


def test_who_was_cancelled_may_come_back(connection: sqlite3.Connection) -> None:
    onboard(connection)
    assert cancel(connection, "user-001", now_ms=NOW + 60_000).end_ms == SECOND + 60_000
    again = onboard(connection, "pro", now_ms=NOW + 10**8).subscribed
    assert (again.is_new, again.is_new_tenant) == (True, False)


def test_a_declared_tenant_is_subscribed_and_its_limits_and_keys_stay_as_its_file_has_them(
    connection: sqlite3.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "tollgate.toml"
    path.write_text(f"[tenants.user-001]\nkeys = [{{sha256 = '{tenants.hash_of(b'ak_acme_production').hex()}'}}]\n")
    Declared(Source(path, {}), "UTC", lambda: NOW).apply_first(Database(f"sqlite:///{tmp_path}/tollgate.db"))
    done = onboard(connection, "free")
    assert (done.subscribed.is_new_tenant, done.subscribed.is_new, done.key) == (False, True, None)
    assert [one.reason for one in done.subscribed.held.unheld] == [onboarding._DECLARED]
    assert limits_of(connection) == {}
    with pytest.raises(StoreError, match="is declared in"):
        onboard(connection, "free", Person("user-001", key_name="another"))
    change(connection, OF, "user-001", "pro", now_ms=NOW + 5_000)
    cancel(connection, "user-001", now_ms=NOW + 9_000)
    assert limits_of(connection) == {}


def test_what_began_at_an_engine_begins_with_it_here(connection: sqlite3.Connection) -> None:
    begun = Begun(SECOND - 60_000, SECOND - 86_400_000)
    done = onboarding.onboard(connection, OF, Person("user-001"), "starter", zone="UTC", now_ms=NOW, begun=begun)
    one = done.subscribed.subscription
    assert (one.start_ms, one.anchor_ms) == (begun.start_ms, begun.anchor_ms)
    assert done.subscribed.tenant.anchor_ms == begun.anchor_ms, "limits by the period go with it"
    later = Begun(SECOND, SECOND)
    again = onboarding.onboard(connection, OF, Person("user-001"), "starter", zone="UTC", now_ms=NOW, begun=later)
    assert again.subscribed.subscription == one


def test_it_never_begins_before_the_one_before_has_ended(connection: sqlite3.Connection) -> None:
    onboard(connection, "pro")
    cancel(connection, "user-001", now_ms=NOW + 60_000)
    begun = Begun(SECOND - 60_000, SECOND)
    done = onboarding.onboard(
        connection, OF, Person("user-001"), "starter", zone="UTC", now_ms=NOW + 90_000, begun=begun
    )
    assert done.subscribed.subscription.start_ms == SECOND + 60_000


def test_a_rehearsal_changes_nothing_and_refuses_what_would_be_refused(connection: sqlite3.Connection) -> None:
    before = list(connection.iterdump())

    def rehearse(person: Person, plan: str | None = None) -> Subscription:
        return onboarding.rehearse(connection, OF, person, plan, zone="UTC", now_ms=NOW)

    end = rehearse(Person("acme"))
    assert (end.plan, end.anchor_ms) == ("pro", SECOND)
    for person, plan in ((Person("a b"), "pro"), (Person("acme"), "none"), (Person("other"), None)):
        with pytest.raises(StoreError):
            rehearse(person, plan)
    assert list(connection.iterdump()) == before
    onboard(connection)
    with pytest.raises(StoreError, match="to change that"):
        rehearse(Person("user-001"), "pro")
