"""What a notification tells of an invoice, in OpenMeter's words and in Stripe's. Anything else tells nothing.

Shapes: `NotificationEventInvoiceCreatedPayload` and `…UpdatedPayload` of OpenMeter's v1 API; Stripe's `Event` with an
`Invoice`. What OpenMeter makes at Stripe has its ids in the metadata (`om_invoice_id`, `om_customer_id`), which is how
both tell of one invoice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from proxy.errors import InvalidRequest
from proxy.model import Topic

Document = Mapping[str, Any]
Source = Literal["openmeter", "stripe"]

#: The metadata of an invoice, or of its subscription, at Stripe, that names the tenant where OpenMeter made neither.
TENANT_METADATA = "tollgate_tenant"

_OPENMETER = {
    "issued": Topic.INVOICE_FINALIZED,
    "payment_processing": Topic.INVOICE_FINALIZED,
    "paid": Topic.INVOICE_PAID,
    "voided": Topic.INVOICE_VOIDED,
}
_STRIPE = {
    "invoice.created": Topic.INVOICE_CREATED,
    "invoice.finalized": Topic.INVOICE_FINALIZED,
    "invoice.payment_failed": Topic.INVOICE_PAYMENT_FAILED,
    "invoice.paid": Topic.INVOICE_PAID,
    "invoice.payment_succeeded": Topic.INVOICE_PAID,
    "invoice.voided": Topic.INVOICE_VOIDED,
}
_ID_CHARS_MAX = 256
_SUBJECTS_MAX = 1_000
#: The year 9999: what is later is no time of day.
_SECONDS_MAX = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that happened to an invoice at `time_ms` (unix ms, by the sender's clock).

    `event` is the sender's id of it, `invoice` OpenMeter's id, or Stripe's where OpenMeter did not make it, and
    `customer` who pays, in the sender's own id. `named` are tenants' ids that it names itself, `payers` ids of who pays
    that may be linked to tenants (`proxy.store.payments`), the surest first.
    """

    source: Source
    event: str
    topic: Topic
    time_ms: int
    invoice: str
    customer: str
    currency: str
    named: tuple[str, ...]
    payers: tuple[str, ...]


def from_openmeter(body: bytes) -> Told | None:
    """None for what tells of no invoice, or of a state that nobody is told of. Raises `InvalidRequest`."""
    document = _document(body)
    if document.get("type") not in ("invoice.created", "invoice.updated"):
        return None
    invoice = _inner(document, "data")
    topic = _topic(invoice) if document["type"] == "invoice.updated" else Topic.INVOICE_CREATED
    if topic is None:
        return None
    payer = _inner(invoice, "customer", "data.customer")
    customer = _optional(payer, "id")
    subjects = _map(payer.get("usageAttribution")).get("subjectKeys")
    keys = [payer.get("key"), *(subjects[:_SUBJECTS_MAX] if isinstance(subjects, list) else [])]
    return Told(
        "openmeter",
        _text(document, "id"),
        topic,
        _instant(document, "timestamp"),
        _text(invoice, "id", "data.id"),
        customer,
        _optional(invoice, "currency").upper(),
        named=tuple(key for key in keys if isinstance(key, str)),
        payers=(customer,) if customer else (),
    )


def from_stripe(body: bytes) -> Told | None:
    """None for what tells of no invoice, or of something that nobody is told of. Raises `InvalidRequest`."""
    document = _document(body)
    kind = document.get("type")
    topic = _STRIPE.get(kind) if isinstance(kind, str) else None
    if topic is None:
        return None
    invoice = _inner(_inner(document, "data"), "object", "data.object")
    metadata = _map(invoice.get("metadata"))
    # The subscription's metadata moved below `parent` in the API's version of March 2025.
    subscriptions = (invoice, _map(invoice.get("parent")))
    inherited = [_map(_map(one.get("subscription_details")).get("metadata")) for one in subscriptions]
    customer = _optional(invoice, "customer")
    named = [_optional(one, TENANT_METADATA) for one in (metadata, *inherited)]
    return Told(
        "stripe",
        _text(document, "id"),
        topic,
        _seconds(document, "created"),
        _optional(metadata, "om_invoice_id") or _text(invoice, "id", "data.object.id"),
        customer,
        _optional(invoice, "currency").upper(),
        named=tuple(filter(None, named)),
        payers=tuple(filter(None, (_optional(metadata, "om_customer_id"), customer))),
    )


READERS: dict[Source, Callable[[bytes], Told | None]] = {"openmeter": from_openmeter, "stripe": from_stripe}


def _topic(invoice: Document) -> Topic | None:
    status = _text(invoice, "status", "data.status")
    if status == "payment_processing" and _map(invoice.get("statusDetails")).get("failed") is True:
        return Topic.INVOICE_PAYMENT_FAILED
    return _OPENMETER.get(status)


def _document(body: bytes) -> Document:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is no JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidRequest("The body is no JSON object.")
    return document


def _map(value: object) -> Document:
    return value if isinstance(value, dict) else {}


def _inner(document: Document, name: str, path: str = "") -> Document:
    found = document.get(name)
    if not isinstance(found, dict):
        raise _wrong(path or name, "an object")
    return found


def _text(document: Document, name: str, path: str = "") -> str:
    found = _optional(document, name)
    if not found:
        raise _wrong(path or name, f"text of at most {_ID_CHARS_MAX} characters")
    return found


def _optional(document: Document, name: str) -> str:
    """What stands there; empty for what is no text that an id, a name of a state or a currency can be."""
    found = document.get(name)
    return found if isinstance(found, str) and len(found) <= _ID_CHARS_MAX and found.isprintable() else ""


def _instant(document: Document, name: str) -> int:
    try:
        found = datetime.fromisoformat(_text(document, name))
        if found.tzinfo is None:
            raise ValueError
        time_ms = round(found.timestamp() * 1000)
        if not 0 <= time_ms <= _SECONDS_MAX * 1000:
            raise ValueError
        return time_ms
    except (ValueError, OverflowError):
        raise _wrong(name, "an RFC 3339 instant") from None


def _seconds(document: Document, name: str) -> int:
    found = document.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= _SECONDS_MAX:
        raise _wrong(name, "unix seconds")
    return found * 1000


def _wrong(path: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"'{path}' is missing or wrong: it must be {what}.", param=path)
