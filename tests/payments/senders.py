"""OpenMeter and Stripe as senders of notifications: payloads as they are described, and signed as they sign.

Stripe's signature is made here by its published scheme; `test_signatures` has one that its official library made.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
from standardwebhooks import Webhook

OPENMETER_SECRET = "whsec_S6g2HLnTwd9AhHwUIMFggVS9OfoPafN8"
STRIPE_SECRET = "whsec_4fV0mPq7sT2xYc9LkR1nWd8e"
HOOKS = {"TOLLGATE_HOOKS__OPENMETER_SECRET": OPENMETER_SECRET, "TOLLGATE_HOOKS__STRIPE_SECRET": STRIPE_SECRET}

TIME_S = 1_776_076_200  # 2026-04-13T10:30:00Z
INVOICE = "01G65Z755AFWAKHE12NY000BB1"
CUSTOMER = "01G65Z755AFWAKHE12NY00CST1"
EVENT = "01G65Z755AFWAKHE12NY000EV1"
#: Who pays, by name: nothing of it may get further than here.
PERSON = {"name": "Ada Canary-Lovelace", "email": "ada.canary@example.com", "line1": "12 Canary Row"}


def instant(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


def openmeter_event(
    kind: str = "invoice.updated",
    *,
    status: str = "issued",
    failed: bool = False,
    key: str | None = "user-001",
    subjects: tuple[str, ...] = (),
    invoice: str = INVOICE,
    event: str = EVENT,
    time_s: float = TIME_S,
) -> dict[str, Any]:
    zero = dict.fromkeys(
        (
            *("amount", "chargesTotal", "discountsTotal", "creditsTotal", "taxesInclusiveTotal"),
            *("taxesExclusiveTotal", "taxesTotal", "total"),
        ),
        "0.03",
    )
    customer: dict[str, Any] = {
        "id": CUSTOMER,
        "name": PERSON["name"],
        "addresses": [{"line1": PERSON["line1"]}],
        "usageAttribution": {"subjectKeys": list(subjects)},
    }
    return {
        "id": event,
        "type": kind,
        "timestamp": instant(time_s),
        "data": {
            "id": invoice,
            "createdAt": instant(TIME_S),
            "updatedAt": instant(time_s),
            "type": "standard",
            "supplier": {"name": "ACME"},
            "customer": customer if key is None else customer | {"key": key},
            "number": "INV-1",
            "currency": "USD",
            "totals": zero,
            "status": status,
            "statusDetails": {
                "immutable": True,
                "failed": failed,
                "extendedStatus": f"{status}.failed" if failed else status,
                "availableActions": {},
            },
            "workflow": {},
        },
    }


def openmeter_failed(**given: Any) -> dict[str, Any]:
    return openmeter_event(status="payment_processing", failed=True, **given)


def stripe_event(
    kind: str = "invoice.payment_failed",
    *,
    metadata: dict[str, str] | None = None,
    invoice: str = "in_1Canary",
    customer: str = "cus_1",
    event: str = "evt_1",
    created: Any = TIME_S,
    **members: Any,
) -> dict[str, Any]:
    return {
        "id": event,
        "object": "event",
        "api_version": "2025-03-31.basil",
        "type": kind,
        "livemode": False,
        "created": created,
        "data": {
            "object": {
                "id": invoice,
                "object": "invoice",
                "customer": customer,
                "customer_name": PERSON["name"],
                "customer_email": PERSON["email"],
                "currency": "usd",
                "metadata": metadata or {},
                **members,
            }
        },
    }


def of_tenant(tenant: str = "user-001") -> dict[str, str]:
    return {"tollgate_tenant": tenant}


def svix_headers(body: bytes, *, prefix: str = "svix", secret: str = OPENMETER_SECRET, at: float = 0) -> dict[str, str]:
    """`at` is when it is signed, in unix seconds; now, if left out."""
    signed_at = datetime.fromtimestamp(int(at or time.time()), UTC)
    signature = Webhook(secret).sign("msg_1", signed_at, body.decode())
    values = {"id": "msg_1", "timestamp": str(int(signed_at.timestamp())), "signature": signature}
    return {f"{prefix}-{name}": value for name, value in values.items()}


def stripe_headers(body: bytes, *, secret: str = STRIPE_SECRET, at: float = 0) -> dict[str, str]:
    stamp = int(at or time.time())
    made = hmac.new(secret.encode(), b"%d.%b" % (stamp, body), hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={stamp},v1={made},v0={'0' * 64}"}


def send(url: str, document: dict[str, Any]) -> httpx.Response:
    """One notification, as its sender sends it: Stripe's events are called so."""
    body = orjson.dumps(document)
    if document.get("object") == "event":
        return httpx.post(f"{url}/hooks/stripe", content=body, headers=stripe_headers(body))
    return httpx.post(f"{url}/hooks/openmeter", content=body, headers=svix_headers(body))
