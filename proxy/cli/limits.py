"""`tollgate limits`: what tenants, their keys and whoever is on a plan may use, and what is left of it."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from proxy.cli.instants import now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, print_table, printable
from proxy.cli.standings import print_standings, standing_json, standings, told
from proxy.errors import StoreError
from proxy.limits import KINDS, Calendar, Written, check_filters, shown
from proxy.limits import told as amount_told
from proxy.model import SUBJECT_PATTERN, Counted, Limit, Provenance, Unit, Window
from proxy.store import limits as stored
from proxy.store import tenants
from proxy.store.declared import provenance
from proxy.store.limits import Owner
from proxy.web.report import limit_json

app = typer.Typer(help="What tenants, keys and plans may use.", no_args_is_help=True)

_NAME = re.compile(r"[a-z_]+(/[a-z]+)?")
_AMOUNT = re.compile(r"(requests|tokens|usd)=(.+)")
_TOP_UP_ID = re.compile(r"[\x21-\x7e]{1,128}")
_NOTE_CHARS_MAX = 1_000
_EXAMPLE = "tokens/month=10000"

_TenantId = Annotated[str | None, typer.Argument(metavar="TENANT", help="Whose. Left out with --key and --plan.")]
_KeyId = Annotated[str | None, typer.Option("--key", metavar="KEY_ID", help="Those of a key, without a tenant.")]
_Plan = Annotated[str | None, typer.Option("--plan", metavar="NAME", help="Those of a plan, without a tenant.")]
_Model = Annotated[
    str, typer.Option("--model", metavar="GLOB", help="Only of models such as gpt-4o*, by name with or without date.")
]
_Kind = Annotated[str, typer.Option("--kind", metavar="KIND", help=f"Only of one kind of tokens: {', '.join(KINDS)}.")]


@app.command("set")
def set_limits(
    tenant_id: _TenantId = None,
    limits: Annotated[list[str] | None, typer.Argument(metavar="LIMIT", help=f"Such as {_EXAMPLE}.")] = None,
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
    whose, owner, texts = _whose(tenant_id, limits, plan, key_id, example=_EXAMPLE)
    wanted = [_written(text) for text in texts]
    _check(wanted, model, kind)
    _, database = open_store()
    with database.transaction() as connection:
        for one in wanted:
            stored.set_limit(connection, whose, owner, one, model=model, tokens=kind, soft=soft)
        found = stored.limits_of(connection, whose, owner)
    if as_json:
        print_json(_own_json(whose, owner, found))
        return
    said = "; ".join(
        f"{_name(one, model, kind)} {amount_told(one.unit, one.value)}{' (soft)' * soft}" for one in wanted
    )
    typer.echo(f"Set for {whose} {printable(owner)}, in force within a second: {said}.")


@app.command("unset")
def unset_limits(
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
    wanted = [_named(text) for text in texts]
    _check(wanted, model, kind)
    _, database = open_store()
    with database.transaction() as connection:
        _check_owner(connection, whose, owner)
        for one in wanted:
            stored.unset_limit(connection, whose, owner, one.unit, one.window, model=model, tokens=kind)
        found = stored.limits_of(connection, whose, owner)
    if as_json:
        print_json(_own_json(whose, owner, found))
        return
    said = "; ".join(_name(one, model, kind) for one in wanted)
    typer.echo(f"No longer set for {whose} {printable(owner)}: {said}.")


@app.command("show")
def show(
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
        _show_plan(plan, as_json)
        return
    if tenant_id is None and key_id is None:
        raise typer.BadParameter("name a tenant, or --key or --plan", param_hint="TENANT")
    settings, database = open_store()
    now, calendar = now_ms(), Calendar.of(settings.limits.time_zone)
    with reading(database) as connection:
        tenant_id = _subject(connection, tenant_id, key_id)
        found = standings(connection, stored.effective(connection, tenant_id, key_id or ""), calendar, now)
    if as_json:
        print_json(
            {
                "tenant_id": tenant_id,
                "key_id": key_id,
                "time_zone": settings.limits.time_zone,
                "limits": [standing_json(one) for one in found],
            }
        )
    else:
        print_standings(found, empty=f"It has no limits. Set one: tollgate limits set {tenant_id} {_EXAMPLE}")


@app.command("plans")
def list_plans(as_json: Json = False) -> None:
    """List the plans, their limits, and how many tenants are on each."""
    _, database = open_store()
    with reading(database) as connection:
        on_each = _plans(connection)
        found = [
            (name, count, stored.limits_of(connection, "plan", name), provenance(connection, "plan", name))
            for name, count in on_each.items()
        ]
    if as_json:
        print_json([_plan_json(*one) for one in found])
        return
    print_table(
        ("plan", "tenants", "limits", "origin"),
        [(name, count, ", ".join(map(told, limits)) or "none", origin) for name, count, limits, origin in found],
        empty=f"There are no plans. Make one by its first limit: tollgate limits set --plan NAME {_EXAMPLE}",
    )


@app.command("top-up")
def top_up(
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Who has paid.")],
    text: Annotated[str, typer.Argument(metavar="AMOUNT", help="tokens=50000, requests=1000 or usd=20.")],
    top_up_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Such as the payment's. The same id again adds nothing.")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    as_json: Json = False,
) -> None:
    """Add a prepaid amount to what a tenant may use in total."""
    unit, amount = _amount(text)
    if top_up_id is not None and not _TOP_UP_ID.fullmatch(top_up_id):
        raise typer.BadParameter("use 1 to 128 printable ASCII characters without spaces", param_hint="--id")
    if len(note) > _NOTE_CHARS_MAX:
        raise typer.BadParameter(f"at most {_NOTE_CHARS_MAX} characters", param_hint="--note")
    top_up_id = top_up_id or "top_" + secrets.token_hex(8)
    settings, database = open_store()
    now, calendar = now_ms(), Calendar.of(settings.limits.time_zone)
    with database.transaction() as connection:
        added = stored.top_up(connection, tenant_id, unit, amount, top_up_id=top_up_id, note=note, now_ms=now)
        total = Counted("tenant", tenant_id, unit, Window.TOTAL)
        limits = [one for one in stored.effective(connection, tenant_id) if one.counted == total]
        (standing,) = standings(connection, limits, calendar, now)
    if as_json:
        about = {"id": top_up_id, "tenant_id": tenant_id, "unit": str(unit), "amount": shown(unit, amount)}
        about |= {"added": added}
        print_json(about | {"total": standing_json(standing)})
        return
    of = f"{amount_told(unit, standing.left or 0)} of {amount_told(unit, standing.limit.value)} are left"
    if added:
        typer.echo(
            f"Top-up {top_up_id} added {amount_told(unit, amount)} {unit} for tenant {printable(tenant_id)}: {of}."
        )
    else:
        typer.echo(f"Top-up {top_up_id} was made already, and nothing was added: {of}.")


def check_known_plan(connection: sqlite3.Connection, name: str) -> None:
    """Raises `StoreError` for a plan that nobody has made: whoever is on it would not be limited at all."""
    stored.check_plan(name)
    if not stored.limits_of(connection, "plan", name) and name not in _plans(connection):
        make = f"tollgate limits set --plan {name} {_EXAMPLE}"
        raise StoreError(f"there is no plan {name}; a plan is made by its first limit: {make}")


def _plans(connection: sqlite3.Connection) -> dict[str, int]:
    """The plans that have limits or tenants, by name, and how many tenants are on each."""
    on_each = Counter(one.plan for one in tenants.tenants(connection) if one.plan)
    return {name: on_each[name] for name in sorted({*on_each, *stored.plans(connection)})}


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


def _written(text: str) -> Written:
    try:
        return Written.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="LIMIT") from None


def _named(text: str) -> Written:
    """A limit that is named without a value."""
    if not _NAME.fullmatch(text):
        raise typer.BadParameter(f"{text!r}: name a limit as UNIT/WINDOW, such as tokens/month", param_hint="LIMIT")
    try:
        return Written.parse(f"{text}=0")
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("=0", ""), param_hint="LIMIT") from None


def _check(wanted: Sequence[Written], model: str, kind: str) -> None:
    """Raises `typer.BadParameter` for filters that do not fit, and for one limit that is named twice."""
    for at, one in enumerate(wanted):
        try:
            check_filters(one.unit, model, kind)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--kind" if kind else "--model") from None
        if any((other.unit, other.window) == (one.unit, one.window) for other in wanted[:at]):
            raise typer.BadParameter(f"{_name(one)} is named twice", param_hint="LIMIT")


def _check_owner(connection: sqlite3.Connection, whose: Owner, owner: str) -> None:
    if whose == "tenant":
        tenants.tenant(connection, owner)
    elif whose == "key":
        tenants.key(connection, owner)


def _subject(connection: sqlite3.Connection, tenant_id: str | None, key_id: str | None) -> str:
    """Whose requests are meant. Raises `StoreError` for a tenant that the key does not act for."""
    key = None if key_id is None else tenants.key(connection, key_id)
    if tenant_id is None:
        assert key is not None
        return key.tenant_id
    if key is None:
        return tenants.tenant(connection, tenant_id).id
    if tenant_id != key.tenant_id and not key.trusted:
        raise StoreError(f"key {key.id} is tenant {key.tenant_id}'s, and acts for nobody else")
    return tenant_id


def _amount(text: str) -> tuple[Unit, int]:
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r}: write tokens=50000, requests=1000 or usd=20", param_hint="AMOUNT")
    try:
        written = Written.parse(f"{found[1]}/total={found[2]}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="AMOUNT") from None
    if not written.value:
        raise typer.BadParameter(f"{text!r}: more than 0", param_hint="AMOUNT")
    return written.unit, written.value


def _show_plan(name: str, as_json: bool) -> None:
    _, database = open_store()
    with reading(database) as connection:
        check_known_plan(connection, name)
        count = _plans(connection)[name]
        limits = stored.limits_of(connection, "plan", name)
        origin = provenance(connection, "plan", name)
    if as_json:
        print_json(_plan_json(name, count, limits, origin))
        return
    print_table(
        ("limit", "value", "type"),
        [(one.counted.name, shown(one.counted.unit, one.value), "soft" if one.soft else "hard") for one in limits],
        empty="It has no limits.",
    )


def _name(one: Written, model: str = "", kind: str = "") -> str:
    return printable(Counted("", "", one.unit, one.window, model, kind).name)


def _own_json(whose: Owner, owner: str, found: Sequence[Limit]) -> dict[str, Any]:
    return {"owner_kind": whose, "owner": owner, "limits": [limit_json(one) for one in found]}


def _plan_json(name: str, count: int, limits: Sequence[Limit], origin: Provenance) -> dict[str, Any]:
    return {"plan": name, "tenants": count, "limits": [limit_json(one) for one in limits], "origin": origin}
