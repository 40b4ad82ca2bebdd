"""What has to change in the store for it to be as declared. Found out in one transaction, written in another.

What is declared in no file is left alone. What was declared and is not any more is *withdrawn*: a tenant is disabled
and its keys are revoked, a plan stays as it is, so that nobody on it becomes unlimited. All of them, and all that was
ever used, stay known, and come back when they are declared again.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from proxy.declaration.document import Declaration, KeyTable, LimitTable, Location, PlanTable, TenantTable
from proxy.instants import iso_short
from proxy.store import accounts
from proxy.store.declared import applied
from proxy.store.limits import Owner, plans
from proxy.store.tenants import new_key_id

#: The statements in the order in which they are written: keys need their tenants.
_ORDER = (
    *(accounts.DECLARE_TENANT, accounts.SET_TENANT_STATUS, accounts.DECLARE_KEY, accounts.REVOKE_KEY),
    *(accounts.UNSET_LIMIT, accounts.SET_LIMIT, accounts.SET_DECLARED, accounts.SET_DECLARATION),
)
_ADOPT = "or write adopt = true here"

Row = tuple[Any, ...]
#: Where a tenant's plan stands in its row.
_PLAN = 4


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write, by statement. `words` tells it in short, `warning` what an operator may not have meant."""

    revision: int
    rows: dict[str, list[Row]]
    words: str
    warning: str = ""

    def write(self, connection: sqlite3.Connection) -> bool:
        """Write them, in the caller's transaction; nothing, and False, where the store has changed since."""
        if _revision(connection) != self.revision:
            return False
        for sql in _ORDER:
            connection.executemany(sql, self.rows.get(sql, ()))
        return True


def changes(connection: sqlite3.Connection, declaration: Declaration, file: str, now_ms: int) -> Changes:
    """What declares `file` (its absolute path), compared with the store in one view of it.

    Raises `WrongDeclaration` for what cannot be beside what the store has.
    """
    revision = _revision(connection)
    last = applied(connection)
    if last.file != file and not declaration.is_given:
        return Changes(
            revision, {}, "", last.file and f"{file} declares no tenants, and what {last.file} declares stays"
        )
    warning = ""
    if last.file not in ("", file):
        when = iso_short(last.applied_ms)
        warning = f"{file} takes the place of {last.file}, applied at {when}; servers on one ledger need the same file"
    found = _Comparison(connection, declaration, now_ms)
    found.compare()
    if declaration.is_blank and found.counts:
        words = "is empty; to withdraw all that it declared, leave an empty table in it: [tenants]"
        raise declaration.wrong((), words)
    if found.rows or (last.file, last.digest) != (file, declaration.digest):
        found.rows[accounts.SET_DECLARATION] = [(file, declaration.digest, now_ms)]
    return Changes(revision, found.rows, _told(found.counts), warning)


