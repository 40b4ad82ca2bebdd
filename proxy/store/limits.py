"""Limits and prepaid amounts, as they are set: of plans, tenants and keys. Each works in the caller's transaction."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proxy.errors import NoSuch, StoreError, WrongInput
from proxy.limits import Written, check_filters
from proxy.model import Counted, Limit, Unit, Window
from proxy.store import accounts
from proxy.store.declared import check_managed
from proxy.store.tenants import key, tenant

Owner = Literal["plan", "tenant", "key"]

_PLAN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
#: What one owner may have: each costs every request some time.
LIMITS_MAX = 100


@dataclass(frozen=True, slots=True)
class TopUp:
    """A prepaid amount of a tenant's, and when it was added (unix ms)."""

    id: str
    tenant_id: str
    unit: Unit
    amount: int
    time_ms: int
    note: str


def check_plan(name: str) -> str:
    """Raises `StoreError` for what cannot be a plan's name."""
    if not _PLAN.fullmatch(name):
        raise WrongInput(f"plan {name!r}: use 1 to 64 lower-case letters, digits and . _ -, no sign first", "plan")
    return name


def set_limit(
    connection: sqlite3.Connection,
    kind: Owner,
    owner: str,
    written: Written,
    *,
    model: str = "",
    tokens: str = "",
    soft: bool = False,
) -> None:
    """Set or change one limit, of some `model`s (a pattern) and a kind of `tokens` alone. Raises `StoreError`."""
    _check_owner(connection, kind, owner)
    try:
        check_filters(written.unit, model, tokens)
    except ValueError as error:
        raise WrongInput(str(error), "kind" if tokens else "model") from None
    row = (kind, owner, written.unit, written.window, model, tokens, written.value, soft)
    connection.execute(accounts.SET_LIMIT, row)
    if len(limits_of(connection, kind, owner)) > LIMITS_MAX:
        raise StoreError(f"{kind} {owner} would have more than {LIMITS_MAX} limits")


def unset_limit(
    connection: sqlite3.Connection,
    kind: Owner,
    owner: str,
    unit: Unit,
    window: Window,
    *,
    model: str = "",
    tokens: str = "",
) -> None:
    """Raises `StoreError` where there is no such limit."""
    _check_managed(connection, kind, owner)
    done = connection.execute(accounts.UNSET_LIMIT, (kind, owner, unit, window, model, tokens))
    if not done.rowcount:
        name = Counted(kind, owner, unit, window, model, tokens).name
        raise NoSuch(f"{kind} {owner} has no limit {name}; `tollgate limits show` lists what it has")


def limits_of(connection: sqlite3.Connection, kind: Owner, owner: str) -> list[Limit]:
    """What is set for one owner itself."""
    return [_limit(row, scope="tenant", owner=owner) for row in connection.execute(accounts.LIMITS_OF, (kind, owner))]


def plans(connection: sqlite3.Connection) -> list[str]:
    """The plans that have limits."""
    return [name for (name,) in connection.execute(accounts.PLANS)]


def on_plans(connection: sqlite3.Connection) -> dict[str, int]:
    """How many tenants are on each plan that any is on."""
    return dict(connection.execute(accounts.TENANTS_ON_PLANS))


def effective(connection: sqlite3.Connection, tenant_id: str, key_id: str = "") -> tuple[Limit, ...]:
    """All that holds for a tenant's requests, and for those with one key (its own comes on top).

    What is set for the tenant takes the place of its plan's, where they count the same. Prepaid amounts are added to
    what it may use in all. A subject that is no tenant has none of its own.
    """
    row = connection.execute(accounts.TENANT, (tenant_id,)).fetchone()
    found: dict[Counted, Limit] = {}
    if row is not None:
        *_, plan, anchor_ms, _, _ = row
        for kind, owner in (("plan", plan), ("tenant", tenant_id)):
            for one in connection.execute(accounts.LIMITS_OF, (kind, owner)) if owner else ():
                limit = _limit(one, scope="tenant", owner=tenant_id, anchor_ms=anchor_ms)
                found[limit.counted] = limit
        _add_top_ups(connection, tenant_id, found)
    for one in connection.execute(accounts.LIMITS_OF, ("key", key_id)) if key_id else ():
        anchor_ms = tenant(connection, key(connection, key_id).tenant_id).anchor_ms  # whoever it acts for
        limit = _limit(one, scope="key", owner=key_id, anchor_ms=anchor_ms)
        found[limit.counted] = limit
    return tuple(found.values())


