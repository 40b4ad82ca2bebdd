"""A running server's admin API, as commands ask it (`--server`)."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import orjson
from pydantic import SecretStr, ValidationError

from proxy.admin.operation import Answer, Asked, Operation
from proxy.admin.problem import CONTENT_TYPE, DOCS
from proxy.errors import ConfigurationError, NoSuch, ServerError, StoreError, TollgateError, TooMuch, WrongInput
from proxy.wire.problem import readable

I = TypeVar("I", bound=Asked)  # noqa: E741
O = TypeVar("O", bound=Answer)  # noqa: E741

#: A bulk change and a long question take a few seconds at most.
_TIMEOUT = httpx.Timeout(60, connect=10)
_WORDS_CHARS_MAX = 300


def check_url(url: str) -> str:
    """Raises `ValueError`, worded for the user, without what it was given: that may hold a password."""
    try:
        parts = urlsplit(url)
        is_plain = not ("@" in parts.netloc or parts.query or parts.fragment)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and is_plain:
            return url
    except ValueError:
        pass
    raise ValueError("write a server's URL such as http://127.0.0.1:8000, without user and password")


class Remote:
    """On a server. Its errors are raised as the operations raise them."""

    def __init__(self, url: str, token: SecretStr | None) -> None:
        if token is None:
            raise ConfigurationError("admin_token (TOLLGATE_ADMIN_TOKEN): --server needs the server's admin token")
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token.get_secret_value()}"}
        try:
            self._client = httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=False)
        except (OSError, ValueError, httpx.InvalidURL) as error:  # a proxy's URL, or a file of certificates
            raise ServerError(f"{self._url} cannot be asked: {error}") from None

    def call(self, operation: Operation[I, O], asked: I) -> O:
        """Raises `StoreError` as the operation does, and `ServerError` where the server could not be asked."""
        values = asked.model_dump(mode="json", exclude_none=True)
        given = {name: values[field] for name, field in operation.fields.items() if field in values}
        url = self._url + re.sub(r"\{(\w+)\}", lambda found: _part(found[1], given.pop(found[1])), operation.path)
        query, content = (given, None) if operation.in_query else (None, orjson.dumps(given))
        try:
            answer = self._client.request(operation.method, url, params=query, content=content)
        except httpx.HTTPError as error:
            raise ServerError(self._trouble(error)) from None
        if not answer.is_success:
            raise self._refusal(answer)
        try:
            return operation.gives.model_validate_json(answer.content)
        except ValidationError:
            raise ServerError(f"{self._url} answered what its admin API does not: {_shown(answer)}") from None

    def close(self) -> None:
        self._client.close()

    def _trouble(self, error: httpx.HTTPError) -> str:
        words = readable(str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            return f"{self._url} cannot be reached: {words}"
        if isinstance(error, httpx.ProxyError):
            return f"the proxy on the way to {self._url} refuses: {words}"
        if isinstance(error, httpx.TimeoutException):
            return f"{self._url} does not answer in time: the command may have been carried out, or not"
        return f"the connection to {self._url} broke ({words}): the command may have been carried out, or not"

    def _refusal(self, answer: httpx.Response) -> TollgateError:
        said = _problem_of(answer)
        if said is None:
            if answer.is_redirect:
                return ServerError(
                    f"{self._url} sends elsewhere, to {readable(answer.headers['location'])}: name that URL"
                )
            return ServerError(
                f"{self._url} has no admin API, or something stands before it: it answered {_shown(answer)}"
            )
        detail, kind = str(said["detail"]), str(said["type"]).removeprefix(DOCS)
        faults = said.get("errors") or [{}]
        match kind:
            case "wrong_input":
                return WrongInput(str(faults[0].get("detail", detail)), str(faults[0].get("field", "")))
            case "too_much":
                return TooMuch(detail)
            case "no_such":
                return NoSuch(detail)
            case "refused":
                return StoreError(detail)
            case "invalid_api_key":
                return ServerError(f"{self._url} refuses the token in TOLLGATE_ADMIN_TOKEN")
        return ServerError(f"{self._url}: {detail}")


def _part(name: str, value: str) -> str:
    """An id as a part of a path. Raises `WrongInput` for one that would be no part, or lead elsewhere."""
    if value in ("", ".", ".."):
        raise WrongInput(f"{value!r} is no {name.replace('_', ' ')}", name)
    return quote(value, safe="")


def _problem_of(answer: httpx.Response) -> dict[str, Any] | None:
    if answer.headers.get("content-type") != CONTENT_TYPE:
        return None
    try:
        said = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and {"type", "detail"} <= said.keys() else None


def _shown(answer: httpx.Response) -> str:
    media_type = answer.headers.get("content-type", "nothing").partition(";")[0]
    return f"{answer.status_code} with {readable(media_type)}: {readable(answer.text[:_WORDS_CHARS_MAX])}".rstrip(": ")
