"""`tollgate billing doctor`: the classic mistakes of a set-up with a metering engine, each with its remedy."""

from __future__ import annotations

import asyncio
import sqlite3

import typer

from proxy.billing import catalog_file
from proxy.billing.doctor import diagnose
from proxy.billing.evidence import Books, Evidence, gather
from proxy.billing.openmeter import OpenMeter
from proxy.cli.deploying import engine_for
from proxy.cli.instants import now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, printable
from proxy.instants import HOUR_MS, Period
from proxy.limits import Calendar
from proxy.settings import Settings
from proxy.store import outbox, subscriptions, tenants, usage
from proxy.store.usage import Group

#: An engine that is away is a finding: nothing is gained by asking for long.
_TRIES = 2
_LATELY_MS = 30 * 24 * HOUR_MS


def doctor(as_json: Json = False) -> None:
    """Look for the classic mistakes between Tollgate and its engine (OpenMeter or Konnect), and tell the remedies.

    The exit code is 1 where something is found.
    """
    settings, database = open_store()
    catalog = catalog_file.load(settings.billing.file)
    engine = engine_for(settings, tries=_TRIES)
    with reading(database) as connection:
        books = _books(connection, settings, now_ms())
    findings = diagnose(asyncio.run(_gather(engine, books)), catalog)
    if as_json:
        told = [{"code": one.code, "what": one.what, "remedy": one.remedy} for one in findings]
        print_json({"engine": engine.url, "findings": told})
    elif not findings:
        typer.echo(f"Nothing is wrong between the ledger, the catalog and {engine.url}.")
    for one in [] if as_json else findings:
        typer.echo(f"{one.code}: {printable(one.what)}\n  remedy: {printable(one.remedy)}")
    if findings:
        raise typer.Exit(1)


async def _gather(engine: OpenMeter, books: Books) -> Evidence:
    try:
        return await gather(engine, books)
    finally:
        await engine.close()


def _books(connection: sqlite3.Connection, settings: Settings, now: int) -> Books:
    lately = Period(max(0, now - _LATELY_MS) // HOUR_MS * HOUR_MS, (now // HOUR_MS + 1) * HOUR_MS)
    lines = usage.report(connection, lately, Calendar(), (Group.TENANT, Group.MODEL)).lines
    plans = {one.tenant_id: one.plan for one in subscriptions.subscriptions(connection) if one.end_ms is None}
    active = {one.id for one in tenants.tenants(connection) if one.status == "active"}
    calling = {one.tenant_id for one in tenants.keys(connection) if one.revoked_ms is None and one.tenant_id in active}
    used = {line.values[0] for line in lines}
    subjects = tuple(sorted(calling | used | (plans.keys() & active)))
    first = {one: usage.first_ms(connection, one) for one in subjects}
    return Books(
        now_ms=now,
        source=settings.sink.source,
        profile=settings.sink.profile,
        subjects=subjects,
        plans=plans,
        first_ms={subject: ms for subject, ms in first.items() if ms is not None},
        models=tuple(sorted({line.values[1] for line in lines})),
        waiting_ms=outbox.backlog(connection).oldest_ms,
    )
