"""The end of a stopped stream of the Responses API: what is open is closed, and the response is `incomplete`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from proxy.model import Usage

#: Bytes of events from which the response is put together. Of a longer one, the last event has no output.
KEPT_BYTES_MAX = 4 * 1024 * 1024

_ENDED = ("response.completed", "response.incomplete", "response.failed")
#: The texts that come in deltas: what their `*.done` event and their part or item call them, and where the part stands.
_TEXTS = {
    "output_text": ("text", "content"),
    "refusal": ("refusal", "content"),
    "reasoning_text": ("text", "content"),
    "reasoning_summary_text": ("text", "summary"),
    "function_call_arguments": ("arguments", ""),
    "custom_tool_call_input": ("input", ""),
    "mcp_call_arguments": ("arguments", ""),
    "code_interpreter_call_code": ("code", ""),
}
#: The parts of items: in which list of the item they are, and what their type is where no event has said it.
_PARTS = {"content_part": "content", "reasoning_part": "content", "reasoning_summary_part": "summary"}
_PART_TYPES = {"output_text": "output_text", "refusal": "refusal", "reasoning_text": "reasoning_text"}


@dataclass(slots=True)
class _Text:
    """One text that comes in deltas."""

    written: StringIO = field(default_factory=StringIO)
    is_open: bool = True


@dataclass(slots=True)
class _Part:
    """One part of an item. `name` is the one of its events."""

    name: str
    document: dict[str, Any]
    is_open: bool = True


@dataclass(slots=True)
class _Item:
    """One output item, as it stands so far; its parts by their list and their place therein."""

    document: dict[str, Any]
    is_open: bool = True
    parts: dict[tuple[str, int], _Part] = field(default_factory=dict)
    texts: dict[tuple[str, int], _Text] = field(default_factory=dict)


class ResponseClosing:
    """Follows the items and parts of a response by its events."""

    def __init__(self) -> None:
        self._response: dict[str, Any] = {}
        self._items: dict[int, _Item] = {}
        self._number: int | None = None
        self._ended = False
        self._room = KEPT_BYTES_MAX

    def note(self, event: Mapping[str, Any], size: int) -> None:
        kind = event.get("type")
        if kind.__class__ is not str:
            return
        number = event.get("sequence_number")
        if number.__class__ is int:
            self._number = number
        response = event.get("response")
        if response.__class__ is dict:
            self._response = response
            self._ended = self._ended or kind in _ENDED
            return
        index = event.get("output_index")
        if index.__class__ is not int or self._room < 0:
            return
        self._room -= size
        if self._room < 0:
            self._items.clear()
            return
        name, _, what = kind.removeprefix("response.").rpartition(".")
        if name == "output_item":
            item = event.get("item")
            if item.__class__ is dict:
                self._items[index] = _Item(dict(item), is_open=what != "done")
        elif index in self._items:
            _note_within(self._items[index], name, what, event)

    @property
    def is_open(self) -> bool:
        # A response in the background goes on being made when its stream is closed.
        return not self._ended and self._response.get("background") is not True

    def events(self, usage: Usage) -> bytes:
        try:
            return self._all(usage)
        except RecursionError:  # nested deeper than it can be written: the rest of it is enough
            self._response = {name: self._response.get(name) for name in ("id", "object", "created_at", "model")}
            self._items.clear()
            return self._all(usage)

    def _all(self, usage: Usage) -> bytes:
        written: list[bytes] = []
        for index in sorted(self._items):
            item = self._items[index]
            if item.is_open:
                written += [self._event(one | {"output_index": index}) for one in _close(item)]
        response = self._response | {
            "status": "incomplete",
            "incomplete_details": {"reason": "max_output_tokens"},
            "output": [self._items[index].document for index in sorted(self._items)],
            "usage": _usage(usage),
        }
        return b"".join(written) + self._event({"type": "response.incomplete", "response": response})

    def _event(self, document: dict[str, Any]) -> bytes:
        if self._number is not None:
            self._number += 1
            document |= {"sequence_number": self._number}
        # Not by orjson: a text may hold half an emoji, as a lone surrogate.
        return b"event: %b\ndata: %b\n\n" % (
            document["type"].encode(),
            json.dumps(document, separators=(",", ":")).encode(),
        )


def _note_within(item: _Item, name: str, what: str, event: Mapping[str, Any]) -> None:
    """An event of a part, or of a text, of an item."""
    if name in _PARTS:
        within = _PARTS[name]
        part = event.get("part")
        if part.__class__ is dict:
            item.parts[within, _place(event, within)] = _Part(name, dict(part), is_open=what != "done")
    elif name in _TEXTS:
        called, within = _TEXTS[name]
        text = item.texts.setdefault((name, _place(event, within)), _Text())
        given = event.get("delta" if what == "delta" else called)
        text.is_open = what == "delta"
        if given.__class__ is str:
            if what != "delta":
                text.written = StringIO()
            text.written.write(given)


def _place(event: Mapping[str, Any], within: str) -> int:
    place = event.get(f"{within}_index")
    return place if place.__class__ is int else 0


def _close(item: _Item) -> Iterator[dict[str, Any]]:
    """The events that close an item: its open texts, its open parts, itself."""
    named = {"item_id": item.document.get("id")}
    for (name, place), text in sorted(item.texts.items()):
        called, within = _TEXTS[name]
        written = text.written.getvalue()
        if within:
            part = item.parts.setdefault((within, place), _Part("", {"type": _PART_TYPES.get(name, "summary_text")}))
            part.document[called] = written
        else:
            item.document[called] = written
        if text.is_open:
            at = {f"{within}_index": place} if within else {}
            more: dict[str, Any] = {"logprobs": []} if name == "output_text" else {}
            yield {"type": f"response.{name}.done", **named, **at, called: written, **more}
    for (within, place), part in sorted(item.parts.items(), key=lambda one: one[0]):
        if part.is_open and part.name:
            yield {"type": f"response.{part.name}.done", **named, f"{within}_index": place, "part": part.document}
    for within in sorted({within for within, _ in item.parts}):
        places = sorted(place for known, place in item.parts if known == within)
        item.document[within] = [item.parts[within, place].document for place in places]
    item.document["status"] = "incomplete"
    yield {"type": "response.output_item.done", "item": item.document}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_tokens,
    }
