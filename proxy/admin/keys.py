"""Operations on keys: what tenants authenticate with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.admin.limits import Limit, limit_of
from proxy.admin.operation import NAME_CHARS_MAX, Answer, Asked, Context, Page, Paged, operation, page_of
from proxy.errors import WrongInput
from proxy.instants import iso, iso_or_none, parse_expiry, parse_span
from proxy.model import Key as StoredKey
from proxy.model import Provenance
from proxy.store import tenants
from proxy.store.limits import limits_of

_MODELS_MAX = 1_000


class Key(Answer):
    """A key of a tenant. The secret itself is stored nowhere."""

    id: str
    tenant_id: str
    name: str
    hint: str
    """The last four characters of a key that was made here; empty for one that was brought."""
    status: Literal["active", "expired", "revoked"]
    models: list[str]
    """Those that it may use; empty: all."""
    trusted: bool
    """It may name whom it acts for, in X-Tollgate-Subject."""
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    limits: list[Limit]
    """What is set for the key itself, on top of its tenant's limits."""
    origin: Provenance
    """Who changes it: operators, or the file that declares it (or did once: `withdrawn`)."""


class NewKey(Key):
    """A key, and its secret, which is shown this once. Where the request is repeated it is null."""

    key: str | None = Field(repr=False)

    def to_keep(self) -> dict[str, Any]:
        return self.json_object() | {"key": None}


class RotatedKey(NewKey):
    """A new key, and when the one that it replaces ends."""

    replaces: str
    replaced_expires_at: str | None


class CreateKey(Asked):
    tenant_id: str
    name: str = Field("", max_length=NAME_CHARS_MAX)
    """A name to show."""
    models: list[Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX)]] = Field([], max_length=_MODELS_MAX)
    """The models that it may use; all, if left out."""
    expires: str | None = None
    """When it ends: a span such as `30d` or `12h`, or an instant such as `2026-12-31T00:00:00Z`."""
    trusted: bool = False
    """It may name whom it acts for, in X-Tollgate-Subject."""
    key: str | None = Field(None, repr=False)
    """A key of your own, 8 to 256 printable ASCII characters. One is made if left out."""


class ListKeys(Paged):
    tenant_id: str | None = None
    """Only this tenant's."""


class OneKey(Asked):
    key_id: str


class RotateKey(OneKey):
    overlap: str = "24h"
    """How long the old key still holds: `24h`, `7d`, `0s`."""


@operation("POST", "/admin/tenants/{tenant_id}/keys", status=201)
def create_key(context: Context, asked: CreateKey) -> NewKey:
    """Make a key for a tenant, or take one that it has already. Its secret is shown this once."""
    expires_ms = None
    if asked.expires is not None:
        expires_ms = _parsed(parse_expiry, asked.expires, context.now_ms, field="expires")
    key, secret = tenants.create_key(
        context.connection,
        asked.tenant_id,
        name=asked.name,
        models=tuple(dict.fromkeys(asked.models)),
        trusted=asked.trusted,
        expires_ms=expires_ms,
        secret=asked.key,
        now_ms=context.now_ms,
    )
    return NewKey(**_key(context, key).json_object(), key=secret)


@operation("GET", "/admin/keys")
def list_keys(context: Context, asked: ListKeys) -> Page[Key]:
    """List keys, without their secrets, by their tenants and their age."""
    connection = context.connection
    if asked.tenant_id is not None:
        tenants.tenant(connection, asked.tenant_id)
    if asked.after:
        tenants.key(connection, asked.after)
    found = tenants.keys(connection, asked.tenant_id or "", after=asked.after, limit=asked.limit + 1)
    return page_of(found, asked.limit, lambda one: _key(context, one), lambda one: one.id)


@operation("GET", "/admin/keys/{key_id}")
def show_key(context: Context, asked: OneKey) -> Key:
    """Show a key, without its secret."""
    return _key(context, tenants.key(context.connection, asked.key_id))


@operation("POST", "/admin/keys/{key_id}/rotate", status=201)
def rotate_key(context: Context, asked: RotateKey) -> RotatedKey:
    """Make a key with the rights of another, which soon ends."""
    overlap_ms = _parsed(parse_span, asked.overlap, field="overlap")
    connection, now_ms = context.connection, context.now_ms
    key, secret = tenants.rotate_key(connection, asked.key_id, overlap_ms=overlap_ms, now_ms=now_ms)
    until_ms = tenants.key(connection, asked.key_id).expires_ms
    known = _key(context, key).json_object()
    return RotatedKey(**known, key=secret, replaces=asked.key_id, replaced_expires_at=iso_or_none(until_ms))


@operation("POST", "/admin/keys/{key_id}/revoke")
def revoke_key(context: Context, asked: OneKey) -> Key:
    """End a key for good. Revoking it again changes nothing."""
    return _key(context, tenants.revoke_key(context.connection, asked.key_id, now_ms=context.now_ms))


def _key(context: Context, key: StoredKey) -> Key:
    return Key(
        id=key.id,
        tenant_id=key.tenant_id,
        name=key.name,
        hint=key.hint,
        status=_status(key, context.now_ms),
        models=list(key.models),
        trusted=key.trusted,
        created_at=iso(key.created_ms),
        expires_at=iso_or_none(key.expires_ms),
        revoked_at=iso_or_none(key.revoked_ms),
        limits=[limit_of(one) for one in limits_of(context.connection, "key", key.id)],
        origin=key.origin,
    )


def _status(key: StoredKey, now_ms: int) -> Literal["active", "expired", "revoked"]:
    if key.revoked_ms is not None:
        return "revoked"
    return "expired" if key.expires_ms is not None and key.expires_ms <= now_ms else "active"


def _parsed(parse: Callable[..., int], *words: str | int, field: str) -> int:
    try:
        return parse(*words)
    except ValueError as error:
        raise WrongInput(str(error), field) from None
