"""`tollgate billing`: the catalog, who is subscribed to what of it, and what they owe."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from proxy.billing import catalog_file, onboarding
from proxy.billing.catalog import Plan
from proxy.billing.onboarding import Held, Onboarded, Person, Subscribed
from proxy.cli.deploying import apply, show_changes
from proxy.cli.doctor import doctor
from proxy.cli.enrolling import begun_of, engine_json, enrol, print_enrolled, print_not_told
from proxy.cli.instants import iso, iso_or_none, iso_short, now_ms
from proxy.cli.invoices import show_invoice
from proxy.cli.keys import read_secret
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, complain, print_json, printable
from proxy.cli.stripe import connect_stripe
from proxy.cli.tables import print_table
from proxy.errors import CatalogError
from proxy.settings import load
from proxy.store import subscriptions
from proxy.store.subscriptions import Subscription

app = typer.Typer(help="Plans, subscriptions and invoices.", no_args_is_help=True)
app.command("plan")(show_changes)
app.command("apply")(apply)
app.command("doctor")(doctor)
app.command("invoice")(show_invoice)
app.command("connect-stripe")(connect_stripe)

_TenantId = Annotated[str, typer.Argument(metavar="TENANT", help="Who is billed.")]
_PackagedName = "the one that comes with Tollgate"


@app.command("check")
def check(as_json: Json = False) -> None:
    """Check the catalog, and tell everything that is wrong with it: line, key, rule and fix."""
    path = load().billing.file
    faults: list[str] = []
    counts = {}
    try:
        catalog = catalog_file.load(path)
    except CatalogError as error:
        faults = error.faults
    else:
        counts = {name: len(getattr(catalog, name)) for name in ("meters", "features", "plans", "subscriptions")}
    if as_json:
        print_json({"file": path, "faults": faults, **counts})
    elif not faults:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        typer.echo(f"The catalog ({printable(path or _PackagedName)}) is right: {told}.")
    else:
        for fault in faults:
            complain(fault)
    if faults:
        raise typer.Exit(2)


@app.command("plans")
def list_plans(as_json: Json = False) -> None:
    """List the plans of the catalog, and what their rate cards are."""
    settings, database = open_store()
    catalog = catalog_file.load(settings.billing.file)
    with reading(database) as connection:
        going_on = [one for one in subscriptions.subscriptions(connection) if one.end_ms is None]
        versions = {key: onboarding.version_of(connection, catalog.snapshot(key)) for key in catalog.plans}
    on_each = {key: sum(one.plan == key for one in going_on) for key in catalog.plans}
    if as_json:
        print_json([_plan_json(plan, versions[key], on_each[key]) for key, plan in catalog.plans.items()])
        return
    print_table(
        ("plan", "name", "version", "currency", "period", "phase", "rate card", "price", "subscribed"),
        [
            (
                key,
                plan.name,
                versions[key] or "new",
                plan.currency,
                plan.billing_cadence.iso,
                phase.key,
                card.key,
                card.price.type,
                on_each[key],
            )
            for key, plan in catalog.plans.items()
            for phase in plan.phases
            for card in phase.rate_cards
        ],
        empty="The catalog has no plans.",
    )


@app.command("subscriptions")
def list_subscriptions(
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Only this tenant's.")] = "",
    as_json: Json = False,
) -> None:
    """List who is, and was, subscribed to which version of which plan."""
    _, database = open_store()
    with reading(database) as connection:
        found = subscriptions.subscriptions(connection, tenant_id)
    if as_json:
        print_json([_subscription_json(one) for one in found])
        return
    print_table(
        ("tenant", "plan", "version", "since", "until", "periods begin with"),
        [
            (
                one.tenant_id,
                one.plan,
                str(one.version),
                iso_short(one.start_ms),
                iso_short(one.end_ms),
                iso_short(one.anchor_ms),
            )
            for one in found
        ],
        empty="There are no subscriptions. Make one: tollgate billing onboard TENANT --plan PLAN",
    )


@app.command("onboard")
def onboard(
    tenant_id: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Who is billed. Left out with --all.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="PLAN", help="Of the catalog. Default: the one in its [subscriptions].")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All tenants in the catalog's [subscriptions].")] = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="The tenant's, if it is made.")] = "",
    key_name: Annotated[str, typer.Option(metavar="NAME", help="The key's. Default: any key will do.")] = "",
    imported: Annotated[
        str | None,
        typer.Option("--import", metavar="KEY", help="Use this key of your own; - reads it from standard input."),
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Make no key.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Leave the engine (KONNECT_API_URL) out of it.")] = False,
    as_json: Json = False,
) -> None:
    """Make a tenant, subscribe it to a plan, and only then give it a key, which is printed once.

    With an engine set, it is made a customer and subscribed there first. What is done already is left alone: calling it
    again changes nothing.
    """
    if everybody == (tenant_id is not None):
        raise typer.BadParameter("name a tenant, or --all", param_hint="TENANT")
    if everybody and (plan or name or imported):
        raise typer.BadParameter("it goes with neither --plan, --name nor --import", param_hint="--all")
    secret = read_secret(imported)
    settings, database = open_store()
    catalog = catalog_file.load(settings.billing.file)
    persons = [
        Person(one, name, key_name, secret, wants_key=not no_key)
        for one in (catalog.subscriptions if tenant_id is None else [tenant_id])
    ]
    zone = settings.limits.time_zone
    enrolled = {} if local else enrol(settings, database, catalog, persons, plan)
    with database.transaction() as connection:
        done = [
            onboarding.onboard(
                connection, catalog, one, plan, zone=zone, now_ms=now_ms(), begun=begun_of(enrolled, one.tenant_id)
            )
            for one in persons
        ]
    if as_json:
        told = [_onboarded_json(one) | engine_json(enrolled, one.subscribed.tenant.id) for one in done]
        print_json(told if everybody else told[0])
        return
    for one in done:
        print_enrolled(enrolled, one.subscribed.tenant.id)
        _print_onboarded(one, is_imported=imported is not None)
    if not done:
        typer.echo("The catalog's [subscriptions] name nobody.")


@app.command("change")
def change(
    tenant_id: _TenantId,
    plan: Annotated[str, typer.Option(metavar="PLAN", help="The new one; or the same, as the catalog has it now.")],
    as_json: Json = False,
) -> None:
    """Put a tenant on another plan, at once. Its running billing period ends now, and is billed by the old plan."""
    settings, database = open_store()
    catalog = catalog_file.load(settings.billing.file)
    with database.transaction() as connection:
        done = onboarding.change(connection, catalog, tenant_id, plan, now_ms=now_ms())
    if as_json:
        print_json(_subscription_json(done.subscription) | _held_json(done.held))
        return
    one = done.subscription
    if not done.is_new:
        typer.echo(f"Tenant {one.tenant_id} is on plan {one.plan}, version {one.version}, already.")
        return
    typer.echo(f"Tenant {one.tenant_id} is on plan {one.plan}, version {one.version}, since {iso_short(one.start_ms)}.")
    _print_held(done.held)
    print_not_told(settings, one.tenant_id)


@app.command("cancel")
def cancel(tenant_id: _TenantId, as_json: Json = False) -> None:
    """End a tenant's subscription at once. Its keys still work; what they use is billed by nobody."""
    settings, database = open_store()
    with database.transaction() as connection:
        one = onboarding.cancel(connection, tenant_id, now_ms=now_ms())
    if as_json:
        print_json(_subscription_json(one))
    else:
        typer.echo(
            f"The subscription of tenant {one.tenant_id} to plan {one.plan} ended at {iso_short(one.end_ms)}. Its keys"
            f" still work: tollgate tenants disable {one.tenant_id}"
        )
        print_not_told(settings, one.tenant_id)


