"""What the agent endpoints take, and the chat completion that each makes of it."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.errors import InvalidRequest

_Text = Annotated[str, Field(min_length=1)]


class _Ask(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str | None = Field(default=None, min_length=1)
    stream: bool = False


class Generate(_Ask):
    """`POST /api/generate`"""

    prompt: _Text
    max_tokens: int = Field(default=1024, ge=1)

    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


class Summarize(_Ask):
    """`POST /api/summarize`"""

    text: _Text
    max_tokens: int = Field(default=512, ge=1)

    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "Summarize the user's text concisely. Answer with the summary alone."},
            {"role": "user", "content": self.text},
        ]


class Analyze(_Ask):
    """`POST /api/analyze`"""

    text: _Text
    query: _Text
    max_tokens: int = Field(default=512, ge=1)

    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "Answer the user's question from the text alone that goes with it."},
            {"role": "user", "content": f"Text:\n{self.text}\n\nQuestion: {self.query}"},
        ]


class Ask(Protocol):
    """What the three have in common."""

    @property
    def model(self) -> str | None: ...
    @property
    def stream(self) -> bool: ...
    @property
    def max_tokens(self) -> int: ...
    def messages(self) -> list[dict[str, str]]: ...


A = TypeVar("A", bound=_Ask)


def read(kind: type[A], raw: bytes) -> A:
    """Read a request's body. Raises `InvalidRequest` naming the field."""
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body of your request is not valid JSON: {error}.", code="invalid_json") from None
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in fault["loc"])
        message = f"'{field}': {fault['msg']}." if field else f"{fault['msg']}."
        raise InvalidRequest(message, param=field or None, code=fault["type"]) from None


def completion(ask: Ask, *, model: str, token_limit_field: str) -> bytes:
    """The body of the chat completion that answers `ask`."""
    document: dict[str, Any] = {"model": model, "messages": ask.messages(), token_limit_field: ask.max_tokens}
    if ask.stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(document)
