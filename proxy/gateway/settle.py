"""The settle stage: the one record of how a request ended, on disk before the client sees the last byte."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TextIO

from proxy.errors import ProxyError
from proxy.gateway.call import Call
from proxy.gateway.reading import Reading
from proxy.model import Outcome, Settlement, Usage, UsageSource
from proxy.store.unrecorded import Unrecorded, Way, line_of
from proxy.upstream.route import Upstream
from proxy.wire import headers as header
from proxy.wire.endpoints import Counts
from proxy.wire.tokens import BY_BYTES

log = logging.getLogger(__name__)


#: Gives a settlement its cost (`proxy.billing.prices.PriceBook.costed`).
Costed = Callable[[Settlement], Settlement]


class Ledger(Protocol):
    def record(self, settlement: Settlement) -> asyncio.Future[None]:
        """Record a settlement. The future is done when it is on disk, or raises `sqlite3.Error`."""

    def record_once(self, settlement: Settlement) -> asyncio.Future[bool]:
        """The same, unless the upstream gave the same response before, to a repeated request: then it gives False."""


def known_of(call: Call, upstream: Upstream, time_ms: int, over_limit: str) -> Settlement:
    """How a call is settled by what is known of it at its admission: as one that this process did not see end.

    `time_ms` is when it was admitted: in that window of its limits it counts.
    """
    is_counted = call.rule.counts is Counts.TOKENS
    return Settlement(
        call.arrival.id,
        call.caller.subject,
        call.caller.key_id,
        time_ms,
        call.endpoint,
        call.model,
        call.model,
        upstream.provider,
        call.streamed,
        ProxyError.status,
        Outcome.INTERRUPTED,
        Usage(call.input_tokens),
        UsageSource.ESTIMATED if is_counted else UsageSource.NONE,
        duration_ms=0,
        ttft_ms=0,
        upstream=upstream.name,
        estimator=BY_BYTES.name if is_counted else "",
        over_limit=over_limit,
        service_tier=call.service_tier,
    )


class Settler:
    """Makes settlements durable, and tells `recorded` of each that is.

    `defer` takes those whose usage becomes known later, and where their upstream key is found (`Followup.defer`).
    `costed` gives the others their cost.
    """

    def __init__(
        self,
        ledger: Ledger,
        recorded: Callable[[Settlement], None],
        defer: Callable[[Settlement, str], asyncio.Future[None]],
        stderr: TextIO | None = None,
        *,
        costed: Costed = lambda settlement: settlement,
    ) -> None:
        self._ledger = ledger
        self._recorded = recorded
        self._defer = defer
        self._stderr = stderr
        self._costed = costed
        #: How many settlements went to standard error instead.
        self.unrecorded = 0

    async def settle(
        self,
        call: Call,
        known: Settlement,
        outcome: Outcome,
        reading: Reading,
        *,
        status: int,
        ttft_ms: int,
        on_disconnect: str = "",
        estimator: str = "",
    ) -> None:
        """Record how `call` ended, of which `known` was known before; returns when the record is on disk.

        Where the ledger fails, the settlement goes to standard error as one JSON line: the request is answered
        already or nearly so, and must be neither lost nor refused. Cancelling the caller does not cancel the record.
        """
        duration_ms = round((time.monotonic() - call.arrival.monotonic) * 1000)
        # By position: `replace` takes three times as long, and this is done for each request.
        settlement = Settlement(
            known.id,
            known.subject,
            known.key_id,
            known.time_ms,
            known.endpoint,
            known.requested_model,
            reading.model or call.model,
            known.provider,
            known.streamed,
            status,
            outcome,
            reading.usage,
            reading.usage_source,
            duration_ms,
            ttft_ms,
            reading.units,
            known.upstream,
            reading.usage_path,
            estimator,
            on_disconnect,
            reading.response_id,
            known.over_limit,
            reading.service_tier or known.service_tier,
        )
        if not reading.deferred:
            settlement = self._costed(settlement)
        way, upstream_key = Way.PLAIN, ""
        recorded: asyncio.Future[Any]
        if reading.deferred:
            # What is known of its input stays with it: one that is cancelled may never report its usage.
            settlement = replace(
                settlement, usage=known.usage, usage_source=known.usage_source, estimator=known.estimator
            )
            way, upstream_key = Way.LATER, call.caller.upstream_key
            recorded = self._defer(settlement, upstream_key)
        elif settlement.response_id and header.get(call.headers, b"idempotency-key") is not None:
            way = Way.ONCE
            recorded = self._ledger.record_once(settlement)
        else:
            recorded = self._ledger.record(settlement)
        # Not after an `await`: whoever waits here may be cancelled, and the outcome must be seen all the same.
        recorded.add_done_callback(partial(self._note, settlement, way, upstream_key))
        await until_done(recorded)

    def _note(self, settlement: Settlement, way: Way, upstream_key: str, recorded: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if recorded.cancelled() else recorded.exception()
        if error is None:
            if way is Way.PLAIN or (way is Way.ONCE and recorded.result()):
                self._recorded(settlement)
            return
        self.unrecorded += 1
        log.error("the ledger refused event %s, which follows as a JSON line: %s", settlement.id, error)
        line = line_of(Unrecorded(settlement, way, upstream_key))
        print(line, file=self._stderr or sys.stderr, flush=True)


async def until_done(future: asyncio.Future[Any]) -> None:
    """Wait, however often the waiter is cancelled; raises `CancelledError` afterwards.

    Until a settlement is on disk, its request's trace is all that a kill would leave of it, and whoever gives up
    waiting releases that.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        # Not the future itself, which a cancelled waiter would cancel.
        done: asyncio.Future[None] = future.get_loop().create_future()
        future.add_done_callback(partial(_wake, done))
        try:
            await done
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _wake(waiter: asyncio.Future[None], _: asyncio.Future[Any]) -> None:
    if not waiter.done():
        waiter.set_result(None)
