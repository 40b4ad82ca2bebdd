"""Operations on limits and plans: what tenants, their keys and whoever is on a plan may use."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TypeVar, get_args

from pydantic import Field, create_model

from proxy.admin.operation import ID_CHARS_MAX, Answer, Asked, Context, Operation, Page, Paged, operation, page_of
from proxy.admin.standings import standing_json, standings
from proxy.errors import NoSuch, StoreError, WrongInput
from proxy.limits import KINDS, Written, check_filters
from proxy.model import Counted, Provenance
from proxy.model import Limit as StoredLimit
from proxy.store import limits as stored
from proxy.store import tenants
from proxy.store.declared import provenance
from proxy.store.limits import LIMITS_MAX, Owner
from proxy.web.report import limit_json

_NAME = re.compile(r"[a-z_]+(/[a-z]+)?")
EXAMPLE = "tokens/month=10000"


class Limit(Answer):
    """A limit, as it is set."""

    limit: str
    """As it is told: `tokens/month (output of gpt-4o*)`."""
    unit: str
    window: str | None
    model: str | None
    kind: str | None
    value: int | str
    """Of `usd`, dollars as a decimal string."""
    soft: bool
    """What is beyond is served, and marked."""
    origin: str
    """Where it is set: `tenant`, `plan NAME`, `key` or `prepaid`."""


class Standing(Limit):
    """A limit, and how it stands by what is settled. `used` is null for what is not summed over time."""

    used: int | str | None
    remaining: int | str | None
    renews_at: str | None
    """Null for what slides or does not renew."""


class OwnLimits(Answer):
    """What is set for one owner itself."""

    owner_kind: Owner
    owner: str
    limits: list[Limit]


class Standings(Answer):
    """All that holds for the requests of a tenant, or for those with one key."""

    tenant_id: str
    key_id: str | None
    time_zone: str
    """Where its days, months and periods begin."""
    limits: list[Standing]


class Plan(Answer):
    """A plan, and how many tenants are on it."""

    plan: str
    tenants: int
    limits: list[Limit]
    origin: Provenance
    """Who changes it: operators, or the file that declares it (or did once: `withdrawn`)."""


class _OfLimits(Asked):
    owner: str = Field(max_length=ID_CHARS_MAX)
    limits: list[str] = Field(min_length=1, max_length=LIMITS_MAX)
    """Several are set or taken away together, or none of them is."""
    model: str = ""
    """Only of models such as `gpt-4o*`, by name with or without date."""
    kind: str = Field("", json_schema_extra={"enum": ["", *KINDS]})
    """Only of one kind of tokens."""


class SetLimits(_OfLimits):
    """Each of the limits as `UNIT/WINDOW=VALUE`, such as `tokens/month=10000`, or `inflight=5`, `max_tokens=1000`."""

    soft: bool = False
    """Serve what is beyond, and mark its events."""


class UnsetLimits(_OfLimits):
    """Each of the limits as `UNIT/WINDOW`, such as `tokens/month`."""


L = TypeVar("L", bound=_OfLimits)


class TenantLimits(Asked):
    tenant_id: str
    key_id: str | None = None
    """With those of this key on top."""


class KeyLimits(Asked):
    key_id: str


class OnePlan(Asked):
    plan: str


def _for(kind: Owner, takes: type[L]) -> tuple[str, type[L]]:
    """The path of an owner's limits, and `takes` with the name that the owner has there."""
    name = {"tenant": "tenant_id", "key": "key_id", "plan": "plan"}[kind]
    made = create_model(
        takes.__name__.replace("Limits", f"{kind.title()}Limits"),
        __base__=takes,
        __doc__=takes.__doc__,
        owner=(str, Field(alias=name, max_length=ID_CHARS_MAX)),
    )
    return f"/admin/{kind}s/{{{name}}}/limits", made


def _setting(kind: Owner) -> Operation[SetLimits, OwnLimits]:
    path, takes = _for(kind, SetLimits)

    @operation("PATCH", path, name=f"set_{kind}_limits", takes=takes)
    def set_limits(context: Context, asked: SetLimits) -> OwnLimits:
        """Set or change limits, all or none of them. Others that the owner has stay. A plan is made by its first."""
        wanted = [_parsed(text) for text in asked.limits]
        _check(wanted, asked)
        for one in wanted:
            stored.set_limit(
                context.connection, kind, asked.owner, one, model=asked.model, tokens=asked.kind, soft=asked.soft
            )
        return _own(context.connection, kind, asked.owner)

    return set_limits


def _unsetting(kind: Owner) -> Operation[UnsetLimits, OwnLimits]:
    path, takes = _for(kind, UnsetLimits)

    @operation("DELETE", path, name=f"unset_{kind}_limits", takes=takes)
    def unset_limits(context: Context, asked: UnsetLimits) -> OwnLimits:
        """Take limits away, all or none of them. A tenant's plan holds then, where it has the same."""
        wanted = [parse_name(text) for text in asked.limits]
        _check(wanted, asked)
        if kind == "tenant":
            tenants.tenant(context.connection, asked.owner)
        elif kind == "key":
            tenants.key(context.connection, asked.owner)
        for one in wanted:
            stored.unset_limit(
                context.connection, kind, asked.owner, one.unit, one.window, model=asked.model, tokens=asked.kind
            )
        return _own(context.connection, kind, asked.owner)

    return unset_limits


