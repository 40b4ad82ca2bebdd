"""`POST /api/generate`, `/api/summarize`, `/api/analyze`: read, then served by the gateway like any other call."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from proxy.agent import ask
from proxy.agent.answer import PlainAnswer, StreamedAnswer
from proxy.errors import MethodNotAllowed, ProxyError
from proxy.gateway.call import Arrival, Call
from proxy.gateway.client import watch_of
from proxy.gateway.handle import Gateway
from proxy.gateway.respond import Passthrough
from proxy.wire.body import refuse_heavy
from proxy.wire.endpoints import CHAT_COMPLETIONS
from proxy.wire.output import Output
from proxy.wire.prompt import input_tokens
from proxy.wire.tokens import BY_BYTES

#: The endpoints, by path.
ENDPOINTS: dict[str, type[ask.Generate | ask.Summarize | ask.Analyze]] = {
    "/api/generate": ask.Generate,
    "/api/summarize": ask.Summarize,
    "/api/analyze": ask.Analyze,
}


class Agent:
    """An ASGI application for one of the endpoints. One call leaves one event, with this endpoint's name."""

    def __init__(self, path: str, gateway: Gateway, *, default_model: str, token_limit_field: str) -> None:
        self._path = path
        self._kind = ENDPOINTS[path]
        self._gateway = gateway
        self._default_model = default_model
        self._token_limit_field = token_limit_field

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = Arrival()
        try:
            caller = await self._gateway.authenticate(scope)
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['method']} {self._path} is not served; use POST.", "POST")
            raw = await self._gateway.read_body(scope, receive)
            refuse_heavy(raw)
            asked = ask.read(self._kind, raw)
        except ProxyError as error:
            self._gateway.refusals[error.code or error.type] += 1
            await Passthrough(send, arrival.id).refuse(error)
            return
        model = asked.model or self._default_model
        call = Call(
            arrival,
            caller,
            self._path,
            metered=True,
            method="POST",
            target=b"/chat/completions",
            headers=[(b"content-type", b"application/json")],
            body=ask.completion(asked, model=model, token_limit_field=self._token_limit_field),
            model=model,
            streamed=asked.stream,
            input_tokens=input_tokens(CHAT_COMPLETIONS.name, {"messages": asked.messages()}, BY_BYTES),
            output=Output(asked.max_tokens),
        )
        shape = StreamedAnswer if asked.stream else PlainAnswer
        await self._gateway.serve(call, shape(send, arrival.id), watch_of(scope, receive))
