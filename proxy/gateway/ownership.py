"""The ownership stage: a tenant reaches what is its own of an upstream account that all share, and nothing else.

What a tenant makes through this proxy is remembered as its own from the moment that its id is shown. Who names
anything else is told in OpenAI's words that there is no such thing, whether there is or not; the upstream is not asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from proxy.errors import ConfigurationError, NotFound, ProxyError, ReferenceRefused
from proxy.gateway.call import Call
from proxy.wire.references import FIELDS, Reference

_RESPONSE = "/v1/responses/{id}"
_REMOVABLE = (_RESPONSE, "/v1/conversations/{id}")


class Owners(Protocol):
    """Whose each id is (`proxy.store.owned.Owned`)."""

    async def owner(self, owned_id: str) -> str | None:
        """Raises `LedgerUnavailable`."""

    def remember(self, ids: Iterable[str], subject: str) -> asyncio.Future[int] | None:
        """The future is done when it is on disk, or raises `sqlite3.Error`; None: it was known already."""

    def forget(self, owned_id: str) -> asyncio.Future[int]: ...


class Keeping:
    """What one call makes upstream, or removes, remembered as its subject's. The meter fills into `shown`."""

    def __init__(self, owners: Owners, call: Call) -> None:
        self.shown: list[str] = []
        self._owners = owners
        self._subject = call.caller.subject
        self._removes = ""
        if call.method == "DELETE" and call.rule.name in _REMOVABLE:
            self._removes = _id_in(call)
        self._last: asyncio.Future[int] | None = None

    def note(self) -> None:
        """Remember what the answer has shown since this was last called. What is settled afterwards waits for it."""
        if self.shown and not self._removes:
            self._last = self._owners.remember(self.shown, self._subject) or self._last
            self.shown.clear()

    async def finish(self, status: int) -> None:
        """The answer to a call that is not settled was read: returns when what it made or removed is on disk."""
        self.note()
        if self._removes and status < 300:
            self._last = self._owners.forget(self._removes)
        if self._last is not None:
            await asyncio.wait([self._last])


def allowed_references(fields: Sequence[str]) -> frozenset[str]:
    """The members of bodies that may name anything in the account. Raises `ConfigurationError`."""
    if unknown := set(fields) - FIELDS.keys():
        message = f"server.allow_references: '{min(unknown)}' is none of {', '.join(sorted(FIELDS))}"
        raise ConfigurationError(message)
    return frozenset(fields)


class Ownership:
    """Checks what calls name by ids, except by the members of their bodies that are `allowed`.

    Before a response is deleted, `settle_first` is called with its id, and may refuse.
    """

    def __init__(self, owners: Owners, allowed: frozenset[str], settle_first: Callable[[str], Awaitable[None]]) -> None:
        self._owners = owners
        self._allowed = allowed
        self._settle_first = settle_first

    async def check(self, call: Call) -> None:
        """Raises `NotFound`, `ReferenceRefused`, or what `settle_first` raises."""
        for reference in call.references:
            if reference.field in self._allowed:
                continue
            if await self._owners.owner(reference.id) != call.caller.subject:
                raise _refusal(reference)
        if call.method == "DELETE" and call.rule.name == _RESPONSE:
            await self._settle_first(_id_in(call))

    def keeping(self, call: Call) -> Keeping | None:
        """What remembers whose it is that the call makes; None where it makes nothing, or its account is its own."""
        return Keeping(self._owners, call) if call.keeps else None


def _id_in(call: Call) -> str:
    return call.target.partition(b"?")[0].rpartition(b"/")[2].decode("ascii", "replace")


def _refusal(reference: Reference) -> ProxyError:
    kind, field = reference.kind, reference.field
    if kind.made:
        # OpenAI's own words for an id that does not exist, in a path as in a body.
        param = field if kind.code else None
        return NotFound(f"{kind.what} with id '{reference.id}' not found.", param=param, code=kind.code)
    return ReferenceRefused(
        f"'{field}' is refused: it names a {kind.what.lower()} of this service's upstream account, which all its users "
        f'share. Instead, {kind.instead}. Whoever runs this service can allow it with "{field}" in '
        "TOLLGATE_SERVER__ALLOW_REFERENCES, or give your account an upstream key of its own.",
        param=field,
    )
