"""Request bodies: what a JSON body asks for, and how to force usage reporting without touching another byte."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import InvalidRequest

#: The members that decide what is metered and admitted. Each may stand in a body once, spelled exactly so: of two,
#: one upstream reads the first and another the last; and Go's decoder takes "Model" for "model".
_DECIDING = frozenset({"model", "stream", "stream_options"})
_DECIDING_QUOTED = tuple(f'"{name}"'.encode() for name in _DECIDING)

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)

_INCLUDE_USAGE = b'"include_usage":true'


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request's body asks for. `body` is what goes upstream."""

    body: bytes
    model: str
    streamed: bool
    hides_usage: bool


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object, by its offsets: `"name"` at start, its value from value_start to end."""

    name: str
    start: int
    value_start: int
    end: int


def read(raw: bytes, *, usage_on_request: bool) -> Ask:
    """Read a JSON body.

    A stream is made to report its usage where `usage_on_request` says that it otherwise would not, and `hides_usage`
    then says whether the client is to be spared what it did not ask for. Raises `InvalidRequest` naming the field.
    """
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body of your request is not valid JSON: {error}.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body of your request must be a JSON object.", code="invalid_json")
    _refuse_ambiguous(raw, parsed)
    model = parsed.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
    streamed = parsed.get("stream")
    if streamed is not None and not isinstance(streamed, bool):
        raise InvalidRequest("'stream' must be true or false.", param="stream", code="invalid_type")
    if streamed and usage_on_request:
        options = parsed.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        return Ask(raw if asked else _force_usage(raw, options), model or "", streamed=True, hides_usage=not asked)
    return Ask(raw, model or "", streamed=bool(streamed), hides_usage=False)


def _refuse_ambiguous(raw: bytes, parsed: dict[str, Any]) -> None:
    for name in parsed:
        if name not in _DECIDING and name.lower() in _DECIDING:
            message = f"Write '{name.lower()}' in lower case, not '{name}': upstreams differ in how they read it."
            raise InvalidRequest(message, param=name.lower(), code="ambiguous_field")
    # Scanning takes time, and only a name that occurs twice, or is spelled with escapes, can hide a duplicate.
    if b"\\u00" in raw or any(raw.count(quoted) > 1 for quoted in _DECIDING_QUOTED):
        seen = set()
        for member in members(raw):
            if member.name in seen and member.name in _DECIDING:
                message = f"'{member.name}' stands in the body more than once; send it once."
                raise InvalidRequest(message, param=member.name, code="duplicate_field")
            seen.add(member.name)


def _force_usage(raw: bytes, options: object) -> bytes:
    """The body with `stream_options.include_usage` true and every other byte as it came."""
    where = next((member for member in members(raw) if member.name == "stream_options"), None)
    if where is None:
        opening = raw.index(b"{") + 1
        return b'%b"stream_options":{%b},%b' % (raw[:opening], _INCLUDE_USAGE, raw[opening:])
    if options is None:
        value = b"{%b}" % _INCLUDE_USAGE
    elif isinstance(options, dict):
        value = _with_usage(raw[where.value_start : where.end], empty=not options)
    else:
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options", code="invalid_type")
    return raw[: where.value_start] + value + raw[where.end :]


def _with_usage(options: bytes, *, empty: bool) -> bytes:
    """A `stream_options` object whose every `include_usage` (there may be two) is true."""
    found = [member for member in members(options) if member.name == "include_usage"]
    for member in reversed(found):
        options = options[: member.value_start] + b"true" + options[member.end :]
    if found:
        return options
    return b"{%b%b%b" % (_INCLUDE_USAGE, b"" if empty else b",", options[1:])


def members(document: bytes) -> Iterator[Member]:
    """The members of the JSON object that `document` (known to be valid JSON) is, in order, duplicates included."""
    depth = 0
    name: bytes | None = None
    start = value_start = -1
    for token in _TOKEN.finditer(document):
        kind = document[token.start()]
        if kind in b"{[":
            depth += 1
        elif kind in b"}]":
            depth -= 1
        if depth == 1 and kind == 0x22 and name is None:
            name, start = token.group(), token.start()
        elif depth == 1 and kind == 0x3A and name is not None and value_start < 0:
            value_start = _skip_space(document, token.end())
        elif name is not None and ((depth == 1 and kind == 0x2C) or depth == 0):
            yield Member(orjson.loads(name), start, value_start, _end(document, token.start()))
            name, value_start = None, -1
        if depth == 0:
            return


def _skip_space(document: bytes, at: int) -> int:
    while document[at] in b" \t\r\n":
        at += 1
    return at


def _end(document: bytes, at: int) -> int:
    while document[at - 1] in b" \t\r\n":
        at -= 1
    return at
