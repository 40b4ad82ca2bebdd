"""The request path of `/v1`, start to end: auth → admit → forward → meter → settle."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from proxy.errors import BodyTimeout, BodyTooLarge, ClientGone, InvalidRequest, ProxyError, UnsupportedEncoding
from proxy.gateway.admit import Admission
from proxy.gateway.auth import Authenticator
from proxy.gateway.call import Arrival, Call
from proxy.gateway.forward import Exchange, Leaving
from proxy.gateway.respond import Passthrough, Responder
from proxy.gateway.settle import Settler
from proxy.model import Caller
from proxy.settings import Settings
from proxy.upstream.route import Router
from proxy.wire import body, endpoints
from proxy.wire import headers as header

log = logging.getLogger(__name__)

_VERSION_PREFIX = len(b"/v1")


class Gateway:
    """A raw ASGI application for `/v1`: a router and request objects would cost more than the metering."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        admission: Admission,
        router: Router,
        settler: Settler,
    ) -> None:
        self._server = settings.server
        self._leaving = Leaving.of(settings.upstream)
        self._authenticator = authenticator
        self._admission = admission
        self._router = router
        self._settler = settler
        self._exchanges: set[Exchange] = set()

    @property
    def draining(self) -> int:
        """How many answers are read on although their clients have left."""
        return sum(exchange.drains for exchange in self._exchanges)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival()
        responder = Passthrough(send, arrival.id)
        try:
            caller = await self.authenticate(scope)
            endpoint = endpoints.match(scope["method"], scope["raw_path"])
            raw = await self.read_body(scope, receive)
            call = _call(scope, arrival, caller, endpoint, raw)
        except ProxyError as error:
            await responder.refuse(error)
            return
        await self.serve(call, responder, receive)

    async def authenticate(self, scope: Scope) -> Caller:
        """The caller of a request. Raises `ProxyError`."""
        return await self._authenticator.authenticate(scope["headers"])

    async def serve(self, call: Call, responder: Responder, receive: Receive) -> None:
        """Admit a call, forward and meter it, and settle it before its last bytes go out."""
        try:
            hold = self._admission.reserve(call)
        except ProxyError as error:
            await responder.refuse(error)
            return
        upstream = self._router.route(call.model)
        exchange = Exchange(call, upstream, responder, self._settler, self._leaving, lambda: self.draining)
        self._exchanges.add(exchange)
        try:
            await exchange.run(receive)
        except Exception:
            # The edge of the request path: the exchange has settled, and the client gets an answer it can parse.
            log.exception("request %s failed", call.arrival.id)
            if not responder.started:
                await responder.refuse(ProxyError("This service failed to serve your request.", code="internal_error"))
        finally:
            self._exchanges.discard(exchange)
            self._admission.release(hold)

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body of a request. Raises `ProxyError` where it is coded, too large, too slow or cut off."""
        bytes_max = self._server.body_bytes_max
        coding = header.get(scope["headers"], b"content-encoding")
        if coding is not None and coding.strip().lower() != b"identity":
            raise UnsupportedEncoding("Send the body without a Content-Encoding: it must be read to be metered.")
        length = header.get(scope["headers"], b"content-length")
        if length is not None and int(length) > bytes_max:
            raise BodyTooLarge(f"The body of your request is larger than {bytes_max} bytes.")
        parts: list[bytes] = []
        size = 0
        more = True
        try:
            async with asyncio.timeout(self._server.body_timeout_s):
                while more:
                    part, more = await _next_part(receive)
                    parts.append(part)
                    size += len(part)
                    if size > bytes_max:
                        raise BodyTooLarge(f"The body of your request is larger than {bytes_max} bytes.")
        except TimeoutError:
            seconds = self._server.body_timeout_s
            raise BodyTimeout(f"The body of your request did not arrive within {seconds:g} s.") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _next_part(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone("The client left before its request was complete.")
    return message.get("body", b""), message.get("more_body", False)


def _call(scope: Scope, arrival: Arrival, caller: Caller, endpoint: endpoints.Endpoint, raw: bytes) -> Call:
    """The call that a request makes: what its body asks for, where the endpoint is metered."""
    target = scope["raw_path"][_VERSION_PREFIX:]
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    method: str = scope["method"]
    if not endpoint.metered:
        if raw:
            raise InvalidRequest(f"{method} {endpoint.name} takes no body.")
        return Call(arrival, caller, endpoint.name, False, method, target, scope["headers"], None)
    ask = body.read(raw, usage_on_request=endpoint.usage_on_request)
    return Call(
        arrival,
        caller,
        endpoint.name,
        True,
        method,
        target,
        scope["headers"],
        ask.body,
        model=ask.model,
        streamed=ask.streamed,
        hides_usage=ask.hides_usage,
        own_body=raw,
    )