def top_up(
    connection: sqlite3.Connection, tenant_id: str, unit: Unit, amount: int, *, top_up_id: str, note: str, now_ms: int
) -> bool:
    """Add a prepaid amount. Returns whether it was added: the same id again changes nothing.

    Raises `StoreError` for an unknown tenant, and for an id that stands for another amount.
    """
    tenant(connection, tenant_id)
    row = (top_up_id, tenant_id, unit, amount, now_ms, note)
    if connection.execute(accounts.INSERT_TOP_UP, row).rowcount:
        return True
    if connection.execute(accounts.TOP_UP, (top_up_id,)).fetchone() != (tenant_id, unit, amount):
        raise StoreError(f"top-up {top_up_id} was made already, of another amount or for another tenant")
    return False


def has_top_up(connection: sqlite3.Connection, top_up_id: str) -> bool:
    return connection.execute(accounts.TOP_UP, (top_up_id,)).fetchone() is not None


def top_ups(connection: sqlite3.Connection, tenant_id: str = "", *, after: str = "", limit: int = -1) -> list[TopUp]:
    """The newest first, all or one tenant's; with `after` those that were made before this one."""
    parameters = (tenant_id, tenant_id, after, limit)
    return [
        TopUp(one, of, Unit(unit), *rest) for one, of, unit, *rest in connection.execute(accounts.TOP_UPS, parameters)
    ]


def _add_top_ups(connection: sqlite3.Connection, tenant_id: str, found: dict[Counted, Limit]) -> None:
    for unit, millions, rest in connection.execute(accounts.TOP_UP_SUMS, (tenant_id,)):
        amount = millions * 10**6 + rest
        counted = Counted("tenant", tenant_id, Unit(unit), Window.TOTAL)
        granted = next((one for one in found.values() if _is_total(one.counted, counted)), None)
        if granted is None:
            found[counted] = Limit(counted, amount, "prepaid")
        else:
            found[granted.counted] = Limit(
                granted.counted, granted.value + amount, f"{granted.origin}, prepaid", granted.soft
            )


def _is_total(one: Counted, counted: Counted) -> bool:
    return (one.unit, one.window, one.model, one.kind) == (counted.unit, Window.TOTAL, "", "")


def _check_owner(connection: sqlite3.Connection, kind: Owner, owner: str) -> None:
    match kind:
        case "plan":
            check_plan(owner)
        case "tenant":
            tenant(connection, owner)
        case "key":
            key(connection, owner)
    _check_managed(connection, kind, owner)


def _check_managed(connection: sqlite3.Connection, kind: Owner, owner: str) -> None:
    if kind == "key":
        tenant_id = key(connection, owner).tenant_id
        check_managed(connection, "tenant", tenant_id, what=f"key {owner} of tenant {tenant_id}")
    else:
        check_managed(connection, kind, owner)


def _limit(row: Sequence[Any], *, scope: str, owner: str, anchor_ms: int = 0) -> Limit:
    owner_kind, set_for, unit, span, model, kind, value, soft = row
    window = Window(span)
    counted = Counted(scope, owner, Unit(unit), window, model, kind, anchor_ms if window is Window.PERIOD else 0)
    origin = f"plan {set_for}" if owner_kind == "plan" else owner_kind
    return Limit(counted, value, origin, bool(soft))
