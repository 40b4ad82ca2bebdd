"""What OpenMeter, Konnect and Stripe describe of payments: what is told of invoices, and what is asked and answered.

Of what is told the excerpt holds the schemas that they need, without prose, and an invoice without the parts of it that
nobody here reads (`_UNREAD`).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tests.billing import contract
from tests.billing.contract import Operation

HERE = Path(__file__)
TOLD = HERE.with_name("openmeter-v1-told.yaml")
V1 = (HERE.with_name("openmeter-v1-stripe.yaml"),)
V3 = (HERE.with_name("openmeter-v3-stripe.yaml"),)

INSTALL = ("/api/v1/marketplace/listings/{type}/install/apikey", "post")
APPS, PROFILES = ("/openmeter/apps", "get"), ("/openmeter/profiles", "get")
BILLING = ("/openmeter/customers/{customerId}/billing", "get")
V1_OPERATIONS: tuple[Operation, ...] = (INSTALL,)
V3_OPERATIONS: tuple[Operation, ...] = (APPS, PROFILES, BILLING)

CREATED, UPDATED = "NotificationEventInvoiceCreatedPayload", "NotificationEventInvoiceUpdatedPayload"
STRIPE_EVENT = "StripeWebhookEvent"
_UNREAD = ("lines", "payment", "workflow", "preceding", "validationIssues")


def told(whole: dict[str, Any]) -> dict[str, Any]:
    """The schemas of what is told, out of the whole document."""
    whole = copy.deepcopy(whole)
    for name in _UNREAD:
        del whole["components"]["schemas"]["Invoice"]["properties"][name]
    return contract.excerpt_of_schemas(whole, (CREATED, UPDATED, STRIPE_EVENT))


def faults_of(schema: str, document: object) -> list[str]:
    """What is wrong with a notification, by the description of it."""
    return contract.faults_of_schema(TOLD, schema, document)
