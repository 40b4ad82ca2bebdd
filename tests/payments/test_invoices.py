"""What is read out of a notification."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.model import Topic
from proxy.payments.invoices import READERS, Told, from_openmeter, from_stripe
from tests.payments.contract import CREATED, STRIPE_EVENT, UPDATED, faults_of
from tests.payments.senders import CUSTOMER, EVENT, INVOICE, TIME_S, of_tenant, openmeter_event, stripe_event


def openmeter(document: dict[str, Any]) -> Told | None:
    assert faults_of(CREATED if document["type"] == "invoice.created" else UPDATED, document) == []
    return from_openmeter(orjson.dumps(document))


def stripe(document: dict[str, Any]) -> Told | None:
    assert faults_of(STRIPE_EVENT, document) == []
    return from_stripe(orjson.dumps(document))


@pytest.mark.parametrize(
    ("given_", "topic"),
    [
        ({"kind": "invoice.created", "status": "draft"}, Topic.INVOICE_CREATED),
        ({"kind": "invoice.created", "status": "paid"}, Topic.INVOICE_CREATED),
        ({"status": "draft"}, None),
        ({"status": "issuing"}, None),
        ({"status": "issuing", "failed": True}, None),
        ({"status": "issued"}, Topic.INVOICE_FINALIZED),
        ({"status": "payment_processing"}, Topic.INVOICE_FINALIZED),
        ({"status": "payment_processing", "failed": True}, Topic.INVOICE_PAYMENT_FAILED),
        ({"status": "overdue"}, None),
        ({"status": "paid"}, Topic.INVOICE_PAID),
        ({"status": "uncollectible"}, None),
        ({"status": "voided"}, Topic.INVOICE_VOIDED),
    ],
)
def test_what_openmeter_tells_by_the_state_of_the_invoice(given_: dict[str, Any], topic: Topic | None) -> None:
    told = openmeter(openmeter_event(**given_))
    assert (told and told.topic) == topic


def test_openmeter_names_the_customer_and_its_subjects() -> None:
    told = openmeter(openmeter_event(subjects=("user-001", "user-002")))
    assert told == Told(
        source="openmeter",
        event=EVENT,
        topic=Topic.INVOICE_FINALIZED,
        time_ms=TIME_S * 1000,
        invoice=INVOICE,
        customer=CUSTOMER,
        currency="USD",
        named=("user-001", "user-001", "user-002"),
        payers=(CUSTOMER,),
    )


@pytest.mark.parametrize(
    ("kind", "topic"),
    [
        ("invoice.created", Topic.INVOICE_CREATED),
        ("invoice.finalized", Topic.INVOICE_FINALIZED),
        ("invoice.payment_failed", Topic.INVOICE_PAYMENT_FAILED),
        ("invoice.paid", Topic.INVOICE_PAID),
        ("invoice.payment_succeeded", Topic.INVOICE_PAID),
        ("invoice.voided", Topic.INVOICE_VOIDED),
        ("invoice.upcoming", None),
        ("setup_intent.succeeded", None),
    ],
)
def test_what_stripe_tells_by_the_type_of_the_event(kind: str, topic: Topic | None) -> None:
    told = stripe(stripe_event(kind))
    assert (told and told.topic) == topic


def test_an_invoice_that_openmeter_made_at_stripe_is_known_by_openmeters_ids() -> None:
    told = stripe(stripe_event(metadata={"om_invoice_id": INVOICE, "om_customer_id": CUSTOMER}))
    assert told is not None
    assert (told.invoice, told.customer, told.payers) == (INVOICE, "cus_1", (CUSTOMER, "cus_1"))
    assert (told.event, told.time_ms, told.currency, told.named) == ("evt_1", TIME_S * 1000, "USD", ())


@pytest.mark.parametrize(
    "members",
    [
        {"metadata": of_tenant()},
        {"subscription_details": {"metadata": of_tenant()}},
        {"parent": {"subscription_details": {"metadata": of_tenant()}}},
    ],
)
def test_another_invoice_names_its_tenant_in_metadata(members: dict[str, Any]) -> None:
    told = stripe(stripe_event(**members))
    assert told is not None
    assert (told.invoice, told.named, told.payers) == ("in_1Canary", ("user-001",), ("cus_1",))


@pytest.mark.parametrize(
    ("source", "change", "param"),
    [
        ("openmeter", {"id": None}, "id"),
        ("openmeter", {"timestamp": "yesterday"}, "timestamp"),
        ("openmeter", {"timestamp": "2026-04-13T10:30:00"}, "timestamp"),
        ("openmeter", {"timestamp": "9999-12-31T23:59:59-23:00"}, "timestamp"),
        ("openmeter", {"data": None}, "data"),
        ("openmeter", {"data": {"id": "01J", "status": "paid"}}, "data.customer"),
        ("openmeter", {"data": {"id": "01J", "customer": {}}}, "data.status"),
        ("openmeter", {"data": {"id": "i" * 257, "status": "paid", "customer": {}}}, "data.id"),
        ("stripe", {"id": 7}, "id"),
        ("stripe", {"created": -1}, "created"),
        ("stripe", {"created": True}, "created"),
        ("stripe", {"created": 1e9}, "created"),
        ("stripe", {"data": {"object": []}}, "data.object"),
        ("stripe", {"data": {"object": {"id": "in\n1"}}}, "data.object.id"),
    ],
)
def test_what_is_missing_or_wrong_is_named(source: str, change: dict[str, Any], param: str) -> None:
    document = (openmeter_event() if source == "openmeter" else stripe_event()) | change
    with pytest.raises(InvalidRequest) as refused:
        READERS[source](orjson.dumps(document))  # type: ignore[index]
    assert refused.value.param == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"type":"\xff"}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    for reader in READERS.values():
        with pytest.raises(InvalidRequest, match=r"^The body is no JSON"):
            reader(body)


def test_types_of_any_kind_tell_nothing() -> None:
    kinds: list[Any] = ["entitlements.reset", "", None, 7, [], {}]
    for kind in kinds:
        for reader in READERS.values():
            assert reader(orjson.dumps({"type": kind, "data": 7})) is None


_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text()
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(
    kind=st.sampled_from(["invoice.created", "invoice.updated", "invoice.paid"]),
    members=st.dictionaries(st.sampled_from(["id", "timestamp", "created", "data"]), _JSON),
    inner=st.dictionaries(st.sampled_from(["id", "status", "customer", "metadata", "object", "parent"]), _JSON),
)
def test_whatever_stands_in_the_fields_it_is_read_or_refused(
    kind: str, members: dict[str, Any], inner: dict[str, Any]
) -> None:
    body = orjson.dumps({"data": inner, **members, "type": kind}, option=orjson.OPT_NON_STR_KEYS)
    for reader in READERS.values():
        try:
            told = reader(body)
        except InvalidRequest:
            continue
        assert told is None or (told.event and told.invoice and told.time_ms >= 0)
