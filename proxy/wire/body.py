"""Request bodies: what a JSON body asks for, and how to force usage reporting without touching another byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import orjson

from proxy.errors import BodyTooLarge, InvalidRequest
from proxy.model import frozen
from proxy.wire.document import WEIGHED_FROM_BYTES, weight
from proxy.wire.members import members

#: What a body may weigh (`weight`): more than a million values. All other requests wait while it is parsed, whichever
#: thread does that, for a tenth of a second or so.
_WEIGHT_MAX = 64 * 1024 * 1024
#: The members that decide what is metered and admitted. Each may stand in a body once, spelled exactly so: of two,
#: one upstream reads the first and another the last; and Go's decoder takes "Model", and "ſtream", for the same.
_DECIDING = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"}
)

#: No real name of a model is longer or holds a character that cannot be printed; ledgers and logs keep it.
_MODEL_CHARS_MAX = 256

#: A letter or underscore written as an escape, as a member's name could be to hide it. (Others are common: \u00e9.)
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")

#: In these, as in UTF-8, whatever is an ASCII letter is one.
PLAIN_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin1", b"windows-1252"})
_CHARSET = re.compile(rb"charset[\s*]*=[\s\"']*([^\s;\"']*)")

_INCLUDE_USAGE = b'"include_usage":true'


@frozen
class Ask:
    """What a request's body asks for. `body` is what goes upstream, `document` what the client's says, parsed."""

    body: bytes
    model: str
    streamed: bool
    hides_usage: bool
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)


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
    escaped = b"\\u00" in raw and _ESCAPED_LETTER.search(raw) is not None
    _refuse_ambiguous(raw, parsed, escaped=escaped)
    model = parsed.get("model")
    if model is None:
        model = ""
    elif not isinstance(model, str):
        raise InvalidRequest("'model' must be a string.", param="model", code="invalid_type")
    elif len(model) > _MODEL_CHARS_MAX or not model.isprintable():
        message = f"'model' must be at most {_MODEL_CHARS_MAX} printable characters."
        raise InvalidRequest(message, param="model", code="invalid_value")
    streamed = parsed.get("stream")
    if streamed is not None and not isinstance(streamed, bool):
        raise InvalidRequest("'stream' must be true or false.", param="stream", code="invalid_type")
    if streamed and usage_on_request:
        options = parsed.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage") is True:
            plainly = len(options) == raw.count(b"include_usage") == 1 and not escaped
            return Ask(
                raw if plainly else _force_usage(raw, parsed), model, streamed=True, hides_usage=False, document=parsed
            )
        return Ask(_force_usage(raw, parsed), model, streamed=True, hides_usage=True, document=parsed)
    return Ask(raw, model, streamed=bool(streamed), hides_usage=False, document=parsed)


def refuse_heavy(raw: bytes) -> None:
    """Refuse a body that takes many times its bytes, and others' time, to be parsed. Raises `BodyTooLarge`."""
    if len(raw) > WEIGHED_FROM_BYTES and weight(raw) > _WEIGHT_MAX:
        raise BodyTooLarge("The body of your request holds too many lists, objects and values.")


def refuse_charset(content_type: bytes | None) -> None:
    """Refuse a body in which letters may be other bytes than in ASCII (UTF-7): it says something else to others."""
    if content_type and b"charset" in content_type.lower():
        named = _CHARSET.findall(content_type.lower())
        if not named or not {*named} <= PLAIN_CHARSETS:
            raise InvalidRequest("Send the body of your request in UTF-8.", code="unsupported_content_type")


def _refuse_ambiguous(raw: bytes, parsed: dict[str, Any], *, escaped: bool) -> None:
    for name in parsed:
        if name not in _DECIDING and (folded := name.casefold()) in _DECIDING:
            message = f"Write '{folded}' in lower case, not '{name}': upstreams differ in how they read it."
            raise InvalidRequest(message, param=folded, code="ambiguous_field")
    # Scanning takes time, and only a name that occurs twice, or is spelled with escapes, can hide a duplicate.
    streams = ("stream" in parsed) + ("stream_options" in parsed)
    repeated = raw.count(b'"model"') > 1 or (streams and raw.count(b'"stream') > streams)
    if not repeated and not escaped:
        return
    seen = set()
    for member in members(raw):
        if member.name in seen:
            message = f"'{member.name}' stands in the body more than once; send it once."
            raise InvalidRequest(message, param=member.name, code="duplicate_field")
        if member.name in _DECIDING:
            seen.add(member.name)


def _force_usage(raw: bytes, parsed: dict[str, Any]) -> bytes:
    """The body with `stream_options.include_usage` true and every other byte as it came."""
    if "stream_options" not in parsed:
        opening = raw.index(b"{") + 1
        return b'%b"stream_options":{%b},%b' % (raw[:opening], _INCLUDE_USAGE, raw[opening:])
    options = parsed["stream_options"]
    where = next(member for member in members(raw) if member.name == "stream_options")
    if options is None:
        value = b"{%b}" % _INCLUDE_USAGE
    elif isinstance(options, dict):
        value = _with_usage(raw[where.value_start : where.end], empty=not options)
    else:
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options", code="invalid_type")
    return raw[: where.value_start] + value + raw[where.end :]


def with_member(raw: bytes, name: str, value: bytes) -> bytes:
    """A JSON object's bytes with this member set to this value, and every other byte as it came."""
    for member in members(raw):
        if member.name == name:
            return raw[: member.value_start] + value + raw[member.end :]
    opening = raw.index(b"{") + 1
    comma = b"" if raw[opening:].lstrip().startswith(b"}") else b","
    return b'%b"%b":%b%b%b' % (raw[:opening], name.encode(), value, comma, raw[opening:])


def _with_usage(options: bytes, *, empty: bool) -> bytes:
    """A `stream_options` object whose every `include_usage` is true: there may be two, or one that Go takes for it."""
    found = [member for member in members(options) if member.name.casefold() == "include_usage"]
    for member in reversed(found):
        options = options[: member.value_start] + b"true" + options[member.end :]
    if any(member.name == "include_usage" for member in found):
        return options
    return b"{%b%b%b" % (_INCLUDE_USAGE, b"" if empty else b",", options[1:])
