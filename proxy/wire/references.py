"""What bodies name by an id: in requests, what the upstream's account holds; in answers, what a tenant has made there.

An account holds what all its users made. Whoever names another's response, file or item in a request would get it read
into the answer. So each such name is found, wherever a parser could see it: in the first of two members of one name
and in the last, spelled with escapes, or in other than lower case, as Go's decoder takes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from proxy.errors import InvalidRequest
from proxy.wire.document import PIECE_BYTES


@dataclass(frozen=True, slots=True)
class Kind:
    """What an id names. Tenants make those that are `made` through this proxy, which then knows whose they are.

    A bare string is such an id where it begins with `text`; None: ids stand only in objects, as their `id`.
    `instead` is what to send in place of what is refused.
    """

    what: str
    made: bool = False
    text: str | None = ""
    code: str | None = None
    instead: str = ""


_ITEM = Kind("Item", made=True, text=None)
_CONTAINER = Kind("Container", made=True)
_FILE = Kind("File", instead="send the content itself (file_data, image_url)")

#: The members of request bodies that name what an account holds (the types of OpenAI's SDK 3.54). `item` stands for
#: an element of `input` or `items` with an `id`: OpenAI looks each up, also where all its content stands beside it
#: ("Item 'msg_…' was provided without its required 'reasoning' item", "Duplicate item found"). Connectors are none of
#: them: they work with the caller's own OAuth token.
FIELDS: Mapping[str, Kind] = MappingProxyType(
    {
        "previous_response_id": Kind("Previous response", made=True, code="previous_response_not_found"),
        "comparison_response_id": Kind("Response", made=True),
        "conversation": Kind("Conversation", made=True),
        "item": _ITEM,
        "approval_request_id": Kind("Item", made=True),
        "container": _CONTAINER,
        "container_id": _CONTAINER,
        "audio": Kind("Audio", made=True, text=None),
        "file_id": _FILE,
        "file_ids": _FILE,
        "vector_store_ids": Kind("Vector store", instead="send what is to be searched in the request"),
        "prompt": Kind("Prompt", text=None, instead="send its text as instructions"),
        "skill_id": Kind("Skill", instead="send the skill itself (type inline)"),
        "tunnel_id": Kind("Tunnel", instead="name the server by its server_url"),
        "voice": Kind("Voice", text="voice_", instead="name one of OpenAI's own voices"),
    }
)
#: What the paths of the routes name, by the first segment.
PATHS = {"responses": Kind("Response", made=True), "conversations": Kind("Conversation", made=True)}

#: Where a body holds none of these, whatever the case, it names nothing: the others need not be looked through.
IN_CHAT = (b"file_id", b'"audio"')
IN_IMAGES = (b"file_id",)
IN_SPEECH = (b"voice_", b'"id"')
IN_RESPONSES = (
    *(b"response_id", b"conversation", b"file_id", b"vector_store_ids", b"skill_id", b"container", b"tunnel_id"),
    *(b"approval_request_id", b"voice_", b'"id"'),
)

_LISTS_OF_ITEMS = ("input", "items")
#: Members whose content is the caller's own (schemas, labels) or an echo that nobody looks up (citations, results).
_OPAQUE = frozenset(
    {"metadata", "parameters", "schema", "input_schema", "output_schema", "headers", "annotations", "results"}
)
#: An ASCII letter or underscore written as an escape; or a character that folds to one (the long s, the Kelvin sign).
_HIDDEN = re.compile(rb"\\u(?:00[4-7]|017[fF]|212[aA])")
_FOLDING = (b"\xc5\xbf", b"\xe2\x84\xaa")

#: Objects and lists of one body at most, where it must be looked through: 64 MiB of nothing else would take seconds.
_NESTED_MAX = 500_000
_ID_CHARS_MAX = 256
#: No sign is longer.
_SIGN_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """One id in a request. `field` is the member that it stands in, or empty for one in the path."""

    kind: Kind
    id: str
    field: str = ""


class _Members(list[tuple[str, Any]]):
    """A JSON object as its members stand in it, those of the same name included."""


def in_json(raw: bytes, signs: Sequence[bytes]) -> tuple[Reference, ...]:
    """What a JSON body names, which holds none of `signs` where it names nothing. Raises `InvalidRequest`."""
    if not _holds(raw, signs) and not _is_hiding(raw):
        return ()
    if raw.count(b"{") + raw.count(b"[") > _NESTED_MAX:
        raise InvalidRequest("The body of your request has too many parts.", code="invalid_json")
    try:
        # Numbers as floats, because an integer of 5,000 digits is an error to Python, and none to others.
        document = json.loads(raw, object_pairs_hook=_Members, parse_int=float)
    except (ValueError, RecursionError):
        message = "The body of your request is not valid JSON, or nested too deeply."
        raise InvalidRequest(message, code="invalid_json") from None
    return tuple(dict.fromkeys(_named_in(document)))


def _holds(raw: bytes, signs: Sequence[bytes]) -> bool:
    """Whether one of the signs stands in it, in whatever case. In pieces, so that other threads have their turns."""
    for at in range(0, len(raw), PIECE_BYTES):
        piece = raw[at : at + PIECE_BYTES + _SIGN_BYTES_MAX].lower()
        for sign in signs:
            if sign in piece:
                return True
    return False


def in_form(names: Mapping[str, str]) -> tuple[Reference, ...]:
    """What a form names, by the names of its fields, such as `image[0][file_id]`."""
    return tuple(Reference(_FILE, value, "file_id") for name, value in names.items() if "file_id" in _plain(name))


def _plain(name: str) -> str:
    return unquote(name).casefold()


def _is_hiding(raw: bytes) -> bool:
    if b"\\u" in raw and _HIDDEN.search(raw):
        return True
    return not raw.isascii() and any(sign in raw for sign in _FOLDING)


def _named_in(document: Any) -> Iterator[Reference]:
    left = [document]
    while left:
        node = left.pop()
        if node.__class__ is list:
            left += node
        elif node.__class__ is _Members:
            for name, value in node:
                if name in _OPAQUE:
                    continue
                field = name.casefold()
                yield from _named_by(field, value)
                # The variables of a prompt have names of the caller's choice, and files as values.
                own_names = field == "variables" and value.__class__ is _Members
                left += [inner for _, inner in value] if own_names else [value]


def _named_by(field: str, value: Any) -> Iterator[Reference]:
    if kind := FIELDS.get(field):
        for text in _ids(value, kind):
            yield Reference(kind, text, field)
    elif field in _LISTS_OF_ITEMS and value.__class__ is list:
        for text in _ids(value, _ITEM):
            yield Reference(_ITEM, text, "item")


def _ids(value: Any, kind: Kind) -> Iterator[str]:
    """The ids that a member names: its text, those in its list, or the `id` of its object."""
    if value.__class__ is str:
        if kind.text is not None and value.startswith(kind.text):
            yield value
    elif value.__class__ is float:
        yield str(value)  # some servers take a number for its text
    elif value.__class__ is _Members:
        for name, inner in value:
            if name.casefold() == "id" and inner is not None:
                yield inner if inner.__class__ is str else str(inner)
    elif value.__class__ is list:
        for inner in value:
            if inner.__class__ is not list:
                yield from _ids(inner, kind)


def shown_by(answer: Mapping[str, Any]) -> list[str]:
    """The ids of what an answer, or one event of its stream, shows: who asked can name them in its next request.

    Those of a response and its conversation, of a conversation and of items, of the containers in which their code
    ran, and of spoken answers in chats.
    """
    found: list[Any]
    if isinstance(choices := answer.get("choices"), list):
        found = [_member(_member(choice, name), "audio") for choice in choices for name in ("message", "delta")]
    else:
        response = answer.get("response")
        found = [answer, response, answer.get("item"), answer.get("conversation"), _member(response, "conversation")]
        for several in (answer.get("output"), _member(response, "output"), answer.get("data")):
            found += several if isinstance(several, list) else []
    return [text for one in found for text in _ids_of(one) if _fits(text)]


def _ids_of(shown: Any) -> tuple[Any, ...]:
    return (
        _member(shown, "id"),
        _member(shown, "container_id"),
        _member(_member(shown, "environment"), "container_id"),
    )


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _fits(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= _ID_CHARS_MAX and text.isprintable()
