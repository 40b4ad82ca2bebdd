"""Tenants and their keys: made, listed, rotated, revoked. Each function works in the caller's transaction."""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from proxy.errors import NoSuch, StoreError, WrongInput
from proxy.model import SUBJECT_PATTERN, Key, Tenant
from proxy.store import accounts
from proxy.store.declared import check_managed

_KEY_PATTERN = re.compile(r"[\x21-\x7e]{8,256}")
_HINT_CHARS = 4
_UPSTREAM_KEY_PATTERN = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/[\x21-\x7e]+")


def hash_of(secret: bytes) -> bytes:
    """How a key is stored and looked up."""
    return hashlib.sha256(secret).digest()


def new_secret() -> str:
    """A key of 256 random bits."""
    return "tg_" + secrets.token_urlsafe(32)


def new_key_id() -> str:
    return "key_" + secrets.token_hex(8)


def check_secret(secret: str) -> None:
    """Raises `StoreError` for what cannot be a key that somebody brings along."""
    if not _KEY_PATTERN.fullmatch(secret):
        raise WrongInput("an imported key must be 8 to 256 printable ASCII characters without spaces", "key")


def create_tenant(
    connection: sqlite3.Connection,
    tenant_id: str,
    *,
    name: str = "",
    upstream_key: str = "",
    plan: str = "",
    now_ms: int,
) -> Tenant:
    """Raises `StoreError` for an id that is taken or not allowed, and as `set_upstream_key` does."""
    check_tenant_id(tenant_id)
    check_upstream_key(upstream_key)
    try:
        connection.execute(accounts.INSERT_TENANT, (tenant_id, name or tenant_id, now_ms, upstream_key, plan))
    except sqlite3.IntegrityError:
        raise StoreError(f"there is a tenant {tenant_id} already") from None
    return tenant(connection, tenant_id)


def tenant(connection: sqlite3.Connection, tenant_id: str) -> Tenant:
    """Raises `StoreError` where there is none."""
    row = connection.execute(accounts.TENANT, (tenant_id,)).fetchone()
    if row is None:
        raise NoSuch(f"there is no tenant {tenant_id}")
    return Tenant(*row)


def tenants(connection: sqlite3.Connection, *, after: str = "", limit: int = -1) -> list[Tenant]:
    """By their ids, those behind `after`, at most `limit` (-1: all)."""
    return [Tenant(*row) for row in connection.execute(accounts.TENANTS, (after, limit))]


def has_tenants(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute(accounts.TENANT_COUNT).fetchone()[0])


def set_active(connection: sqlite3.Connection, tenant_id: str, *, active: bool) -> Tenant:
    """Disable a tenant (its keys are refused with 403), or let it in again. Raises `StoreError`."""
    check_managed(connection, "tenant", tenant_id)
    connection.execute(accounts.SET_TENANT_STATUS, ("active" if active else "disabled", tenant_id))
    return tenant(connection, tenant_id)


def set_upstream_key(connection: sqlite3.Connection, tenant_id: str, reference: str) -> Tenant:
    """Say where a tenant's own upstream key is found; empty: it shares the service's. Raises `StoreError`."""
    check_upstream_key(reference)
    check_managed(connection, "tenant", tenant_id)
    connection.execute(accounts.SET_UPSTREAM_KEY, (reference, tenant_id))
    return tenant(connection, tenant_id)


def set_plan(connection: sqlite3.Connection, tenant_id: str, plan: str) -> Tenant:
    """Put a tenant on a plan, whose limits hold for it as well; empty: on none. Raises `StoreError`."""
    check_managed(connection, "tenant", tenant_id)
    connection.execute(accounts.SET_PLAN, (plan, tenant_id))
    return tenant(connection, tenant_id)


def set_anchor(connection: sqlite3.Connection, tenant_id: str, anchor_ms: int) -> Tenant:
    """Say when a tenant's first billing period began; the others begin on the same day. Raises `StoreError`."""
    check_managed(connection, "tenant", tenant_id)
    connection.execute(accounts.SET_ANCHOR, (anchor_ms, tenant_id))
    return tenant(connection, tenant_id)


def check_tenant_id(tenant_id: str) -> None:
    """Raises `StoreError` for what cannot be a tenant's id."""
    if not SUBJECT_PATTERN.fullmatch(tenant_id):
        words = f"tenant id {tenant_id!r}: use 1 to 128 letters, digits and . _ : @ -, no sign first"
        raise WrongInput(words, "id")


