"""The request path of `/v1`, start to end: auth → ownership → admit → forward → meter → settle."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

from starlette.types import Receive, Scope, Send

from proxy.errors import BodyTimeout, BodyTooLarge, ClientGone, ProxyError, UnsupportedEncoding
from proxy.gateway.admit import Admission
from proxy.gateway.auth import Authenticator, hide
from proxy.gateway.call import Arrival, Call, call_of, capped
from proxy.gateway.client import TOO_LATE, Watch, output_of, watch_of
from proxy.gateway.forward import Exchange
from proxy.gateway.leaving import Leaving
from proxy.gateway.ownership import Ownership
from proxy.gateway.respond import Passthrough, Responder
from proxy.gateway.settle import Settler, known_of
from proxy.gateway.stop import Stops
from proxy.model import Caller
from proxy.settings import Settings
from proxy.upstream.route import Router
from proxy.wire.endpoints import Routes

log = logging.getLogger(__name__)

#: A larger body is read in a thread: it takes milliseconds, in which others are to be served.
_READ_HERE_BYTES_MAX = 256 * 1024


class Gateway:
    """A raw ASGI application for `/v1`: a router and request objects would cost more than the metering."""

    def __init__(
        self,
        settings: Settings,
        routes: Routes,
        authenticator: Authenticator,
        admission: Admission,
        router: Router,
        settler: Settler,
        ownership: Ownership,
        stops: Stops,
        *,
        token_limit_field: str,
    ) -> None:
        """`token_limit_field` is what the upstream calls the token limit of a chat completion."""
        self._server = settings.server
        self._routes = routes
        self._leaving = Leaving(settings.upstream)
        self._authenticator = authenticator
        self._admission = admission
        self._router = router
        self._settler = settler
        self._ownership = ownership
        self._stops = stops
        self._token_limit_field = token_limit_field
        #: Requests that were refused before they were forwarded, by the error's code.
        self.refusals: Counter[str] = Counter()

    @property
    def draining(self) -> int:
        """How many answers are read on although their clients have left."""
        return len(self._leaving.draining)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival()
        responder = Passthrough(send, arrival.id, output_of(scope))
        try:
            caller = await self.authenticate(scope)
            rule = self._routes.match(scope["method"], scope["raw_path"], own_account=caller.own_account)
            raw = await self.read_body(scope, receive)
            if len(raw) <= _READ_HERE_BYTES_MAX:
                call = call_of(scope, arrival, caller, rule, raw)
            else:
                call = await asyncio.to_thread(call_of, scope, arrival, caller, rule, raw)
            if call.references or call.method == "DELETE":
                await self._ownership.check(call)
        except ProxyError as error:
            self.refusals[error.code or error.type] += 1
            await responder.refuse(error)
            return
        await self.serve(call, responder, watch_of(scope, receive))

    async def authenticate(self, scope: Scope) -> Caller:
        """The caller of a request. Raises `ProxyError`."""
        hide(scope["headers"])
        return await self._authenticator.authenticate(scope["headers"])

    async def serve(self, call: Call, responder: Responder, watch: Watch) -> None:
        """Admit a call, forward and meter it, and settle it before its last bytes go out."""
        try:
            upstream = self._router.route(call.model, call.caller.upstream_key)
            hold = await self._admission.reserve(call, partial(known_of, call, upstream), upstream.provider)
        except ProxyError as error:
            self.refusals[error.code or error.type] += 1
            await responder.refuse(error)
            return
        try:
            if hold.cap is not None:
                call = await self._capped(call, hold.cap)
            keeping = self._ownership.keeping(call)
            stop = self._stops.of(call, hold)
            exchange = Exchange(call, upstream, responder, self._settler, self._leaving, hold, keeping, stop)
            await exchange.run(watch)
        except Exception:
            # The edge of the request path: the exchange has settled, and the client gets an answer it can parse.
            log.exception("request %s failed", call.arrival.id)
            if not responder.started:
                await responder.refuse(ProxyError("This service failed to serve your request.", code="internal_error"))
        finally:
            self._admission.release(hold)

    async def _capped(self, call: Call, tokens: int) -> Call:
        if len(call.body or b"") <= _READ_HERE_BYTES_MAX:
            return capped(call, tokens, self._token_limit_field)
        return await asyncio.to_thread(capped, call, tokens, self._token_limit_field)

    async def read_body(self, scope: Scope, receive: Receive, bytes_max: int | None = None) -> bytes:
        """The whole body of a request. Raises `ProxyError` where it is coded, too large, too slow or cut off.

        It is the server that sees to its time (`TOO_LATE`): a timer for each request would cost more than its reading.
        """
        bytes_max = min(bytes_max or self._server.body_bytes_max, self._server.body_bytes_max)
        for name, value in scope["headers"]:
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                raise UnsupportedEncoding("Send the body without a Content-Encoding: it must be read to be metered.")
            if name == b"content-length" and int(value) > bytes_max:
                raise BodyTooLarge(f"The body of your request is larger than {bytes_max} bytes.")
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                if TOO_LATE in message:
                    seconds = self._server.body_timeout_s
                    raise BodyTimeout(f"The body of your request did not arrive within {seconds:g} s.")
                raise ClientGone("The client left before its request was complete.")
            part, more = message.get("body", b""), message.get("more_body", False)
            parts.append(part)
            size += len(part)
            if size > bytes_max:
                raise BodyTooLarge(f"The body of your request is larger than {bytes_max} bytes.")
        return parts[0] if len(parts) == 1 else b"".join(parts)
