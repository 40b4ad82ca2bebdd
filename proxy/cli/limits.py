"""`tollgate limits`: what tenants, their keys and whoever is on a plan may use, and what is left of it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from proxy.admin import limits as admin
from proxy.admin import top_ups
from proxy.admin.limits import EXAMPLE, KeyLimits, OnePlan, SetLimits, TenantLimits, UnsetLimits
from proxy.admin.operation import Paged
from proxy.admin.top_ups import AddTopUp, ListTopUps, add_top_up
from proxy.cli.calling import call, listed
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json, printable
from proxy.cli.standings import amount, print_standings, told
from proxy.cli.tables import print_table
from proxy.limits import KINDS, Written, shown
from proxy.limits import told as amount_told
from proxy.model import SUBJECT_PATTERN, Counted
from proxy.store.limits import Owner

app = typer.Typer(help="What tenants, keys and plans may use.", no_args_is_help=True)

_AMOUNT = re.compile(r"(requests|tokens|usd)=(.+)")

_TenantId = Annotated[str | None, typer.Argument(metavar="TENANT", help="Whose. Left out with --key and --plan.")]
_KeyId = Annotated[str | None, typer.Option("--key", metavar="KEY_ID", help="Those of a key, without a tenant.")]
_Plan = Annotated[str | None, typer.Option("--plan", metavar="NAME", help="Those of a plan, without a tenant.")]
_Model = Annotated[
    str, typer.Option("--model", metavar="GLOB", help="Only of models such as gpt-4o*, by name with or without date.")
]
_Kind = Annotated[str, typer.Option("--kind", metavar="KIND", help=f"Only of one kind of tokens: {', '.join(KINDS)}.")]


@app.command("set")
def set_limits(
    ctx: typer.Context,
    tenant_id: _TenantId = None,
    limits: Annotated[list[str] | None, typer.Argument(metavar="LIMIT", help=f"Such as {EXAMPLE}.")] = None,
    key_id: _KeyId = None,
    plan: _Plan = None,
    model: _Model = "",
    kind: _Kind = "",
    soft: Annotated[bool, typer.Option("--soft", help="Serve what is beyond, and mark its events.")] = False,
    as_json: Json = False,
) -> None:
    """Set or change limits, all or none of them, in force within a second.

    UNIT/WINDOW=VALUE: requests, tokens or usd in a minute, hour, day, month, period or in total; inflight=VALUE for
    requests at the same time, max_tokens=VALUE for the output of one.
    """
    whose, owner, texts = _whose(tenant_id, limits, plan, key_id, example=EXAMPLE)
    asked = SetLimits(owner=owner, limits=texts, model=model, kind=kind, soft=soft)
    found = call(ctx, admin.SET[whose], asked)
    if as_json:
        print_json(found.json_object())
        return
    wanted = [Written.parse(text) for text in texts]
    said = "; ".join(
        f"{_name(one, model, kind)} {amount_told(one.unit, one.value)}{' (soft)' * soft}" for one in wanted
    )
    typer.echo(f"Set for {whose} {printable(owner)}, in force within a second: {said}.")


@app.command("unset")
def unset_limits(
    ctx: typer.Context,
    tenant_id: _TenantId = None,
    limits: Annotated[list[str] | None, typer.Argument(metavar="LIMIT", help="Such as tokens/month.")] = None,
    key_id: _KeyId = None,
    plan: _Plan = None,
    model: _Model = "",
    kind: _Kind = "",
    as_json: Json = False,
) -> None:
    """Take limits away, all or none of them. A tenant's plan holds then, where it has the same."""
    whose, owner, texts = _whose(tenant_id, limits, plan, key_id, example="tokens/month")
    found = call(ctx, admin.UNSET[whose], UnsetLimits(owner=owner, limits=texts, model=model, kind=kind))
    if as_json:
        print_json(found.json_object())
        return
    said = "; ".join(_name(admin.parse_name(text), model, kind) for text in texts)
    typer.echo(f"No longer set for {whose} {printable(owner)}: {said}.")


@app.command("show")
def show(
    ctx: typer.Context,
    tenant_id: Annotated[
        str | None, typer.Argument(metavar="TENANT", help="Whose. With --key, that key's, if left out.")
    ] = None,
    key_id: Annotated[
        str | None, typer.Option("--key", metavar="KEY_ID", help="With those of this key on top.")
    ] = None,
    plan: Annotated[str | None, typer.Option("--plan", metavar="NAME", help="Those of a plan, without usage.")] = None,
    as_json: Json = False,
) -> None:
    """Show all limits that hold for a tenant, where each is set, what is used and left, and when it renews.

    Requests in flight are not in it: they count once they are settled.
    """
    if plan is not None:
        if tenant_id is not None or key_id is not None:
            raise typer.BadParameter("a plan is shown alone, without tenant and key", param_hint="--plan")
        _show_plan(ctx, plan, as_json)
        return
    if tenant_id is not None:
        found = call(ctx, admin.show_tenant_limits, TenantLimits(tenant_id=tenant_id, key_id=key_id))
    elif key_id is not None:
        found = call(ctx, admin.show_key_limits, KeyLimits(key_id=key_id))
    else:
        raise typer.BadParameter("name a tenant, or --key or --plan", param_hint="TENANT")
    if as_json:
        print_json(found.json_object())
    else:
        empty = f"It has no limits. Set one: tollgate limits set {found.tenant_id} {EXAMPLE}"
        print_standings(found.limits, empty=empty)