class _Comparison:
    """Gathers rows to write, and counts what they mean."""

    def __init__(self, connection: sqlite3.Connection, declaration: Declaration, now_ms: int) -> None:
        self._connection = connection
        self._declaration = declaration
        self._now_ms = now_ms
        self._plans: dict[str, str] = dict(connection.execute(accounts.DECLARED_PLANS))
        self._tenants: dict[str, Row] = {row[0]: row for row in connection.execute(accounts.DECLARED_TENANTS)}
        self._keys: dict[str, Row] = {row[0].hex(): row for row in connection.execute(accounts.DECLARED_KEYS)}
        self._limits: dict[tuple[str, str], dict[Row, Row]] = {}
        for kind, owner, *limit in connection.execute(accounts.DECLARED_LIMITS):
            self._limits.setdefault((kind, owner), {})[tuple(limit[:4])] = tuple(limit[4:])
        self.rows: dict[str, list[Row]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def compare(self) -> None:
        for name, plan in self._declaration.plans.items():
            self._compare_plan(name, plan)
        for tenant_id, tenant in self._declaration.tenants.items():
            self._compare_tenant(tenant_id, tenant)
        self._withdraw()

    def _compare_plan(self, name: str, plan: PlanTable) -> None:
        state = self._plans.get(name, "")
        if not state and not plan.adopt and self._limits_of("plan", name, is_known=False):
            words = f"there is a plan {name} already, made by command; choose another name, {_ADOPT}"
            raise self._declaration.wrong(("plans", name), words)
        is_changed = self._compare_limits("plan", name, plan.limits, is_known=bool(state))
        self._mark("plan", name, state, is_changed)

    def _compare_tenant(self, tenant_id: str, tenant: TenantTable) -> None:
        found = self._tenants.get(tenant_id) or self._one(accounts.UNDECLARED_TENANT, tenant_id)
        state = found[-1] if found else ""
        if found and not state and not tenant.adopt:
            words = f"there is a tenant {tenant_id} already, made by command; choose another id, {_ADOPT}"
            raise self._declaration.wrong(("tenants", tenant_id), words)
        self._check_plan(tenant_id, tenant.plan, found[_PLAN] if found else "")
        status = "disabled" if tenant.disabled else "active"
        wanted = (tenant_id, tenant.name or tenant_id, status, tenant.upstream_key, tenant.plan, tenant.period_anchor)
        is_changed = found is None or found[:-1] != wanted
        if is_changed:
            self._add(accounts.DECLARE_TENANT, (*wanted, self._now_ms))
        is_changed |= self._compare_limits("tenant", tenant_id, tenant.limits, is_known=bool(state))
        self._mark("tenant", tenant_id, state, is_changed)
        for at, key in enumerate(tenant.keys):
            self._compare_key(key, tenant_id, ("tenants", tenant_id, "keys", at))
        if found and not state:
            kept = {key.sha256 for key in tenant.keys}
            rows = self._connection.execute(accounts.UNDECLARED_KEYS_OF, (tenant_id,))
            self._revoke([row for row in rows if row[0].hex() not in kept])

    def _check_plan(self, tenant_id: str, plan: str, before: str) -> None:
        """One that was taken away by command since is no reason to refuse the file, and with it the next start."""
        if not plan or plan in self._declaration.plans or plan in self._managed_plans:
            return
        if plan in self._plans or plan != before:
            words = f"there is no plan {plan}; declare it: [plans.{plan}]"
            raise self._declaration.wrong(("tenants", tenant_id, "plan"), words)

    @cached_property
    def _managed_plans(self) -> set[str]:
        return {name for name in plans(self._connection) if name not in self._plans}

    def _compare_key(self, key: KeyTable, tenant_id: str, location: Location) -> None:
        hashed = bytes.fromhex(key.sha256)
        found = self._keys.get(key.sha256) or self._one(accounts.UNDECLARED_KEY, hashed)
        state = found[-1] if found else ""
        if found:
            self._check_key(found, tenant_id, location)
        key_id = found[1] if found else new_key_id()
        models = orjson.dumps([*dict.fromkeys(key.models)]).decode()
        wanted = (hashed, key_id, tenant_id, key.name, models, int(key.trusted), key.expires)
        is_changed = found is None or found[:-1] != (*wanted, None)
        if is_changed:
            self._add(accounts.DECLARE_KEY, (*wanted, self._now_ms))
        is_changed |= self._compare_limits("key", key_id, key.limits, is_known=bool(state) or not found)
        self._mark("key", key_id, state, is_changed)

    def _check_key(self, found: Row, tenant_id: str, location: Location) -> None:
        *_, owner, _, _, _, _, revoked_ms, state = found
        if owner != tenant_id:
            raise self._declaration.wrong(location, f"this key is tenant {owner}'s, and no key moves; make a new one")
        if revoked_ms is not None and not state:
            raise self._declaration.wrong(
                location, "this key was revoked by command, which is for good; make a new one"
            )

    def _compare_limits(self, kind: Owner, owner: str, limits: Sequence[LimitTable], *, is_known: bool) -> bool:
        """Whether anything changes. `is_known`: what stands of it was read with all that is declared."""
        found = self._limits_of(kind, owner, is_known=is_known)
        wanted = {(one.limit.unit, one.limit.window, one.model, one.kind): one for one in limits}
        gone = [name for name in found if name not in wanted]
        changed = [
            (kind, owner, *name, one.limit.value, int(one.soft))
            for name, one in wanted.items()
            if found.get(name) != (one.limit.value, int(one.soft))
        ]
        for name in gone:
            self._add(accounts.UNSET_LIMIT, (kind, owner, *name))
        for row in changed:
            self._add(accounts.SET_LIMIT, row)
        return bool(gone or changed)

    def _limits_of(self, kind: Owner, owner: str, *, is_known: bool) -> dict[Row, Row]:
        if is_known:
            return self._limits.get((kind, owner), {})
        rows = self._connection.execute(accounts.LIMITS_OF, (kind, owner))
        return {tuple(limit[:4]): tuple(limit[4:]) for _, _, *limit in rows}

    def _withdraw(self) -> None:
        declaration = self._declaration
        for name, state in self._plans.items():
            if state == "declared" and name not in declaration.plans:
                self._mark_withdrawn("plan", name)
        for tenant_id, *_, state in self._tenants.values():
            if state == "declared" and tenant_id not in declaration.tenants:
                self._add(accounts.SET_TENANT_STATUS, ("disabled", tenant_id))
                self._mark_withdrawn("tenant", tenant_id)
        kept = {key.sha256 for tenant in declaration.tenants.values() for key in tenant.keys}
        self._revoke([row for hashed, row in self._keys.items() if row[-1] == "declared" and hashed not in kept])

    def _revoke(self, keys: Iterable[Row]) -> None:
        for _, key_id, _, _, _, _, _, revoked_ms, _ in keys:
            if revoked_ms is None:
                self._add(accounts.REVOKE_KEY, (self._now_ms, key_id))
                self._mark_withdrawn("key", key_id)

    def _mark(self, kind: str, owner: str, state: str, is_changed: bool) -> None:
        if state != "declared":
            self._add(accounts.SET_DECLARED, (kind, owner, "declared"))
            self.counts[kind, "added"] += 1
        elif is_changed:
            self.counts[kind, "changed"] += 1

    def _mark_withdrawn(self, kind: str, owner: str) -> None:
        self._add(accounts.SET_DECLARED, (kind, owner, "withdrawn"))
        self.counts[kind, "withdrawn"] += 1

    def _add(self, sql: str, row: Row) -> None:
        self.rows.setdefault(sql, []).append(row)

    def _one(self, sql: str, key: str | bytes) -> Row | None:
        row: Row | None = self._connection.execute(sql, (key,)).fetchone()
        return row


def _told(counts: Counter[tuple[str, str]]) -> str:
    """`2 tenants added, 1 key withdrawn`."""
    return ", ".join(f"{count} {kind}{'s' * (count != 1)} {what}" for (kind, what), count in sorted(counts.items()))


def _revision(connection: sqlite3.Connection) -> int:
    number: int = connection.execute(accounts.REVISION).fetchone()[0]
    return number