def check_upstream_key(reference: str) -> None:
    """Raises `StoreError` for what does not say where an upstream key is found; empty is fine."""
    if reference and not _UPSTREAM_KEY_PATTERN.fullmatch(reference):
        # Without what was given: it may be the key itself.
        words = "an upstream key is named by where it is found, env:NAME or file:/absolute/path, never stored"
        raise WrongInput(words, "upstream_key")


def create_key(
    connection: sqlite3.Connection,
    tenant_id: str,
    *,
    name: str = "",
    models: Sequence[str] = (),
    trusted: bool = False,
    expires_ms: int | None = None,
    secret: str | None = None,
    now_ms: int,
) -> tuple[Key, str]:
    """A new key and its secret, which is stored nowhere. An own `secret` may be brought along from elsewhere.

    Raises `StoreError` for an unknown tenant, and for a secret that is in use or too short to be one.
    """
    tenant(connection, tenant_id)
    check_managed(connection, "tenant", tenant_id, fix="add the key's hash there (`tollgate keys hash` prints it)")
    hint = ""
    if secret is None:
        secret = new_secret()
        hint = secret[-_HINT_CHARS:]
    else:
        check_secret(secret)
    key_id = new_key_id()
    row = (
        key_id,
        tenant_id,
        name,
        hash_of(secret.encode()),
        hint,
        orjson.dumps(list(models)).decode(),
        trusted,
        now_ms,
        expires_ms,
    )
    try:
        connection.execute(accounts.INSERT_KEY, row)
    except sqlite3.IntegrityError:
        raise StoreError("this key is in use already") from None
    return key(connection, key_id), secret


def key(connection: sqlite3.Connection, key_id: str) -> Key:
    """Raises `StoreError` where there is none."""
    row = connection.execute(accounts.KEY, (key_id,)).fetchone()
    if row is None:
        raise NoSuch(f"there is no key {key_id}; `tollgate keys list` shows their ids")
    return _key(row)


def keys(connection: sqlite3.Connection, tenant_id: str = "", *, after: str = "", limit: int = -1) -> list[Key]:
    """By their tenants and their age, all or one tenant's: those behind the key `after`, at most `limit` (-1: all)."""
    parameters = (tenant_id, tenant_id, after, after, after, limit)
    return [_key(row) for row in connection.execute(accounts.KEYS, parameters)]


def keys_expiring(connection: sqlite3.Connection, now_ms: int, until_ms: int) -> list[Key]:
    """Keys that can be used now and expire by then, the first to expire first."""
    return [_key(row) for row in connection.execute(accounts.KEYS_EXPIRING, (now_ms, until_ms))]


def has_key(connection: sqlite3.Connection, tenant_id: str, secret: str) -> bool:
    """Whether a key is this tenant's already."""
    row = connection.execute(accounts.KEY_OWNER, (hash_of(secret.encode()),)).fetchone()
    return row is not None and row[0] == tenant_id


def revoke_key(connection: sqlite3.Connection, key_id: str, *, now_ms: int) -> Key:
    """Refuse this key from now on. Revoking it again changes nothing. Raises `StoreError`."""
    _check_key_managed(connection, key(connection, key_id), "take it out there, and it is revoked")
    connection.execute(accounts.REVOKE_KEY, (now_ms, key_id))
    return key(connection, key_id)


def rotate_key(connection: sqlite3.Connection, key_id: str, *, overlap_ms: int, now_ms: int) -> tuple[Key, str]:
    """A new key with the old one's rights; the old one holds for `overlap_ms` more. Raises `StoreError`."""
    old = key(connection, key_id)
    _check_key_managed(connection, old, "put another one beside it there, and take it out when nobody uses it any more")
    if old.revoked_ms is not None or (old.expires_ms is not None and old.expires_ms <= now_ms):
        raise StoreError(f"key {key_id} is revoked or expired; create a new one")
    until_ms = now_ms + overlap_ms
    connection.execute(accounts.EXPIRE_KEY, (until_ms, key_id, until_ms))
    return create_key(
        connection,
        old.tenant_id,
        name=old.name,
        models=old.models,
        trusted=old.trusted,
        expires_ms=old.expires_ms,
        now_ms=now_ms,
    )


def _check_key_managed(connection: sqlite3.Connection, found: Key, fix: str) -> None:
    check_managed(connection, "tenant", found.tenant_id, what=f"key {found.id} of tenant {found.tenant_id}", fix=fix)


def _key(row: Sequence[Any]) -> Key:
    key_id, tenant_id, name, hint, models, trusted, *rest = row
    return Key(key_id, tenant_id, name, hint, tuple(orjson.loads(models)), bool(trusted), *rest)
