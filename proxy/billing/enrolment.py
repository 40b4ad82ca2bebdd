"""A tenant at the metering engine: a customer that its usage is attributed to, and a subscription to a plan.

Nothing is made twice: what is there is looked up before each call that makes it, and again where an answer was lost.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.billing.mapping import LABELS
from proxy.billing.openmeter import TRIES, WAIT_MAX_S, Document, OpenMeter, Sleep
from proxy.delivery.backoff import Backoff
from proxy.errors import EngineError, EngineRefused, EngineUnavailable, EngineUnreadable
from proxy.instants import iso_short, parse_instant

_CONFLICT = 409
#: Statuses of a subscription that is billed, or will be.
_GOING_ON = ("active", "scheduled")
_PAYMENT = (
    "; where it speaks of the billing set-up: the plan has a price, and this customer's payment is not set up at the"
    " engine (with Stripe: a customer id there, and a default payment method with a billing address)"
)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """When the subscription began at the engine (ms), by which its first billing period begins (ms), what is new."""

    customer_id: str
    subscription_id: str
    start_ms: int
    anchor_ms: int
    is_new_customer: bool
    is_new: bool


class Enrolment:
    """Enrols tenants at one engine."""

    def __init__(
        self,
        engine: OpenMeter,
        *,
        tries: int = TRIES,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._engine = engine
        self._tries = tries
        self._sleep = sleep
        self._random = random

    async def enrol(self, tenant_id: str, plan: str, *, name: str = "", anchor_ms: int) -> Enrolled:
        """`anchor_ms`: with it a billing period begins, and all others. Raises `EngineError`."""
        versions = await self._versions(plan)
        customer, is_new_customer = await self._ensure(
            lambda: self._customer(tenant_id), lambda: self._create_customer(tenant_id, name or tenant_id)
        )
        customer_id = self._text(customer, "id")
        body = {"customer": {"id": customer_id}, "plan": {"key": plan}, "billing_anchor": iso_short(anchor_ms)}
        subscription, is_new = await self._ensure(
            lambda: self._subscription(tenant_id, customer_id, plan, versions),
            lambda: self._create_subscription(tenant_id, body),
        )
        # Konnect says nothing of the beginning: it is when it was made, which is when it begins.
        begin = self._instant(subscription, "active_from" if subscription.get("active_from") else "created_at")
        anchor = self._instant(subscription, "billing_anchor")
        return Enrolled(customer_id, self._text(subscription, "id"), begin, anchor, is_new_customer, is_new)

    async def _ensure(
        self, find: Callable[[], Awaitable[Document | None]], create: Callable[[], Awaitable[Document]]
    ) -> tuple[Document, bool]:
        """What there is, made where there is none; and whether it was made now."""
        backoff = Backoff(WAIT_MAX_S, self._random)
        refused = False
        for left in reversed(range(self._tries)):
            found = await find()
            if found is not None:
                return found, False
            try:
                return await create(), True
            except EngineUnavailable as error:
                if not left:
                    raise
                await self._sleep(backoff.next_s(error.retry_after_s))
            except EngineRefused as error:
                # Somebody else may have been faster. It is to be found then.
                if error.status != _CONFLICT or refused or not left:
                    raise
                refused = True
        raise AssertionError("the last try returns or raises")

    async def _versions(self, plan: str) -> set[str]:
        """The ids of the plan's versions. Raises `EngineError` where none is published."""
        found = [one async for one in self._engine.by_number("/plans", {"filter[key][eq]": plan})]
        if not any(one.get("status") == "active" for one in found):
            raise EngineError(
                f"{self._engine.url}: plan {plan} is not published there: tollgate billing apply (or leave the engine"
                " out: --local)"
            )
        return {self._text(one, "id") for one in found}

    async def _customer(self, tenant_id: str) -> Document | None:
        found = await self._customers("key", tenant_id)
        if found is None:
            other = await self._customers("usage_attribution_subject_key", tenant_id)
            # It may have been made since the first look.
            if other is not None and other.get("key") != tenant_id:
                raise EngineError(
                    f"{self._engine.url}: the usage of {tenant_id} is attributed to customer {other.get('key')}: take"
                    f" the subject {tenant_id} from that customer first"
                )
            return other
        subjects = subjects_of(found)
        if subjects and tenant_id not in subjects:
            raise EngineError(
                f"{self._engine.url}: customer {tenant_id} has other subjects ({', '.join(subjects)}): add"
                f" {tenant_id} to its usage_attribution.subject_keys, or take them away"
            )
        return found

    async def _customers(self, field: str, value: str) -> Document | None:
        listed = self._engine.by_number("/customers", {f"filter[{field}][eq]": value})
        return next(iter([one async for one in listed if not one.get("deleted_at")]), None)

    async def _create_customer(self, tenant_id: str, name: str) -> Document:
        attribution = {"usage_attribution": {"subject_keys": [tenant_id]}}
        return await self._engine.change(
            "POST", "/customers", {"key": tenant_id, "name": name, "labels": LABELS} | attribution
        )

    async def _subscription(self, tenant_id: str, customer_id: str, plan: str, versions: set[str]) -> Document | None:
        async for one in self._engine.by_number("/subscriptions", {"filter[customer_id][eq]": customer_id}):
            if one.get("status") in _GOING_ON and not one.get("deleted_at"):
                if plan_id_of(one) not in versions:
                    raise EngineError(
                        f"{self._engine.url}: customer {tenant_id} is subscribed to another plan than {plan} there:"
                        " change or cancel that subscription at the engine, or onboard the tenant to that plan"
                    )
                return one
        return None

    async def _create_subscription(self, tenant_id: str, body: Document) -> Document:
        try:
            return await self._engine.change("POST", "/subscriptions", body)
        except EngineRefused as error:
            if error.status != _CONFLICT:
                raise
            raise EngineRefused(f"tenant {tenant_id}: {error}{_PAYMENT}", error.status) from None

    def _instant(self, found: Document, key: str) -> int:
        try:
            return parse_instant(self._text(found, key)) // 1_000 * 1_000
        except ValueError as error:
            raise EngineUnreadable(f"{self._engine.url}: {key}: {error}") from None

    def _text(self, found: Document, key: str) -> str:
        value = found.get(key)
        if not isinstance(value, str) or not value:
            raise EngineUnreadable(f"{self._engine.url}: something that it lists has no {key}")
        return value


def subjects_of(customer: Document) -> list[str]:
    """Whose usage is a customer's, beside its own key."""
    attribution = customer.get("usage_attribution")
    keys = attribution.get("subject_keys") if isinstance(attribution, dict) else None
    return [str(one) for one in keys] if isinstance(keys, list) else []


def plan_id_of(subscription: Document) -> str:
    """Konnect has it at the top, OpenMeter in a table as well."""
    plan = subscription.get("plan")
    return str(plan.get("id") if isinstance(plan, dict) else subscription.get("plan_id"))
