"""The engine's half of `tollgate billing onboard`, which comes before the ledger's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from proxy.billing import onboarding
from proxy.billing.catalog import Catalog
from proxy.billing.enrolment import Enrolled, Enrolment
from proxy.billing.onboarding import Begun, Person
from proxy.billing.openmeter import OpenMeter, engine_of
from proxy.cli.instants import iso, iso_short, now_ms
from proxy.settings import Settings
from proxy.store.database import Database
from proxy.store.subscriptions import Subscription


def enrol(
    settings: Settings, database: Database, catalog: Catalog, persons: Sequence[Person], plan: str | None
) -> dict[str, Enrolled]:
    """Make them customers, and subscribe them, where an engine is set. What the ledger would refuse is refused first.

    Raises `StoreError` and `EngineError`. Those that were done by then stay so, and are found again.
    """
    engine = engine_of(settings.sink)
    if engine is None:
        return {}
    zone = settings.limits.time_zone
    with database.transaction() as connection:
        ends = [onboarding.rehearse(connection, catalog, one, plan, zone=zone, now_ms=now_ms()) for one in persons]
    return asyncio.run(_enrol(engine, persons, ends))


async def _enrol(engine: OpenMeter, persons: Sequence[Person], ends: Sequence[Subscription]) -> dict[str, Enrolled]:
    enrolment = Enrolment(engine)
    try:
        return {
            one.tenant_id: await enrolment.enrol(one.tenant_id, end.plan, name=one.name, anchor_ms=end.anchor_ms)
            for one, end in zip(persons, ends, strict=True)
        }
    finally:
        await engine.close()


def begun_of(enrolled: Mapping[str, Enrolled], tenant_id: str) -> Begun | None:
    """When it began at the engine, if that was asked."""
    one = enrolled.get(tenant_id)
    return None if one is None else Begun(one.start_ms, one.anchor_ms)


def engine_json(enrolled: Mapping[str, Enrolled], tenant_id: str) -> dict[str, Any]:
    """For `--json`: what there is at the engine."""
    one = enrolled.get(tenant_id)
    if one is None:
        return {"engine": None}
    ids = {"customer_id": one.customer_id, "subscription_id": one.subscription_id, "start": iso(one.start_ms)}
    return {"engine": ids | {"new_customer": one.is_new_customer, "new_subscription": one.is_new}}


def print_enrolled(enrolled: Mapping[str, Enrolled], tenant_id: str) -> None:
    one = enrolled.get(tenant_id)
    if one is not None:
        since = f"{'now ' * one.is_new}subscribed there since {iso_short(one.start_ms)}"
        typer.echo(f"Tenant {tenant_id} is {'a new ' if one.is_new_customer else ''}customer at the engine, {since}.")


def print_not_told(settings: Settings, tenant_id: str) -> None:
    """A change of the ledger's alone."""
    if settings.sink.konnect_api_url:
        typer.echo(f"The engine was not told: change the subscription of customer {tenant_id} there as well.")
