"""The auth stage: from a request's headers to the caller. The tenant comes from the key alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from proxy.errors import Forbidden, Headers, InvalidRequest, PaymentRequired, Unauthenticated
from proxy.model import SUBJECT_PATTERN, Caller, Hidden, Limit, Tenant
from proxy.store.tenants import hash_of
from proxy.wire.headers import CREDENTIALS

_KEY_BYTES_MAX = 512
_HIDDEN = CREDENTIALS | {b"proxy-authorization"}
_UNPAID = "This account is suspended, because a payment has failed. It is served again as soon as its invoice is paid."


class CallerDirectory(Protocol):
    """Who a key belongs to. Its answers are at most a second old."""

    async def find(self, key_hash: bytes) -> Caller | None:
        """The caller for a key's SHA-256; None where the key is unknown or revoked."""

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant of this id, if there is one."""

    async def limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]:
        """What a subject may use with a key; the same object until something changes."""


class Authenticator:
    """`Authorization: Bearer KEY` or `X-Api-Key: KEY`."""

    def __init__(self, callers: CallerDirectory, now_s: Callable[[], float] = time.time) -> None:
        self._callers = callers
        self._now_s = now_s

    async def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Raises `Unauthenticated` (401), `PaymentRequired` (402, a suspended tenant), `Forbidden` (403, a disabled
        one) or `LedgerUnavailable` (503).
        """
        secret, subject = _read(headers)
        if not secret:
            raise Unauthenticated(
                "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY' or 'X-Api-Key: YOUR_KEY'."
            )
        caller = None
        if len(secret) <= _KEY_BYTES_MAX:
            caller = await self._callers.find(hash_of(secret))
        if caller is None:
            raise Unauthenticated("Incorrect API key provided. Ask whoever runs this service for a valid one.")
        if caller.expires_ms is not None and caller.expires_ms <= self._now_s() * 1000:
            raise Unauthenticated("Your API key has expired. Ask whoever runs this service for a new one.")
        _check(active=caller.active, suspended=caller.suspended)
        # Only a trusted key may say whose usage it is; from any other the header means nothing.
        return caller if subject is None or not caller.trusted else await self._act_for(caller, subject)

    async def _act_for(self, caller: Caller, named: bytes) -> Caller:
        subject = named.decode("ascii", "replace")
        if not SUBJECT_PATTERN.fullmatch(subject):
            raise InvalidRequest("X-Tollgate-Subject is not a tenant id.", param="X-Tollgate-Subject")
        if subject == caller.subject:
            return caller
        tenant = await self._callers.tenant(subject)
        if tenant is not None:
            _check(active=tenant.status == "active", suspended=tenant.suspended_ms is not None)
        caller = replace(caller, subject=subject, limits=await self._callers.limits(subject, caller.key_id))
        # Whoever has no upstream key of its own shares its speaker's with all that this one speaks for.
        if tenant is not None and tenant.upstream_key:
            return replace(caller, upstream_key=tenant.upstream_key, own_account=True)
        return replace(caller, own_account=False)


def _check(*, active: bool, suspended: bool) -> None:
    if not active:
        raise Forbidden("This account is disabled.", code="tenant_disabled")
    if suspended:
        raise PaymentRequired(_UNPAID)


def hide(headers: Headers) -> None:
    """What a client authenticates with is not shown from now on, wherever a request's header list is."""
    for at, pair in enumerate(headers):
        if pair[0] in _HIDDEN:
            headers[at] = pair[0], Hidden(pair[1])


def _read(headers: Iterable[tuple[bytes, bytes]]) -> tuple[Hidden, bytes | None]:
    """The key that came with a request (empty for none), and the subject that it names."""
    bearer = api_key = b""
    subject = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
        elif name == b"x-api-key":
            api_key = value.strip()
        elif name == b"x-tollgate-subject":
            subject = value.strip()
    return Hidden(bearer or api_key), subject
