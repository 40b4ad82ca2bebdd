"""The routes beside `/v1`, and errors in the same shape there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from proxy.errors import MethodNotAllowed, ProxyError, UnknownRoute, error_answer
from proxy.gateway.call import Arrival
from proxy.web.health import Readiness, healthz
from proxy.web.metrics import Metrics
from proxy.web.usage import Usage

Page = Callable[[Request], Awaitable[Response]]


def create_web(
    readiness: Readiness,
    metrics: Metrics,
    usage: Usage,
    agent: Mapping[str, ASGIApp],
    admin: ASGIApp,
    pages: Mapping[str, Page],
    hooks: Mapping[str, Page],
) -> Starlette:
    """The application for everything but `/v1`; `agent`, `pages` (which are only read) and `hooks` are by path."""
    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readiness.readyz, methods=["GET"]),
        Route("/metrics", metrics.metrics, methods=["GET"]),
        Route("/api/usage", usage.usage, methods=["GET"]),
        *(Route(path, endpoint) for path, endpoint in agent.items()),
        Route("/admin", admin),
        Mount("/admin", admin),
        *(Route(path, page, methods=["GET"]) for path, page in pages.items()),
        *(Route(path, hook, methods=["POST"]) for path, hook in hooks.items()),
    ]
    web = Starlette(routes=routes, exception_handlers={HTTPException: _refuse_route, ProxyError: _refuse})
    web.router.redirect_slashes = False  # to whatever Host the client names
    return web


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    route = f"{request.method} {request.url.path}"
    refusal: ProxyError
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        refusal = MethodNotAllowed(f"{route} is not served.", (error.headers or {}).get("Allow", ""))
    else:
        refusal = UnknownRoute(f"Unknown request URL: {route[:200]}.")
    return await _refuse(request, refusal)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProxyError)
    status, headers, body = error_answer(error)
    answer = Response(body, status)
    request_id = Arrival().id.encode()
    answer.raw_headers = [*headers, (b"x-request-id", request_id), (b"x-tollgate-request-id", request_id)]
    return answer