@app.command("plans")
def list_plans(ctx: typer.Context, as_json: Json = False) -> None:
    """List the plans, their limits, and how many tenants are on each."""
    found = listed(ctx, admin.list_plans, Paged())
    if as_json:
        print_json([one.json_object() for one in found])
        return
    print_table(
        ("plan", "tenants", "limits", "origin"),
        [(one.plan, one.tenants, ", ".join(map(told, one.limits)) or "none", one.origin) for one in found],
        empty=f"There are no plans. Make one by its first limit: tollgate limits set --plan NAME {EXAMPLE}",
    )


@app.command("top-up")
def top_up(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Who has paid.")],
    text: Annotated[str, typer.Argument(metavar="AMOUNT", help="tokens=50000, requests=1000 or usd=20.")],
    top_up_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Such as the payment's. The same id again adds nothing.")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Add a prepaid amount to what a tenant may use in total."""
    unit, added = _amount(text)
    asked = AddTopUp(tenant_id=tenant_id, unit=unit, amount=added, id=top_up_id, note=note)
    done = call(ctx, add_top_up, asked)
    if as_json:
        print_json(done.json_object())
        return
    of = f"{amount(done.total.remaining or 0)} of {amount(done.total.value)} are left"
    if done.added:
        typer.echo(f"Top-up {done.id} added {amount(done.amount)} {unit} for tenant {printable(tenant_id)}: {of}.")
    else:
        typer.echo(f"Top-up {done.id} was made already, and nothing was added: {of}.")


@app.command("top-ups")
def list_top_ups(
    ctx: typer.Context,
    tenant_id: Annotated[str | None, typer.Argument(metavar="TENANT", help="Only this tenant's.")] = None,
    as_json: Json = False,
) -> None:
    """List prepaid amounts, the newest first."""
    found = listed(ctx, top_ups.list_top_ups, ListTopUps(tenant_id=tenant_id))
    if as_json:
        print_json([one.json_object() for one in found])
        return
    print_table(
        ("id", "tenant", "unit", "amount", "created", "note"),
        [(one.id, one.tenant_id, one.unit, one.amount, short(one.created_at), one.note) for one in found],
        empty="There are no top-ups. Add one: tollgate limits top-up TENANT tokens=50000",
    )


def _whose(
    tenant_id: str | None, limits: list[str] | None, plan: str | None, key_id: str | None, *, example: str
) -> tuple[Owner, str, list[str]]:
    """Whose limits are meant, and the words for these: all, where no tenant is named. Raises `typer.BadParameter`."""
    words = [] if tenant_id is None else [tenant_id, *(limits or ())]
    if plan is not None and key_id is not None:
        raise typer.BadParameter("name a plan or a key, not both", param_hint="--plan")
    whose: Owner = "plan" if plan is not None else "key" if key_id is not None else "tenant"
    owner = plan if plan is not None else key_id
    if owner is None:
        owner, *words = words or [""]
        if not SUBJECT_PATTERN.fullmatch(owner):
            raise typer.BadParameter(f"{owner!r}: name a tenant first, or --key or --plan", param_hint="TENANT")
    if not words:
        raise typer.BadParameter(f"say which, such as {example}", param_hint="LIMIT")
    return whose, owner, words


def _amount(text: str) -> tuple[Literal["tokens", "requests", "usd"], int | str]:
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r}: write tokens=50000, requests=1000 or usd=20", param_hint="AMOUNT")
    try:
        written = Written.parse(f"{found[1]}/total={found[2]}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="AMOUNT") from None
    if not written.value:
        raise typer.BadParameter(f"{text!r}: more than 0", param_hint="AMOUNT")
    unit: Literal["tokens", "requests", "usd"] = (
        "usd" if found[1] == "usd" else "tokens" if found[1] == "tokens" else "requests"
    )
    return unit, shown(written.unit, written.value)


def _show_plan(ctx: typer.Context, name: str, as_json: bool) -> None:
    found = call(ctx, admin.show_plan, OnePlan(plan=name))
    if as_json:
        print_json(found.json_object())
        return
    print_table(
        ("limit", "value", "type"),
        [(one.limit, one.value, "soft" if one.soft else "hard") for one in found.limits],
        empty="It has no limits.",
    )


def _name(one: Written, model: str = "", kind: str = "") -> str:
    return printable(Counted("", "", one.unit, one.window, model, kind).name)
