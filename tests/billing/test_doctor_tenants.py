"""What is concluded of tenants where an engine tells only a part."""

from __future__ import annotations

from proxy.billing.doctor_tenants import check_attribution, check_customers, check_subscriptions
from proxy.billing.evidence import Evidence
from proxy.errors import EngineError, EngineRefused
from proxy.instants import parse_instant
from tests.billing.sound import CATALOG, books

CUSTOMER = {"id": "1", "key": "user-001"}


def test_nothing_is_concluded_from_what_was_not_told() -> None:
    refused: dict[str, EngineError] = {
        "/customers": EngineRefused("no", 403),
        "/subscriptions": EngineRefused("no", 403),
    }
    evidence = Evidence(books(), refused=refused)
    for check in (check_customers, check_attribution, check_subscriptions):
        assert [*check(evidence, CATALOG)] == []


def test_a_subject_of_a_customer_is_attributed() -> None:
    acme = {"id": "1", "key": "acme", "usage_attribution": {"subject_keys": ["user-001"]}}
    evidence = Evidence(books(), customers=[acme])
    assert [*check_customers(evidence, CATALOG)] == [*check_attribution(evidence, CATALOG)] == []
    (found,) = check_subscriptions(evidence, CATALOG)
    assert found.code == "no_subscription"


def test_an_earlier_subscription_counts_for_when_it_began() -> None:
    ended = {"customer_id": "1", "status": "inactive", "active_from": "2026-04-01T00:00:00Z", "plan_id": "x"}
    now = {"customer_id": "1", "status": "active", "active_from": "2026-04-13T10:00:00Z", "plan_id": "x"}
    evidence = Evidence(books(plans={}), customers=[CUSTOMER], subscriptions=[ended, now])
    assert [*check_subscriptions(evidence, CATALOG)] == []
    evidence.subscriptions.pop(0)
    (found,) = check_subscriptions(evidence, CATALOG)
    assert found.code == "subscription_late"


def test_what_happens_in_the_second_of_the_beginning_is_billed() -> None:
    begun = {"customer_id": "1", "status": "active", "created_at": "2026-04-13T07:30:00.900Z", "plan_id": "x"}
    evidence = Evidence(books(plans={}), customers=[CUSTOMER], subscriptions=[begun])
    assert evidence.books.first_ms["user-001"] < parse_instant(begun["created_at"])
    assert [*check_subscriptions(evidence, CATALOG)] == []
