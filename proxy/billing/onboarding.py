"""A tenant's way into billing, from plan to plan, and out: each step is one transaction of the caller's, or nothing.

Whoever has a key can use something, and what is used before a subscription begins is billed by nobody. So the key comes
last. The limits that a plan's entitlements say are set with it, and taken away with it: what is allowed and what is
billed change together.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from proxy.billing.allowances import Allowance, Unheld, allowances, entitled
from proxy.billing.catalog import Catalog, Snapshot
from proxy.billing.reading import nearest
from proxy.errors import StoreError, WrongInput
from proxy.model import Counted, Key, Limit, Tenant
from proxy.store import limits, subscriptions, tenants
from proxy.store.subscriptions import Subscription

_SECOND_MS = 1_000
_DECLARED = "the tenant is declared in a file: write its limits there"


@dataclass(frozen=True, slots=True)
class Person:
    """Who is to be onboarded, and with which key: a new one, or the `secret` that is brought along; none."""

    tenant_id: str
    name: str = ""
    key_name: str = ""
    secret: str | None = None
    wants_key: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """The limits that a plan has set now, by their names; those that were set otherwise before and stay so; and what no
    limit can say.
    """

    set: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unheld: tuple[Unheld, ...] = ()


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A tenant, the subscription that goes on, and what is new of it."""

    tenant: Tenant
    subscription: Subscription
    is_new_tenant: bool = False
    is_new: bool = False
    held: Held = Held()
    #: The catalog has the plan otherwise by now.
    is_outdated: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """When a subscription began at an engine (ms), and an instant with which a billing period begins there (ms)."""

    start_ms: int
    anchor_ms: int


@dataclass(frozen=True, slots=True)
class Onboarded:
    """`key` and `secret` are a key's that was made now; the secret is stored nowhere."""

    subscribed: Subscribed
    key: Key | None = None
    secret: str | None = None


def onboard(
    connection: sqlite3.Connection,
    catalog: Catalog,
    person: Person,
    plan: str | None,
    *,
    zone: str,
    now_ms: int,
    begun: Begun | None = None,
) -> Onboarded:
    """Make the tenant, subscribe it, and then give it a key, as far as it is not done yet.

    Without a `plan` it is the one that the catalog names for the tenant. A subscription that has `begun` at an engine
    begins with that one here. Raises `StoreError`.
    """
    snapshot = snapshot_of(catalog, plan or catalog.subscriptions.get(person.tenant_id), person.tenant_id)
    start_ms = now_ms - now_ms % _SECOND_MS
    known = {one.id for one in tenants.tenants(connection)}
    if person.tenant_id not in known:
        tenants.create_tenant(connection, person.tenant_id, name=person.name, now_ms=start_ms)
        if begun is not None:  # its limits by the period, and its bills, go by one calendar
            tenants.set_anchor(connection, person.tenant_id, begun.anchor_ms)
    tenant = tenants.tenant(connection, person.tenant_id)
    going_on = subscriptions.current(connection, tenant.id)
    if going_on is None:
        anchor_ms = tenant.anchor_ms - tenant.anchor_ms % _SECOND_MS
        if begun is not None:
            ended = [one.end_ms or 0 for one in subscriptions.subscriptions(connection, tenant.id)]
            start_ms, anchor_ms = max([begun.start_ms, *ended]), begun.anchor_ms
        subscribed = _subscribe(connection, tenant, snapshot, zone=zone, anchor_ms=anchor_ms, start_ms=start_ms)
    else:
        _check_plan(going_on, snapshot)
        subscribed = Subscribed(tenant, going_on, is_outdated=kept(connection, going_on) != snapshot)
    subscribed = replace(subscribed, is_new_tenant=person.tenant_id not in known)
    if not person.wants_key or _has_key(connection, person, now_ms):
        return Onboarded(subscribed)
    key, secret = tenants.create_key(connection, tenant.id, name=person.key_name, secret=person.secret, now_ms=now_ms)
    return Onboarded(subscribed, key, secret)


def rehearse(
    connection: sqlite3.Connection, catalog: Catalog, person: Person, plan: str | None, *, zone: str, now_ms: int
) -> Subscription:
    """The subscription that `onboard` would lead to, with nothing changed. Raises `StoreError` as that does."""
    connection.execute("SAVEPOINT rehearsal")
    try:
        return onboard(connection, catalog, person, plan, zone=zone, now_ms=now_ms).subscribed.subscription
    finally:
        connection.execute("ROLLBACK TO rehearsal")
        connection.execute("RELEASE rehearsal")


def change(connection: sqlite3.Connection, catalog: Catalog, tenant_id: str, plan: str, *, now_ms: int) -> Subscribed:
    """Put a subscribed tenant on another plan, or on its plan as the catalog has it now, at once.

    The running billing period ends now, and the next one goes on until that one would have ended. Raises `StoreError`.
    """
    snapshot = snapshot_of(catalog, plan, tenant_id)
    tenant = tenants.tenant(connection, tenant_id)
    before = going_on(connection, tenant_id)
    known = kept(connection, before)
    if known == snapshot:
        return Subscribed(tenant, before)
    now_ms -= now_ms % _SECOND_MS
    subscriptions.end(connection, before, now_ms)
    return _subscribe(
        connection,
        tenant,
        snapshot,
        before=known,
        zone=before.zone,
        anchor_ms=before.anchor_ms,
        start_ms=max(now_ms, before.start_ms),
    )


