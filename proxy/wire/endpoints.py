"""The routes under `/v1` that are served, and the rule of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from proxy.errors import InvalidRequest, MethodNotAllowed, UnknownRoute


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The rule of one route.

    `name` is the event's `endpoint`. A metered route has a JSON body that names its model. `usage_on_request` says
    that its streams report usage only where `stream_options.include_usage` asks for it; the other routes answer
    400 to that option (seen with OpenAI's `/v1/responses`).
    """

    name: str
    method: str
    metered: bool = True
    usage_on_request: bool = False


CHAT_COMPLETIONS = Endpoint("/v1/chat/completions", "POST", usage_on_request=True)

_EXACT = {
    endpoint.name.encode(): endpoint
    for endpoint in (
        CHAT_COMPLETIONS,
        Endpoint("/v1/completions", "POST", usage_on_request=True),
        Endpoint("/v1/responses", "POST"),
        Endpoint("/v1/embeddings", "POST"),
        Endpoint("/v1/models", "GET", metered=False),
    )
}
_ONE_MODEL = Endpoint("/v1/models/{model}", "GET", metered=False)
_ONE_MODEL_PREFIX = b"/v1/models/"

#: A path once decoded: printable ASCII, without what some server decodes again (%), takes for a slash (\\), or cuts
#: the path or a segment at (?, #, and ; with which Tomcat reads "..;" as "..").
_UNAMBIGUOUS = re.compile(rb"/(?:(?![%\\?#;])[!-~])*")

#: Every served route, for tests and documentation.
ENDPOINTS = (*_EXACT.values(), _ONE_MODEL)


def match(method: str, raw_path: bytes) -> Endpoint:
    """The endpoint for a request line's method and path, as they stand on the wire (still percent-encoded).

    Raises `UnknownRoute` (404), `MethodNotAllowed` (405), or `InvalidRequest` (400) for a path that the upstream
    could read otherwise than this table does.
    """
    endpoint = _EXACT.get(raw_path)
    if endpoint is None:
        endpoint = _pattern(raw_path)
    if endpoint.method != method:
        route = f"{method} {endpoint.name}"
        raise MethodNotAllowed(f"{route} is not served by this proxy; use {endpoint.method}.", endpoint.method)
    return endpoint


def _pattern(raw_path: bytes) -> Endpoint:
    _refuse_ambiguous(raw_path)
    # A model's id may hold a slash, plain or encoded (org/model, ft:x): all that follows is one id.
    if raw_path.startswith(_ONE_MODEL_PREFIX) and len(raw_path) > len(_ONE_MODEL_PREFIX):
        return _ONE_MODEL
    path = raw_path.decode("ascii", "replace")
    raise UnknownRoute(f"Unknown request URL: {path[:200]}. See the README for the routes that this proxy serves.")


def _refuse_ambiguous(raw_path: bytes) -> None:
    """Refuse what servers normalise in different ways: dot segments, empty segments, double encoding."""
    decoded = unquote_to_bytes(raw_path)
    outside_ids = raw_path[: len(_ONE_MODEL_PREFIX)] if raw_path.startswith(_ONE_MODEL_PREFIX) else raw_path
    if (
        not _UNAMBIGUOUS.fullmatch(decoded)
        or any(segment in (b"", b".", b"..") for segment in decoded.split(b"/")[1:])
        or b"%2f" in outside_ids.lower()
    ):
        raise InvalidRequest(
            "The request path holds dot segments, empty segments, encoded slashes or characters that no route has.",
            code="invalid_path",
        )
