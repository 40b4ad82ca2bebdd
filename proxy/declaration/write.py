"""Tenants as a file declares them: what is managed by command, written down to be adopted."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

import orjson

from proxy.instants import iso
from proxy.limits import shown
from proxy.model import Counted, Key, Limit, Tenant
from proxy.store import accounts
from proxy.store.declared import provenance
from proxy.store.limits import limits_of
from proxy.store.tenants import keys, tenant

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def written(connection: sqlite3.Connection, tenant_ids: Sequence[str]) -> str:
    """TOML of these tenants, their keys that are not revoked, and the plans that they are on. Raises `StoreError`."""
    found = [tenant(connection, tenant_id) for tenant_id in dict.fromkeys(tenant_ids)]
    lines: list[str] = []
    for plan in sorted({one.plan for one in found if one.plan}):
        lines += [f"[plans.{_name(plan)}]", *_adopt(provenance(connection, "plan", plan))]
        lines += [*_limits(limits_of(connection, "plan", plan)), ""]
    for one in found:
        lines += [f"[tenants.{_name(one.id)}]", *_adopt(one.origin), *_tenant(one)]
        lines += [*_limits(limits_of(connection, "tenant", one.id)), ""]
        for key in keys(connection, one.id):
            if key.revoked_ms is None:
                lines += [f"[[tenants.{_name(one.id)}.keys]]", *_key(connection, key)]
                lines += [*_limits(limits_of(connection, "key", key.id)), ""]
    return "\n".join(lines)


def _adopt(origin: str) -> Iterator[str]:
    if origin == "managed":
        yield "adopt = true"


def _tenant(one: Tenant) -> Iterator[str]:
    yield f"name = {_text(one.name)}"
    if one.plan:
        yield f"plan = {_text(one.plan)}"
    if one.status == "disabled":
        yield "disabled = true"
    if one.anchor_ms != one.created_ms:
        yield f"period_anchor = {iso(one.anchor_ms)}"
    if one.upstream_key:
        yield f"upstream_key = {_text(one.upstream_key)}"


def _key(connection: sqlite3.Connection, key: Key) -> Iterator[str]:
    (hashed,) = connection.execute(accounts.KEY_HASH, (key.id,)).fetchone()
    yield f'sha256 = "{hashed.hex()}"'
    if key.name:
        yield f"name = {_text(key.name)}"
    if key.models:
        yield f"models = [{', '.join(map(_text, key.models))}]"
    if key.trusted:
        yield "trusted = true"
    if key.expires_ms is not None:
        yield f"expires = {iso(key.expires_ms)}"


def _limits(limits: Iterable[Limit]) -> Iterator[str]:
    entries = [_limit(one) for one in limits]
    if entries:
        yield f"limits = [{', '.join(entries)}]"


def _limit(one: Limit) -> str:
    counted = one.counted
    text = _text(f"{Counted('', '', counted.unit, counted.window).name}={shown(counted.unit, one.value)}")
    filters = [
        f"{name} = {_text(value)}" for name, value in (("model", counted.model), ("kind", counted.kind)) if value
    ]
    filters += ["soft = true"] * one.soft
    return f"{{{', '.join([f'limit = {text}', *filters])}}}" if filters else text


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(value: str) -> str:
    """As JSON has it, which TOML reads, but for the one character that only JSON leaves as it is."""
    return orjson.dumps(value).decode().replace("\x7f", "\\u007f")
