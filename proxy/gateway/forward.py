"""The forward stage: one exchange with the upstream, its bytes to the client as they come, its end settled once."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import Receive

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
from proxy.gateway.call import Call
from proxy.gateway.meter import Blind, Meter, meter_for
from proxy.gateway.respond import Responder
from proxy.gateway.settle import Settler
from proxy.model import Outcome
from proxy.upstream.connection import Answer, Connection
from proxy.upstream.route import Upstream
from proxy.wire import headers as header

log = logging.getLogger(__name__)

_UNTRUE_WHEN_REWRITTEN = frozenset({b"content-length", b"content-encoding"})


class Exchange:
    """One call from its admission to its settlement.

    Whatever happens (an answer, an error, a client that leaves, a cancelled task), `run` settles exactly once, and
    the upstream's connection is handed back or closed. A client that leaves does not stop the reading: the rest of
    the answer is read, for `drain_timeout_s` at most, because it holds the usage that the upstream charges for.
    """

    def __init__(
        self, call: Call, upstream: Upstream, responder: Responder, settler: Settler, *, drain_timeout_s: float
    ) -> None:
        self._call = call
        self._upstream = upstream
        self._responder = responder
        self._settler = settler
        self._drain_timeout_s = drain_timeout_s
        self._meter: Meter = Blind()
        self._status = ClientGone.status
        self._ttft_ms = 0
        self.client_gone = False  #: the client has left, which nothing that follows can tell it
        self._settled = not call.metered
        self._connection: Connection | None = None

    async def run(self, receive: Receive) -> None:
        """Serve the call. The request's body must have been read from `receive` already."""
        watcher = asyncio.create_task(self._watch(receive))
        try:
            answer = await self._send()
            try:
                await self._show(answer)
            finally:
                self._connection = None
                answer.close()
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
            watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        if self._connection is not None:
            self._connection.limit(self._drain_timeout_s)

    async def _send(self) -> Answer:
        call = self._call
        headers = header.for_upstream(call.headers, identity=call.hides_usage) + self._upstream.credentials
        answer = await self._upstream.pool.send(
            call.method,
            call.target,
            headers,
            call.body or b"",
            length=None if call.body is None else len(call.body),
            begin=self._begin,
        )
        if answer.status == 401:
            answer.close()
            log.error("the upstream refuses the key set as upstream.api_key (401)")
            raise KeyRefused("The upstream refuses this service's own key. Whoever runs this service must mend it.")
        return answer

    def _begin(self, connection: Connection) -> None:
        if self.client_gone:
            raise ClientGone("The client left before its request was sent to the upstream.")
        self._connection = connection

    async def _show(self, answer: Answer) -> None:
        """Pass the answer on as it comes. Its last bytes, and the last event of a stream, wait for the settlement."""
        self._status = answer.status
        if self._call.metered and answer.status < 400:
            content_type = header.get(answer.headers, b"content-type")
            content_encoding = header.get(answer.headers, b"content-encoding")
            self._meter = meter_for(content_type, content_encoding, hides_usage=self._call.hides_usage)
        without = _UNTRUE_WHEN_REWRITTEN if self._meter.rewrites else frozenset()
        if not self.client_gone:
            await self._responder.start(answer.status, header.for_client(answer.headers, without=without))
        last = b""
        while data := await answer.read():
            if not self._ttft_ms:
                self._ttft_ms = self._elapsed_ms()
            data = self._meter.feed(data)
            if answer.at_end:
                last = data
                break
            if self._meter.last_event_seen:
                # The official SDK closes the connection when it has read [DONE]: to it the answer is complete.
                await self._settle(Outcome.COMPLETED)
            if data and not self.client_gone:
                await self._responder.data(data)
        last = self._responder.last(last + self._meter.finish())
        await self._settle(Outcome.COMPLETED)
        if not self.client_gone:
            await self._responder.finish(last)

    async def _fail(self, error: ProxyError) -> None:
        """The upstream gave no answer, or not a whole one."""
        begun = self._responder.started
        if not begun:
            self._status = error.status
        if isinstance(error, ShuttingDown):
            await self._settle(Outcome.SHUTDOWN)
        elif isinstance(error, UpstreamTimeout):
            await self._settle(Outcome.TIMEOUT)
        elif begun and isinstance(error, ConnectionBroken | BadAnswer):
            await self._settle(Outcome.TRUNCATED)
        else:
            await self._settle(Outcome.UPSTREAM_ERROR)
        if isinstance(error, UpstreamError):
            log.warning("request %s: %s", self._call.arrival.id, error)
        if not begun and not self.client_gone:
            await self._responder.refuse(error)
        # An answer that has begun stays without its end, so that the client can tell that it is broken.

    async def _settle(self, outcome: Outcome) -> None:
        """Settle once. A client that has left, or an answer that carried an error, outranks what was meant."""
        if self._settled:
            return
        reading = self._meter.reading()
        self._settled = True
        if self.client_gone:
            outcome = Outcome.CLIENT_DISCONNECTED
        elif outcome is Outcome.COMPLETED and (self._status >= 400 or reading.failed):
            outcome = Outcome.UPSTREAM_ERROR
        await self._settler.settle(
            self._call,
            outcome,
            reading,
            status=self._status,
            provider=self._upstream.provider,
            ttft_ms=self._ttft_ms,
        )

    def _elapsed_ms(self) -> int:
        return max(1, round((time.monotonic() - self._call.arrival.monotonic) * 1000))
