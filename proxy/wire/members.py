"""JSON objects by their members' places: to change one and no other byte, or to read some and not the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

# Possessive: a string of a million escapes must not leave a million places to go back to.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NAME = re.compile(rb"[ \t\r\n]*(%b)[ \t\r\n]*:[ \t\r\n]*" % _STRING, re.DOTALL)
_SCALAR = re.compile(rb"%b|[^,}\s]+" % _STRING, re.DOTALL)
_NESTED = re.compile(rb"%b|\{|\}|\[|\]" % _STRING, re.DOTALL)
_OPENING = re.compile(rb"[ \t\r\n]*\{")
_AFTER = re.compile(rb"[ \t\r\n]*([,}])")

#: A list of more bytes is no part of an outline.
_LIST_BYTES_MAX = 64 * 1024
_LIST = ord("[")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a JSON object, by its offsets: `"name"` at start, its value from value_start to end."""

    name: str
    start: int
    value_start: int
    end: int


def members(document: bytes) -> Iterator[Member]:
    """The members of the JSON object that `document` is, in order, duplicates included.

    It must be JSON, as `json.loads` takes it; white space and nothing else may stand around it.
    """
    at = document.index(b"{") + 1
    while name := _NAME.match(document, at):
        value_start = name.end()
        end = _value_end(document, value_start)
        yield Member(_unquoted(name[1]), name.start(1), value_start, end)
        after = _AFTER.match(document, end)
        if after is None or after[1] == b"}":
            return
        at = after.end()


def outline(document: bytes) -> dict[str, Any] | None:
    """A JSON object without its long lists, in which embeddings stand and the like; None where it is none.

    Takes as long as to parse it all, but not in one piece in which no other thread has its turn. What stands in the
    lists may be anything that has an end.
    """
    opening = _OPENING.match(document)
    if opening is None:
        return None
    found: dict[str, Any] = {}
    end = opening.end()
    try:
        for member in members(document):
            end = member.end
            if document[member.value_start] == _LIST and end - member.value_start > _LIST_BYTES_MAX:
                found.pop(member.name, None)
            else:
                found[member.name] = orjson.loads(document[member.value_start : end])
    except (IndexError, ValueError):  # it is no JSON
        return None
    return found if document[end:].strip() == b"}" else None


def _unquoted(name: bytes) -> str:
    text = name.decode(errors="replace")
    unquoted: str = json.loads(text) if "\\" in text else text[1:-1]
    return unquoted


def _value_end(document: bytes, start: int) -> int:
    if document[start] not in b"{[":
        scalar = _SCALAR.match(document, start)
        return scalar.end() if scalar else start
    depth = 0
    for token in _NESTED.finditer(document, start):
        kind = document[token.start()]
        if kind in b"{[":
            depth += 1
        elif kind in b"}]":
            depth -= 1
            if depth == 0:
                return token.end()
    return len(document)
