"""`/admin/*`: the operations over HTTP, for whoever has the admin token."""

from __future__ import annotations

import hashlib
import importlib
import logging
import re
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.admin.asked import from_body, from_query
from proxy.admin.desk import Desk, Done, Once
from proxy.admin.operation import Operation
from proxy.admin.problem import problem
from proxy.errors import (
    ConfigurationError,
    EngineError,
    Headers,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    StoreError,
    Unauthenticated,
    UnknownRoute,
    WrongInput,
)
from proxy.gateway.auth import hide
from proxy.gateway.call import Arrival
from proxy.gateway.client import ReadBody
from proxy.model import Hidden
from proxy.wire import headers as header

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 4 * 1024 * 1024
_KEY = re.compile(rb"[!-~]{1,255}")


def operations() -> Sequence[Operation[Any, Any]]:
    """All that can be asked for. Loaded when it is needed: 2 MiB, for which a server without the API has no use."""
    found: Sequence[Operation[Any, Any]] = importlib.import_module("proxy.admin.operations").OPERATIONS
    return found


class AdminApi:
    """An ASGI application. Without a `token` it is turned off: it says so, and does nothing."""

    def __init__(
        self, operations: Sequence[Operation[Any, Any]], desk: Desk, read_body: ReadBody, token: str = ""
    ) -> None:
        self._routes = [(_pattern(one.path), one) for one in operations]
        self._desk = desk
        self._read_body = read_body
        self._token = Hidden(token.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        hide(scope["headers"])
        headers: Headers
        try:
            status, headers, body = await self._answer(scope, receive)
        except (ProxyError, StoreError, EngineError, ConfigurationError) as error:
            status, headers, body = problem(error)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            status, headers, body = problem(ProxyError("This service failed to serve your request."))
        answer = Response(body, status)
        request_id = Arrival().id.encode()
        answer.raw_headers += [*headers, (b"cache-control", b"no-store"), (b"x-tollgate-request-id", request_id)]
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        self._authenticate(scope["headers"])
        operation, path = self._find(scope["method"], scope["raw_path"])
        if operation.in_query:
            asked = from_query(operation, path, scope["query_string"])
            once = None
        else:
            body = await self._read_body(scope, receive, BODY_BYTES_MAX)
            asked = from_body(operation, path, body)
            once = _once(operation, scope, body)
        write_as = getattr(asked, "format", "json")
        done = await self._desk.run(operation, asked, write_as, once)
        if operation.writes:
            log.info("%s by the admin API: %s", operation.name, scope["raw_path"].decode("ascii", "replace"))
        return operation.status, _headers(done, write_as), done.body

    def _authenticate(self, headers: Headers) -> None:
        if not self._token:
            raise NotFound(
                "The admin API is turned off. Set TOLLGATE_ADMIN_TOKEN and restart the server to turn it on.",
                code="admin_off",
            )
        if not self._is_sent(headers):
            raise Unauthenticated("Send the admin token (TOLLGATE_ADMIN_TOKEN) as Bearer.")

    def _is_sent(self, headers: Headers) -> bool:
        scheme, _, sent = (header.get(headers, b"authorization") or b"").partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(sent.strip(), self._token)

    def _find(self, method: str, raw_path: bytes) -> tuple[Operation[Any, Any], dict[str, str]]:
        """The operation, and what stands in its path. Raises `UnknownRoute`, `MethodNotAllowed`."""
        allowed = []
        for pattern, operation in self._routes:
            found = pattern.fullmatch(raw_path)
            if found is None:
                continue
            if operation.method == method:
                return operation, {name: _part(name, part) for name, part in found.groupdict().items()}
            allowed.append(operation.method)
        route = f"{method} {raw_path[:200].decode('ascii', 'replace')}"
        if allowed:
            raise MethodNotAllowed(f"{route} is not served.", ", ".join(sorted({*allowed})))
        raise UnknownRoute(f"Unknown request URL: {route}. /docs lists what there is.")


def _pattern(path: str) -> re.Pattern[bytes]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path).encode())


def _part(name: str, part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise WrongInput(f"{name} in the path must be UTF-8", name) from None


def _once(operation: Operation[Any, Any], scope: Scope, body: bytes) -> Once | None:
    """What a repeated POST is known by. Other methods change nothing when they are repeated."""
    key = header.get(scope["headers"], b"idempotency-key")
    if key is None or operation.method != "POST":
        return None
    if not _KEY.fullmatch(key):
        raise WrongInput("use 1 to 255 printable ASCII characters without spaces", "Idempotency-Key")
    return Once(key.decode(), hashlib.sha256(b"%b %b" % (scope["raw_path"], body)).digest())


def _headers(done: Done, write_as: str) -> Headers:
    if write_as == "csv":
        return [
            (b"content-type", b"text/csv; charset=utf-8"),
            (b"content-disposition", b'attachment; filename="usage.csv"'),
        ]
    repeated = [(b"idempotent-replayed", b"true")] * done.repeated
    return [(b"content-type", b"application/json"), *repeated]
