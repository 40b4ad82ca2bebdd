"""Errors of the admin API, as RFC 9457 has them: `application/problem+json`."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import ValidationError

from proxy.errors import (
    ConfigurationError,
    EngineError,
    Headers,
    NoSuch,
    ProxyError,
    StoreError,
    TooMuch,
    WrongFields,
    WrongInput,
)

CONTENT_TYPE = "application/problem+json"
#: Where a problem's `type` is explained.
DOCS = "/docs#"

#: What can go wrong, by the last part of a problem's `type`: its status, its title.
KINDS: dict[str, tuple[int, str]] = {
    "wrong_input": (400, "A part of the request cannot be"),
    "too_much": (400, "It asks for too much at once"),
    "invalid_api_key": (401, "The admin token is missing or wrong"),
    "admin_off": (404, "The admin API is turned off"),
    "unknown_url": (404, "No such route"),
    "no_such": (404, "What it names is not there"),
    "method_not_allowed": (405, "The route has no such method"),
    "request_timeout": (408, "The body did not arrive in time"),
    "refused": (409, "What is stored stands in the way"),
    "request_too_large": (413, "The body is too large"),
    "unsupported_content_encoding": (415, "The body is coded"),
    "rate_limit_exceeded": (429, "Too many requests wait"),
    "internal_error": (500, "The service has failed"),
    "misconfigured": (500, "A file of the service's settings is wrong"),
    "engine_failed": (502, "The metering engine did not do its part"),
    "ledger_unavailable": (503, "The ledger cannot be used at the moment"),
}
#: Of several faults, as many are told.
_FAULTS_MAX = 10


def problem(error: ProxyError | StoreError | EngineError | ConfigurationError) -> tuple[int, Headers, bytes]:
    """The status, headers and body for an error."""
    headers: Headers = []
    if isinstance(error, ProxyError):
        kind, headers = error.code or "internal_error", error.headers()
    elif isinstance(error, WrongInput):
        kind = "wrong_input"
    elif isinstance(error, TooMuch):
        kind = "too_much"
    elif isinstance(error, EngineError):
        kind = "engine_failed"
    elif isinstance(error, ConfigurationError):
        kind = "misconfigured"
    else:
        kind = "no_such" if isinstance(error, NoSuch) else "refused"
    status, title = KINDS.get(kind, (500, "The service has failed"))
    said: dict[str, Any] = {"type": DOCS + kind, "title": title, "status": status, "detail": str(error)}
    if isinstance(error, WrongFields):
        said["errors"] = error.faults
    elif isinstance(error, WrongInput):
        said["errors"] = [{"field": error.field, "detail": str(error)}]
    return status, [(b"content-type", CONTENT_TYPE.encode()), *headers], orjson.dumps(said)


def faults_of(error: ValidationError) -> list[dict[str, str]]:
    """Which fields are wrong, and how: `{"field": "models.0", "detail": …}`, without their values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[:_FAULTS_MAX]
    return [
        {"field": ".".join(map(str, one["loc"])), "detail": one["msg"].removeprefix("Value error, ")} for one in found
    ]