def cancel(connection: sqlite3.Connection, tenant_id: str, *, now_ms: int) -> Subscription:
    """End a subscription at once, and take its limits away. Raises `StoreError`."""
    tenant = tenants.tenant(connection, tenant_id)
    before = going_on(connection, tenant_id)
    subscriptions.end(connection, before, now_ms - now_ms % _SECOND_MS)
    _hold(connection, tenant, kept(connection, before), None)
    return subscriptions.subscriptions(connection, tenant_id)[-1]


def going_on(connection: sqlite3.Connection, tenant_id: str) -> Subscription:
    """The subscription that goes on. Raises `StoreError`, with the command that makes one."""
    found = subscriptions.current(connection, tenant_id)
    if found is None:
        make = f"tollgate billing onboard {tenant_id} --plan PLAN"
        raise StoreError(f"tenant {tenant_id} has no subscription; make one: {make}")
    return found


def kept(connection: sqlite3.Connection, subscription: Subscription) -> Snapshot:
    """The plan as it was when it was subscribed to."""
    return Snapshot.from_json(subscriptions.document(connection, subscription.plan, subscription.version))


def version_of(connection: sqlite3.Connection, snapshot: Snapshot) -> int | None:
    """The version that a plan has as it is now; None where nobody has subscribed to that yet."""
    known = subscriptions.latest(connection, snapshot.plan.key)
    return known[0] if known is not None and Snapshot.from_json(known[1]) == snapshot else None


def snapshot_of(catalog: Catalog, plan: str | None, tenant_id: str) -> Snapshot:
    """Raises `WrongInput` for a plan that is not in the catalog, or none."""
    if plan is None:
        raise WrongInput(f"say which plan {tenant_id} is to be on, here or in the catalog's [subscriptions]", "plan")
    if plan not in catalog.plans:
        raise WrongInput(f"there is no plan {plan} in the catalog; {nearest(plan, catalog.plans)}", "plan")
    return catalog.snapshot(plan)


def _check_plan(going_on: Subscription, snapshot: Snapshot) -> None:
    if going_on.plan != snapshot.plan.key:
        change_it = f"tollgate billing change {going_on.tenant_id} --plan {snapshot.plan.key}"
        raise StoreError(f"tenant {going_on.tenant_id} is on plan {going_on.plan}; to change that: {change_it}")


def _subscribe(
    connection: sqlite3.Connection,
    tenant: Tenant,
    snapshot: Snapshot,
    *,
    before: Snapshot | None = None,
    zone: str,
    anchor_ms: int,
    start_ms: int,
) -> Subscribed:
    version = version_of(connection, snapshot)
    if version is None:
        version = subscriptions.keep(connection, snapshot.plan.key, snapshot.to_json())
    made = subscriptions.subscribe(
        connection, tenant.id, snapshot.plan.key, version, zone=zone, anchor_ms=anchor_ms, start_ms=start_ms
    )
    held = _hold(connection, tenant, before, snapshot)
    return Subscribed(tenants.tenant(connection, tenant.id), made, is_new=True, held=held)


def _hold(connection: sqlite3.Connection, tenant: Tenant, before: Snapshot | None, after: Snapshot | None) -> Held:
    """Put the limits of one plan in the place of another's. Limits that somebody has set otherwise are theirs.

    What a declared tenant may use stands in its file alone.
    """
    if tenant.origin == "declared":
        return Held(unheld=tuple(Unheld(feature, _DECLARED) for feature in (entitled(after) if after else ())))
    own = {_place(one.counted): one for one in limits.limits_of(connection, "tenant", tenant.id)}
    for one in allowances(before)[0] if before else ():
        if _is(own.get(_named(one)), one):
            written = one.written
            limits.unset_limit(
                connection, "tenant", tenant.id, written.unit, written.window, model=one.model, tokens=one.kind
            )
            del own[_named(one)]
    _follow(connection, tenant, before, after)
    wanted, unheld = allowances(after) if after else ([], [])
    done, kept = [], []
    for one in wanted:
        written = one.written
        name = Counted("", "", written.unit, written.window, one.model, one.kind).name
        if _named(one) in own:
            kept.append(name)
            continue
        limits.set_limit(connection, "tenant", tenant.id, written, model=one.model, tokens=one.kind, soft=one.soft)
        done.append(f"{name} {written.value:,}{' (soft)' * one.soft}")
    return Held(tuple(done), tuple(kept), tuple(unheld))


def _follow(connection: sqlite3.Connection, tenant: Tenant, before: Snapshot | None, after: Snapshot | None) -> None:
    """Put a tenant on the plan of limits with the same name, unless it is on one that it was put on otherwise."""
    if tenant.plan not in ("", before.plan.key if before else ""):
        return
    name = after.plan.key if after else ""
    name = name if name in limits.plans(connection) else ""
    if name != tenant.plan:
        tenants.set_plan(connection, tenant.id, name)


def _place(one: Counted) -> tuple[str, ...]:
    return one.unit, one.window, one.model, one.kind


def _named(one: Allowance) -> tuple[str, ...]:
    return one.written.unit, one.written.window, one.model, one.kind


def _is(limit: Limit | None, one: Allowance) -> bool:
    return limit is not None and (limit.value, limit.soft) == (one.written.value, one.soft)


def _has_key(connection: sqlite3.Connection, person: Person, now_ms: int) -> bool:
    """Whether it has the key that it is to have. Raises `StoreError` where that is another's."""
    if person.secret is not None:
        return tenants.has_key(connection, person.tenant_id, person.secret)
    return any(
        one.revoked_ms is None
        and (one.expires_ms is None or one.expires_ms > now_ms)
        and (not person.key_name or one.name == person.key_name)
        for one in tenants.keys(connection, person.tenant_id)
    )