OWNERS: tuple[Owner, ...] = get_args(Owner)
#: Setting and taking away, by whose limits they are.
SET = {kind: _setting(kind) for kind in OWNERS}
UNSET = {kind: _unsetting(kind) for kind in OWNERS}


@operation("GET", "/admin/tenants/{tenant_id}/limits")
def show_tenant_limits(context: Context, asked: TenantLimits) -> Standings:
    """Show all limits that hold for a tenant: where each is set, what is used and left, and when it renews."""
    tenant = tenants.tenant(context.connection, asked.tenant_id)
    if asked.key_id is not None:
        key = tenants.key(context.connection, asked.key_id)
        if tenant.id != key.tenant_id and not key.trusted:
            raise StoreError(f"key {key.id} is tenant {key.tenant_id}'s, and acts for nobody else")
    return _effective(context, tenant.id, asked.key_id)


@operation("GET", "/admin/keys/{key_id}/limits")
def show_key_limits(context: Context, asked: KeyLimits) -> Standings:
    """Show all limits that hold for requests with a key: its tenant's, and its own on top."""
    return _effective(context, tenants.key(context.connection, asked.key_id).tenant_id, asked.key_id)


@operation("GET", "/admin/plans")
def list_plans(context: Context, asked: Paged) -> Page[Plan]:
    """List the plans, by their names. A plan without limits is there while tenants are on it."""
    found = [item for item in _plans(context.connection).items() if item[0] > asked.after]
    return page_of(
        found[: asked.limit + 1],
        asked.limit,
        lambda item: _plan(context.connection, *item),
        lambda item: item[0],
    )


@operation("GET", "/admin/plans/{plan}")
def show_plan(context: Context, asked: OnePlan) -> Plan:
    """Show a plan."""
    return plan_of(context.connection, asked.plan)


def plan_of(connection: sqlite3.Connection, name: str) -> Plan:
    """Raises `NoSuch` for a plan that nobody has made, and `WrongInput` for what cannot be one's name."""
    stored.check_plan(name)
    limits, on_each = stored.limits_of(connection, "plan", name), _plans(connection)
    if not limits and name not in on_each:
        make = f"tollgate limits set --plan {name} {EXAMPLE}"
        raise NoSuch(f"there is no plan {name}; a plan is made by its first limit: {make}")
    return _plan(connection, name, on_each[name])


def standings_of(context: Context, limits: Iterable[StoredLimit]) -> list[Standing]:
    found = standings(context.connection, limits, context.calendar, context.now_ms)
    return [Standing.model_validate(standing_json(one)) for one in found]


def limit_of(one: StoredLimit) -> Limit:
    return Limit.model_validate(limit_json(one))


def parse_name(text: str) -> Written:
    """A limit that is named without a value. Raises `WrongInput`."""
    if not _NAME.fullmatch(text):
        raise WrongInput(f"{text!r}: name a limit as UNIT/WINDOW, such as tokens/month", "limits")
    try:
        return Written.parse(f"{text}=0")
    except ValueError as error:
        raise WrongInput(str(error).replace("=0", ""), "limits") from None


def _parsed(text: str) -> Written:
    try:
        return Written.parse(text)
    except ValueError as error:
        raise WrongInput(str(error), "limits") from None


def _check(wanted: Sequence[Written], asked: _OfLimits) -> None:
    """Raises `WrongInput` for filters that do not fit, and for one limit that is named twice."""
    for at, one in enumerate(wanted):
        try:
            check_filters(one.unit, asked.model, asked.kind)
        except ValueError as error:
            raise WrongInput(str(error), "kind" if asked.kind else "model") from None
        if any((other.unit, other.window) == (one.unit, one.window) for other in wanted[:at]):
            raise WrongInput(f"{Counted('', '', one.unit, one.window).name} is named twice", "limits")


def _own(connection: sqlite3.Connection, kind: Owner, owner: str) -> OwnLimits:
    limits = [limit_of(one) for one in stored.limits_of(connection, kind, owner)]
    return OwnLimits(owner_kind=kind, owner=owner, limits=limits)


def _effective(context: Context, tenant_id: str, key_id: str | None) -> Standings:
    found = standings_of(context, stored.effective(context.connection, tenant_id, key_id or ""))
    return Standings(tenant_id=tenant_id, key_id=key_id, time_zone=context.settings.limits.time_zone, limits=found)


def _plans(connection: sqlite3.Connection) -> dict[str, int]:
    """The plans that have limits or tenants, by name, and how many tenants are on each."""
    on_each = stored.on_plans(connection)
    return {name: on_each.get(name, 0) for name in sorted({*on_each, *stored.plans(connection)})}


def _plan(connection: sqlite3.Connection, name: str, count: int) -> Plan:
    limits = [limit_of(one) for one in stored.limits_of(connection, "plan", name)]
    return Plan(plan=name, tenants=count, limits=limits, origin=provenance(connection, "plan", name))
