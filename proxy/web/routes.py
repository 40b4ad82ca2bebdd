"""The routes beside `/v1`, and errors in the same shape there."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from proxy.errors import MethodNotAllowed, ProxyError, UnknownRoute, error_answer
from proxy.gateway.call import Arrival
from proxy.web.health import Readiness, healthz
from proxy.web.metrics import Metrics
from proxy.web.usage import Usage


def create_web(readiness: Readiness, metrics: Metrics, usage: Usage, agent: Mapping[str, ASGIApp]) -> Starlette:
    """The application for everything but `/v1`; `agent` holds the agent endpoints by path."""
    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readiness.readyz, methods=["GET"]),
        Route("/metrics", metrics.metrics, methods=["GET"]),
        Route("/api/usage", usage.usage, methods=["GET"]),
        *(Route(path, endpoint) for path, endpoint in agent.items()),
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
