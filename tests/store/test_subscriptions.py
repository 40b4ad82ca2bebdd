from __future__ import annotations

import sqlite3

import pytest

from proxy.errors import StoreError
from proxy.store.subscriptions import current, document, end, keep, latest, subscribe, subscriptions
from proxy.store.tenants import create_tenant

START = 1_776_076_200_000


@pytest.fixture(autouse=True)
def acme(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "acme", now_ms=START)


def subscribed(connection: sqlite3.Connection, start_ms: int = START, tenant: str = "acme") -> None:
    known = latest(connection, "starter")
    version = keep(connection, "starter", "{}") if known is None else known[0]
    subscribe(connection, tenant, "starter", version, zone="UTC", anchor_ms=START, start_ms=start_ms)


def test_versions_of_a_plan_are_numbered_and_kept(connection: sqlite3.Connection) -> None:
    assert latest(connection, "starter") is None
    assert [keep(connection, "starter", text) for text in ("a", "b")] == [1, 2]
    assert keep(connection, "pro", "c") == 1
    assert latest(connection, "starter") == (2, "b")
    assert [document(connection, "starter", version) for version in (1, 2)] == ["a", "b"]
    with pytest.raises(StoreError, match="no version 3 of plan starter"):
        document(connection, "starter", 3)


def test_a_tenant_has_one_subscription_at_a_time(connection: sqlite3.Connection) -> None:
    subscribed(connection)
    with pytest.raises(StoreError, match="acme has a subscription already"):
        subscribed(connection, START + 1)
    one = current(connection, "acme")
    assert one is not None
    end(connection, one, START + 5_000)
    assert current(connection, "acme") is None
    subscribed(connection, START + 5_000)
    assert [(one.start_ms, one.end_ms) for one in subscriptions(connection, "acme")] == [
        (START, START + 5_000),
        (START + 5_000, None),
    ]


def test_the_file_itself_holds_only_one_that_goes_on(connection: sqlite3.Connection) -> None:
    subscribed(connection)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        connection.execute(
            "INSERT INTO subscriptions (tenant_id, plan, version, zone, anchor_ms, start_ms)"
            " VALUES ('acme', 'starter', 1, 'UTC', 0, 0)"
        )


def test_it_never_ends_before_it_begins(connection: sqlite3.Connection) -> None:
    subscribed(connection)
    one = current(connection, "acme")
    assert one is not None
    end(connection, one, START - 1)
    end(connection, one, START + 9)
    assert [one.end_ms for one in subscriptions(connection)] == [START]


def test_those_of_one_tenant_or_of_all(connection: sqlite3.Connection) -> None:
    create_tenant(connection, "other", now_ms=START)
    subscribed(connection)
    subscribed(connection, tenant="other")
    assert [one.tenant_id for one in subscriptions(connection)] == ["acme", "other"]
    assert [one.tenant_id for one in subscriptions(connection, "other")] == ["other"]
    assert subscriptions(connection, "nobody") == []


def test_only_a_tenant_can_subscribe_and_only_to_a_plan_that_is_kept(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        subscribed(connection, tenant="nobody")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        subscribe(connection, "acme", "pro", 1, zone="UTC", anchor_ms=0, start_ms=0)
