"""JSON as upstreams write it, which is not always JSON, read within bounds."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

#: What a document may weigh in memory once parsed (64 MiB of embeddings do); a heavier one is not. Shorter ones than
#: this are not weighed.
PARSED_BYTES_MAX = 200 * 1024 * 1024
WEIGHED_FROM_BYTES = 1024 * 1024
#: From here on a document takes more time to be parsed than others should wait for, a hundred milliseconds or so.
HEAVY_BYTES = 16 * 1024 * 1024
#: What is looked through at once. Python has no other thread's turn in the middle of it (a millisecond or two).
PIECE_BYTES = 1024 * 1024
#: Python reads no integers of thousands of digits, and would refuse all that stands around one.
_DIGITS_MAX = 1_000
_BOM = b"\xef\xbb\xbf"
#: Texts, with their closing quotes if they have them, and what stands around values.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{},]', re.DOTALL)
_CLOSES = {b"{": b"}", b"[": b"]"}
#: At the end of a text: an escape that is not whole, but no escaped backslash.
_HALF_ESCAPE = re.compile(rb"((?<!\\)(?:\\\\)*)\\u[0-9a-fA-F]{0,3}\Z")
#: All bytes but those that begin or part values.
_WEIGHTLESS = bytes({*range(256)} - {*b"{[,"})


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object that `data` is, if it is one.

    Answers hold what strict JSON forbids: half an emoji as a lone surrogate, half a character of UTF-8, -Infinity for
    a logprob. Clients read them, so they are metered.
    """
    if len(data) > WEIGHED_FROM_BYTES and weight(data) > PARSED_BYTES_MAX:
        return None
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        data = data.removeprefix(_BOM)
        if not data.lstrip().startswith(b"{"):
            return None
        try:
            parsed = json.loads(data.decode(errors="replace"), parse_int=_integer)
        except (ValueError, RecursionError):
            return None
    return parsed if isinstance(parsed, dict) else None


def beginning(document: bytes) -> dict[str, Any] | None:
    """What there is of a JSON object that breaks off: the text in which it does so as far as it came, and what cannot
    be told left out. A number may lack its last digits.
    """
    closing: list[bytes] = []
    cut = 0  #: up to here it can be ended by closing all brackets
    text = None
    for token in _TOKEN.finditer(document):
        mark = token[0][:1]
        if mark in _CLOSES:
            closing.append(_CLOSES[mark])
            cut = token.end()
        elif mark == b",":
            cut = token.start()
        elif mark == b'"':
            text = None if token[1] else token
        elif closing:
            closing.pop()
            cut = token.end()
    ends = b"".join(reversed(closing))
    whole = document if text is None else document[: text.start()] + _HALF_ESCAPE.sub(rb"\1", text[0]) + b'"'
    return json_object(whole + ends) or json_object(document[:cut] + ends)


def is_heavy(document: bytes) -> bool:
    """Whether its parsing would keep all other threads waiting for long."""
    return len(document) > WEIGHED_FROM_BYTES and weight(document) > HEAVY_BYTES


def weight(document: bytes) -> int:
    """Roughly the bytes that a JSON document takes once parsed: 64 MiB of empty lists would take 2 GiB and 7 s."""
    total = 0
    for at in range(0, len(document), PIECE_BYTES):
        heavy = document[at : at + PIECE_BYTES].translate(None, _WEIGHTLESS)  # a quarter of the time of counting in all
        total += 200 * heavy.count(b"{") + 80 * heavy.count(b"[") + 40 * heavy.count(b",")
    return total


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= _DIGITS_MAX else math.inf
