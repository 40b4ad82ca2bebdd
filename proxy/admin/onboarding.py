"""Onboarding over HTTP: a tenant, its customer and subscription at the engine, its subscription here, then its key."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from proxy.admin.operation import NAME_CHARS_MAX, Answer, Asked, Context, Rehearse, operation
from proxy.billing import catalog_file, onboarding
from proxy.billing.catalog import Catalog
from proxy.billing.enrolment import Enrolled, Enrolment
from proxy.billing.onboarding import Begun, Person
from proxy.billing.openmeter import engine_of
from proxy.instants import iso
from proxy.settings import Settings

#: How often the engine is asked that gives no answer: whoever waits here can ask again.
_TRIES = 2


class Onboard(Asked):
    tenant_id: str
    plan: str | None = None
    """Of the catalog. If left out, the one that its `[subscriptions]` name for the tenant."""
    name: str = Field("", max_length=NAME_CHARS_MAX)
    """The tenant's, if it is made."""
    key_name: str = Field("", max_length=NAME_CHARS_MAX)
    """The key's. If left out, any key that the tenant has will do."""
    key: str | None = Field(None, repr=False)
    """A key of your own, 8 to 256 printable ASCII characters. One is made if left out."""
    no_key: bool = False
    """Make no key."""
    local: bool = False
    """Leave the engine (KONNECT_API_URL) out of it."""


class AtEngine(Answer):
    """What there is at the engine."""

    customer_id: str
    subscription_id: str
    start: str
    new_customer: bool
    new_subscription: bool


class Onboarded(Answer):
    """A tenant, its subscription, and what is new of both."""

    tenant_id: str
    plan: str
    version: int
    """Of the plan, as the subscription keeps it."""
    start: str
    billing_anchor: str
    """With it begins a billing period, and so do all others."""
    new_tenant: bool
    new_subscription: bool
    limits: list[str]
    """Those that the plan's entitlements have set now."""
    key_id: str | None
    key: str | None = Field(repr=False)
    """The secret of a key that was made now, shown this once."""
    engine: AtEngine | None
    """Null where no engine is set, or it was left out."""

    def to_keep(self) -> dict[str, Any]:
        return self.json_object() | {"key": None}


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The catalog, and what was done at the engine before anything here."""

    catalog: Catalog
    enrolled: Enrolled | None


async def _ahead(settings: Settings, asked: Onboard, rehearse: Rehearse) -> _Ahead:
    catalog = await asyncio.to_thread(catalog_file.load, settings.billing.file)
    engine = None if asked.local else engine_of(settings.sink, tries=_TRIES)
    if engine is None:
        return _Ahead(catalog, None)
    zone = settings.limits.time_zone
    try:
        end = await rehearse(
            lambda context: onboarding.rehearse(
                context.connection, catalog, _person(asked), asked.plan, zone=zone, now_ms=context.now_ms
            )
        )
        enrolment = Enrolment(engine, tries=_TRIES)
        return _Ahead(
            catalog, await enrolment.enrol(asked.tenant_id, end.plan, name=asked.name, anchor_ms=end.anchor_ms)
        )
    finally:
        await engine.close()


@operation("POST", "/admin/tenants/{tenant_id}/onboard", ahead=_ahead)
def onboard_tenant(context: Context, asked: Onboard, ahead: _Ahead) -> Onboarded:
    """Make a tenant, subscribe it to a plan, and only then give it a key. What is done already is left alone.

    With an engine set, it is made a customer and subscribed there first; the server's token must be one that may.
    """
    at = ahead.enrolled
    done = onboarding.onboard(
        context.connection,
        ahead.catalog,
        _person(asked),
        asked.plan,
        zone=context.settings.limits.time_zone,
        now_ms=context.now_ms,
        begun=None if at is None else Begun(at.start_ms, at.anchor_ms),
    )
    one = done.subscribed.subscription
    return Onboarded(
        tenant_id=one.tenant_id,
        plan=one.plan,
        version=one.version,
        start=iso(one.start_ms),
        billing_anchor=iso(one.anchor_ms),
        new_tenant=done.subscribed.is_new_tenant,
        new_subscription=done.subscribed.is_new,
        limits=[*done.subscribed.held.set],
        key_id=None if done.key is None else done.key.id,
        key=done.secret,
        engine=None if at is None else _engine(at),
    )


def _engine(at: Enrolled) -> AtEngine:
    return AtEngine(
        customer_id=at.customer_id,
        subscription_id=at.subscription_id,
        start=iso(at.start_ms),
        new_customer=at.is_new_customer,
        new_subscription=at.is_new,
    )


def _person(asked: Onboard) -> Person:
    return Person(asked.tenant_id, asked.name, asked.key_name, asked.key, wants_key=not asked.no_key)
