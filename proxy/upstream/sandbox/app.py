"""The sandbox as an ASGI application: routes, OpenAI's headers, and JSON in and out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.upstream.sandbox.chat import chat
from proxy.upstream.sandbox.completions import completions
from proxy.upstream.sandbox.embeddings import embeddings
from proxy.upstream.sandbox.fields import Json, Refusal
from proxy.upstream.sandbox.identity import new_id
from proxy.upstream.sandbox.models import list_models, retrieve_model
from proxy.upstream.sandbox.responses import responses

Endpoint = Callable[[Json], Json | Iterator[bytes]]


def create_sandbox(token_delay_s: float = 0.0) -> Starlette:
    """The application. `token_delay_s` is the pause after each event of a stream; a person sees it at 0.03."""
    posts: list[tuple[str, Endpoint]] = [
        ("/v1/chat/completions", chat),
        ("/v1/completions", completions),
        ("/v1/responses", responses),
        ("/v1/embeddings", embeddings),
    ]
    app = Starlette(
        routes=[
            Route("/v1/models", _list_models, methods=["GET"]),
            Route("/v1/models/{id:path}", _retrieve_model, methods=["GET"]),
            *(Route(path, _posted(endpoint, token_delay_s), methods=["POST"]) for path, endpoint in posts),
        ],
        middleware=[Middleware(_Headers)],
        exception_handlers={Refusal: _refuse, HTTPException: _refuse_route, ClientDisconnect: _gone},
    )
    app.router.redirect_slashes = False  # OpenAI answers 404, not 307
    return app


async def _list_models(request: Request) -> Response:
    return _json(list_models())


async def _retrieve_model(request: Request) -> Response:
    return _json(retrieve_model(request.path_params["id"]))


def _posted(endpoint: Endpoint, token_delay_s: float) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError:
            raise Refusal("We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise Refusal("The JSON body of your request must be an object.")
        answer = endpoint(body)
        if isinstance(answer, dict):
            return _json(answer)
        return StreamingResponse(_paced(answer, token_delay_s), media_type="text/event-stream; charset=utf-8")

    return handle


async def _paced(events: Iterator[bytes], token_delay_s: float) -> AsyncIterator[bytes]:
    for event in events:
        yield event
        # Without a delay too: a long stream gives way to the others, and ends soon after its client has left.
        await asyncio.sleep(token_delay_s)


def _json(value: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(error.body(), error.status)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = Refusal(f"Not allowed to {request.method} on {request.url.path}.", code="method_not_supported")
    else:
        refusal = Refusal(f"Invalid URL ({request.method} {request.url.path})")
    return _json(refusal.body(), error.status_code, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    """The client left while it sent its body. Nobody reads this; without it the server would log a traceback."""
    return Response(status_code=499)


class _Headers:
    """Puts the headers that all of OpenAI's answers carry on all of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                took_ms = int(1000 * (time.perf_counter() - started_s))
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", new_id("req_").encode()),
                    (b"openai-processing-ms", b"%d" % took_ms),
                    (b"openai-version", b"2020-10-01"),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)