def _plan_json(plan: Plan, version: int | None, subscribed: int) -> dict[str, Any]:
    return {
        "plan": plan.key,
        "name": plan.name,
        "version": version,
        "currency": plan.currency,
        "billing_cadence": plan.billing_cadence.iso,
        "phases": [
            {
                "key": phase.key,
                "duration": phase.duration.iso if phase.duration else None,
                "rate_cards": [
                    {"key": card.key, "name": card.name, "price": card.price.type} for card in phase.rate_cards
                ],
            }
            for phase in plan.phases
        ],
        "subscribed": subscribed,
    }


def _subscription_json(one: Subscription) -> dict[str, Any]:
    return {
        "tenant": one.tenant_id,
        "plan": one.plan,
        "version": one.version,
        "start": iso(one.start_ms),
        "end": iso_or_none(one.end_ms),
        "billing_anchor": iso(one.anchor_ms),
        "time_zone": one.zone,
    }


def _onboarded_json(done: Onboarded) -> dict[str, Any]:
    new = {"new_tenant": done.subscribed.is_new_tenant, "new_subscription": done.subscribed.is_new}
    key = {"key_id": done.key.id if done.key else None, "key": done.secret}
    return _subscription_json(done.subscribed.subscription) | new | _held_json(done.subscribed.held) | key


def _held_json(held: Held) -> dict[str, Any]:
    return {
        "limits": list(held.set),
        "limits_kept": list(held.kept),
        "not_limited": [{"feature": one.feature, "reason": one.reason} for one in held.unheld],
    }


def _print_onboarded(done: Onboarded, *, is_imported: bool) -> None:
    one, subscribed = done.subscribed.subscription, done.subscribed
    _print_subscribed(subscribed)
    if done.key is None:
        return
    if is_imported:
        typer.echo(f"Key {done.key.id} is the one that you brought.")
    else:
        # Not by rich, which would wrap it.
        typer.echo(f"Key {done.key.id} of tenant {one.tenant_id}, shown only now:\n\n  {done.secret}\n")


def _print_subscribed(done: Subscribed) -> None:
    one = done.subscription
    since = f"plan {one.plan}, version {one.version}, since {iso_short(one.start_ms)}"
    typer.echo(f"Tenant {one.tenant_id} {'is new, and ' * done.is_new_tenant}is subscribed to {since}.")
    _print_held(done.held)
    if done.is_outdated:
        move = f"tollgate billing change {one.tenant_id} --plan {one.plan}"
        typer.echo(f"The catalog has this plan otherwise by now; to change to that: {move}")


def _print_held(held: Held) -> None:
    if held.set:
        typer.echo(f"Its limits: {'; '.join(held.set)}.")
    for name in held.kept:
        typer.echo(f"Its own limit {printable(name)} stays as it is.")
    for one in held.unheld:
        typer.echo(f"Not held to here: the entitlement to {one.feature}, because {printable(one.reason)}.")
