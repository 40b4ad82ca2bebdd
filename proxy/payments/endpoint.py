"""`POST /hooks/openmeter` and `/hooks/stripe`: verified, then answered as soon as what follows is on disk."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from proxy.errors import LedgerUnavailable, ProxyError, UnknownRoute
from proxy.model import Topic
from proxy.payments.follow import Followed, follow
from proxy.payments.invoices import READERS, Source, Told
from proxy.payments.signatures import Stripe, Svix, Verifier
from proxy.sections import HookSettings
from proxy.store.commit import GroupCommit

log = logging.getLogger(__name__)

#: Bytes of a notification. One of an invoice has a kilobyte or two for each of its lines.
BODY_BYTES_MAX = 2 * 1024 * 1024

Endpoint = Callable[[Request], Awaitable[Response]]
#: The whole body of a request, of so many bytes at most. Raises `ProxyError`.
ReadBody = Callable[[Scope, Receive, int], Awaitable[bytes]]


class Hooks:
    """The endpoints. A sender that gets no 2xx sends again, which changes nothing that is done already."""

    def __init__(
        self,
        settings: HookSettings,
        commit: GroupCommit,
        noted: Callable[[], None],
        refusals: Counter[str],
        now_ms: Callable[[], int],
        read_body: ReadBody,
    ) -> None:
        """`noted` is called when there may be a webhook to send; `refusals` counts, by the error's code."""
        self._verifiers: dict[Source, Verifier] = {}
        if settings.openmeter_secret is not None:
            self._verifiers["openmeter"] = Svix(settings.openmeter_secret)
        if settings.stripe_secret is not None:
            self._verifiers["stripe"] = Stripe(settings.stripe_secret, now_ms)
        self._suspends = settings.suspends
        self._commit = commit
        self._noted = noted
        self._refusals = refusals
        self._now_ms = now_ms
        self._read_body = read_body

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """By their paths."""
        return {f"/hooks/{source}": partial(self._take, source) for source in READERS}

    async def _take(self, source: Source, request: Request) -> Response:
        """Raises `ProxyError`."""
        try:
            told = await self._read(source, request)
            if told is not None:  # what is for nobody is not to be sent again either
                _log(told, await self._follow(told))
                self._noted()
        except ProxyError as error:
            self._refusals[error.code or error.type] += 1
            raise
        return Response(status_code=204)

    async def _read(self, source: Source, request: Request) -> Told | None:
        verifier = self._verifiers.get(source)
        if verifier is None:
            name = f"hooks.{source}_secret (TOLLGATE_HOOKS__{source.upper()}_SECRET)"
            raise UnknownRoute(f"Notifications are not taken here. To turn that on, set {name}.")
        # As it came: it is signed byte by byte.
        body = await self._read_body(request.scope, request.receive, BODY_BYTES_MAX)
        verifier.verify(request.headers, body)
        return READERS[source](body)

    async def _follow(self, told: Told) -> Followed:
        """On disk when this returns. Raises `LedgerUnavailable`."""
        self._commit.check()
        work = partial(follow, told=told, suspends=self._suspends, now_ms=self._now_ms())
        try:
            return await self._commit.run(work)
        except sqlite3.Error:
            raise LedgerUnavailable("What this tells cannot be recorded at the moment. Send it again soon.") from None


def _log(told: Told, followed: Followed) -> None:
    """What an operator must know, without a word of who pays."""
    what = f"{told.topic} of invoice {told.invoice} ({told.source} {told.event})"
    for tenant in followed.suspended:
        log.warning("tenant %s is suspended until its invoice is paid: %s", tenant, what)
    for tenant in followed.resumed:
        log.warning("tenant %s is no longer suspended for its invoice: %s", tenant, what)
    if not followed.tenants:
        level = logging.WARNING if told.topic is Topic.INVOICE_PAYMENT_FAILED else logging.INFO
        log.log(level, "no tenant is known to be whose this is, tollgate billing connect-stripe --check: %s", what)
