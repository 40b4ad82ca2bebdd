"""The forward stage: one exchange with the upstream, its bytes to the client as they come, its end settled once."""

from __future__ import annotations

import asyncio
import logging
import time

from proxy.errors import (
    BadAnswer,
    ClientGone,
    ConnectionBroken,
    KeyRefused,
    ProxyError,
    ShuttingDown,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.gateway.admit import Hold
from proxy.gateway.call import Call
from proxy.gateway.client import Watch
from proxy.gateway.estimate import estimate
from proxy.gateway.leaving import Leaving
from proxy.gateway.mask import Mask
from proxy.gateway.meter import Blind, Meter, meter_for
from proxy.gateway.ownership import Keeping
from proxy.gateway.reading import Reading
from proxy.gateway.respond import Responder, ignore_gone
from proxy.gateway.settle import Settler, until_done
from proxy.gateway.stop import Stop
from proxy.model import NO_USAGE, Outcome, UsageSource
from proxy.upstream.connection import Answer, Connection
from proxy.upstream.refusals import is_refusal
from proxy.upstream.route import Upstream
from proxy.wire import headers as header
from proxy.wire.endpoints import Counts

log = logging.getLogger(__name__)

#: Of an error answer, what is searched for the reason.
_ERROR_BYTES_MAX = 64 * 1024
_PROGRESS_S = 0.25
_UNTRUE_WHEN_REWRITTEN = frozenset({b"content-length", b"content-encoding"})


class Exchange:
    """One call from its admission to its settlement.

    Whatever happens (an answer, an error, a client that leaves, a cancelled task), `run` settles exactly once, and
    the upstream's connection is handed back or closed.
    """

    def __init__(
        self,
        call: Call,
        upstream: Upstream,
        responder: Responder,
        settler: Settler,
        leaving: Leaving,
        hold: Hold,
        keeping: Keeping | None,
        stop: Stop | None = None,
    ) -> None:
        self._call = call
        self._hold = hold
        self._keeping = keeping
        self._stop = stop
        self._upstream = upstream
        self._responder = responder
        self._settler = settler
        self._leaving = leaving
        self._meter: Meter = Blind()
        self._hides_usage = call.hides_usage
        self._status = ClientGone.status
        self._ttft_ms = 0
        self._noted = call.arrival.monotonic
        self._sent = False  # the upstream may have received the request
        self._answered = False  # and has begun to answer it with success
        self._unread = b""
        self._fed = False  # what `_show` reads next has gone through the meter already
        self._drained_bytes = 0
        self._estimating: asyncio.Task[None] | None = None
        self._client_gone = False
        self._settled = not call.metered
        self._usage = NO_USAGE  # as it was settled
        self._connection: Connection | None = None

    async def run(self, watch: Watch) -> None:
        """Serve the call, whose body has been read already."""
        unwatch = watch(self._leave)
        try:
            answer = await self._send()
            try:
                await self._show(answer)
            finally:
                self._close(answer)
        except ProxyError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            await self._fail(ShuttingDown("This service was stopped before it could answer. Try again."))
            raise
        except BaseException:
            # Whatever failed may have been the meter, so nothing is read from it any more.
            self._meter = Blind()
            self._status = self._status if self._responder.started else ProxyError.status
            await self._settle(Outcome.INTERRUPTED)
            raise
        finally:
            unwatch()
            self._leaving.draining.discard(self)

    def _leave(self) -> None:
        self._client_gone = True
        drains = self._leaving.drains(self)
        if self._connection is None:
            return
        if drains:
            self._connection.limit(self._leaving.timeout_s)
        else:
            self._connection.abort()

    async def _send(self) -> Answer:
        """The upstream's answer, to the request that asks for usage where this upstream takes that."""
        call = self._call
        self._hides_usage = call.hides_usage and not self._upstream.refusals.holds(call.model)
        answer = await self._ask(call.body if self._hides_usage else call.own_body or call.body)
        if self._hides_usage and answer.status in (400, 422):
            self._unread = await self._beginning(answer)
            if is_refusal(answer.status, self._unread):
                self._close(answer)
                self._hides_usage = False
                self._unread = b""
                answer = await self._ask(call.own_body)
                if answer.status < 400:  # else it was something else, whatever the first one said
                    log.info(
                        "%s refuses stream_options for %s: its streams are estimated", self._upstream.name, call.model
                    )
                    self._upstream.refusals.note(call.model)
        if answer.status == 401:
            self._close(answer)
            log.error("the upstream refuses the key set as %s (401)", self._upstream.own_key or "upstream.api_key")
            whose = "that is set for your account" if self._upstream.own_key else "of this service itself"
            raise KeyRefused(f"The upstream refuses the key {whose}. Whoever runs this service must mend it.")
        return answer

    async def _ask(self, body: bytes | None) -> Answer:
        call = self._call
        headers = (
            header.for_upstream(call.headers, identity=self._hides_usage or self._stop is not None)
            + self._upstream.credentials
        )
        length = None if body is None else len(body)
        return await self._upstream.pool.send(
            call.method,
            call.target,
            headers,
            body or b"",
            length=length,
            tenant=call.caller.subject,
            begin=self._begin,
        )

    async def _beginning(self, answer: Answer) -> bytes:
        """The body of an error answer, or as much of it as may be looked at; what follows is still to be read."""
        body = b""
        try:
            while len(body) < _ERROR_BYTES_MAX and (data := await answer.read()):
                body += data
                if answer.at_end:
                    break
        except BaseException:
            self._close(answer)
            raise
        return body

    def _close(self, answer: Answer) -> None:
        self._connection = None  # what the client does from now on must not fall on another request
        answer.close()

    def _begin(self, connection: Connection) -> None:
        if self._client_gone:
            raise ClientGone("The client left before its request was sent to the upstream.")
        self._connection = connection
        self._sent = True
        self._hold.progress()

    async def _show(self, answer: Answer) -> None:
        """Pass the answer on as it comes. Its last bytes, and the last event of a stream, wait for the settlement."""
        self._status = answer.status
        keeping = self._keeping
        if (self._call.metered or keeping is not None) and answer.status < 400:
            self._answered = True
            self._meter = (meter_for if self._stop is None else self._stop.meter_for)(
                header.get(answer.headers, b"content-type"),
                header.get(answer.headers, b"content-encoding"),
                hides_usage=self._hides_usage,
                endpoint=self._call.rule,
                request=self._call.request,
                shown=None if keeping is None else keeping.shown,
            )
        mask = await self._mask(answer) if answer.status >= 400 else None
        if mask is not None:
            self._meter = mask
        headers = header.for_client(
            answer.headers, without=_UNTRUE_WHEN_REWRITTEN if self._meter.rewrites else frozenset()
        )
        if mask is not None:
            headers = mask.headers(headers)
        if not self._client_gone:
            await self._responder.start(answer.status, header.with_rates(headers, self._hold.headers))
            if not (self._unread or answer.has_data):
                await self._responder.flush()
        last = b""
        take = self._take if self._stop is None else None
        while data := self._unread or await answer.read(take):
            self._unread = b""
            if not self._ttft_ms:
                self._ttft_ms = self._elapsed_ms()
            if self._client_gone:
                self._drained_bytes += len(data)
                if self._drained_bytes > self._leaving.bytes_max:
                    raise ClientGone("The answer is too long to be read on without its client.")
            data = data if self._fed else self._meter.feed(data)
            self._fed = False
            if self._stop is not None:
                data, ends = await self._stop.through(data)
                if ends:
                    await self._end(answer, self._stop, data)
                    return
            if keeping is not None:
                keeping.note()
            self._note_progress()
            if answer.at_end:
                last = data
                break
            if self._meter.last_event_seen:
                # The official SDK closes the connection when it has read [DONE]: to it the answer is complete.
                await self._settle(Outcome.COMPLETED)
            if not self._client_gone:
                await (self._responder.data(data) if data else self._responder.flush())
        last = self._responder.last(last + self._meter.finish())
        if keeping is not None and self._settled:
            self._meter.reading()
            await keeping.finish(answer.status)
        await self._settle(Outcome.COMPLETED)
        if not self._client_gone:
            await self._responder.finish(last)

    def _take(self, data: bytes) -> bytes:
        """What comes in the middle of a stream goes on at once. What needs more than that is left to `_show`."""
        output = self._responder.output
        if output is None or not self._ttft_ms or self._client_gone or not output.is_ready:
            return data
        data = self._meter.feed(data)
        if self._keeping is not None:
            self._keeping.note()
        self._note_progress()
        if self._meter.last_event_seen:
            self._fed = True
            return data
        if data:
            try:
                output.write_data(data)
            except RuntimeError as error:
                ignore_gone(error)
        return b""

    async def _end(self, answer: Answer, stop: Stop, data: bytes) -> None:
        """Nothing is left for this stream: it ends for its client as its protocol has it, `data` the last it sees."""
        self._close(answer)
        await self._settle(Outcome.STOPPED)
        last = self._responder.last(data + stop.end(self._usage))
        if not self._client_gone:
            await self._responder.finish(last)

    async def _mask(self, answer: Answer) -> Mask:
        """What stars the upstream's key out of an error, which is uncompressed only where the key is in it."""
        credentials = self._upstream.credentials
        mask = Mask(credentials, header.get(answer.headers, b"content-encoding"))
        if mask.rewrites:
            self._unread = self._unread or await self._beginning(answer)
            if answer.at_end and not mask.finds_in(self._unread):
                return Mask(credentials)
        return mask

    def _note_progress(self) -> None:
        """Now and then, note how much has come, for the case that this process is killed in the middle of it."""
        now = time.monotonic()
        if now - self._noted > _PROGRESS_S:
            self._noted = now
            self._hold.progress(self._meter.delivered().streamed())

    async def _fail(self, error: ProxyError) -> None:
        """The upstream gave no answer, or not a whole one."""
        self._meter.finish()  # the last event may lack no more than its end
        begun = self._responder.started
        if not begun:
            self._status = ClientGone.status if self._client_gone else error.status
        if isinstance(error, ShuttingDown):
            await self._settle(Outcome.SHUTDOWN)
        elif isinstance(error, UpstreamTimeout):
            await self._settle(Outcome.TIMEOUT)
        elif begun and isinstance(error, ConnectionBroken | BadAnswer):
            await self._settle(Outcome.TRUNCATED)
        else:
            await self._settle(Outcome.UPSTREAM_ERROR)
        if isinstance(error, UpstreamError) and not self._client_gone:
            log.warning("request %s: %s", self._call.arrival.id, error)
        if not begun and not self._client_gone:
            await self._responder.refuse(error)
        elif begun and not self._client_gone:
            await self._responder.flush()
            # An answer that has begun stays without its end, so that the client can tell that it is broken.

    async def _settle(self, outcome: Outcome) -> None:
        """Settle once. A client that has left, or an answer that carried an error, outranks what was meant."""
        if self._settled:
            return
        try:
            if self._meter.is_large:
                await until_done(asyncio.ensure_future(asyncio.to_thread(self._meter.reading)))
        finally:  # also where this is cancelled
            await self._settle_as_read(outcome)

    async def _settle_as_read(self, outcome: Outcome) -> None:
        reading = self._meter.reading()
        if reading.deferred:
            self._hold.defer()
        if self._keeping is not None:
            self._keeping.note()
        self._settled = True
        if self._client_gone:
            outcome = Outcome.CLIENT_DISCONNECTED
        elif outcome is Outcome.COMPLETED and (self._status >= 400 or reading.failed):
            outcome = Outcome.UPSTREAM_ERROR
        if not self._is_estimated(outcome, reading):
            await self._record(outcome, reading)
            return
        # In a task of its own: whoever waits here may be cancelled, and the record must be made all the same.
        self._estimating = asyncio.create_task(self._record_estimate(outcome, reading))
        await until_done(self._estimating)

    def _is_estimated(self, outcome: Outcome, reading: Reading) -> bool:
        """Only where nothing was reported, and something was generated or may have been. Never from an error."""
        if (
            reading.deferred
            or reading.usage_source is not UsageSource.NONE
            or self._call.rule.counts is not Counts.TOKENS
        ):
            return False
        if not self._answered:
            return self._client_gone and self._sent and self._status == ClientGone.status
        if reading.failed and not self._meter.delivered().characters():
            return False
        return reading.understood or outcome is not Outcome.COMPLETED

    async def _record_estimate(self, outcome: Outcome, reading: Reading) -> None:
        estimator = ""
        try:
            reading, estimator = await estimate(self._call, reading, self._meter.delivered())
        except Exception:
            # The edge of this task: without an estimate there is still a settlement.
            log.exception("request %s could not be estimated", self._call.arrival.id)
        await self._record(outcome, reading, estimator)

    async def _record(self, outcome: Outcome, reading: Reading, estimator: str = "") -> None:
        self._usage = reading.usage
        await self._settler.settle(
            self._call,
            self._hold.known,
            outcome,
            reading,
            status=self._status,
            ttft_ms=self._ttft_ms,
            on_disconnect=("drain" if self in self._leaving.draining else "cancel") if self._client_gone else "",
            estimator=estimator,
        )

    def _elapsed_ms(self) -> int:
        return max(1, round((time.monotonic() - self._call.arrival.monotonic) * 1000))
