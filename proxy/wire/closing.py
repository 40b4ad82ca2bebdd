"""How a stream that is stopped ends for its client: with the events of an answer that has reached its token limit.

Each protocol's own, and no other bytes are touched: they follow the last whole event that the client has seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from proxy.model import Usage
from proxy.wire.closing_response import ResponseClosing

#: What each chunk of a stream repeats.
_REPEATED = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
#: No honest answer has more choices.
_CHOICES_MAX = 2_048


class Closing(Protocol):
    """Sees all events of one stream, and knows what would end it."""

    def note(self, event: Mapping[str, Any], size: int) -> None:
        """One more event goes to the client; it has so many bytes. Takes any JSON without raising."""

    @property
    def is_open(self) -> bool:
        """Whether the stream can be ended here: it is not at its end already."""

    def events(self, usage: Usage) -> bytes:
        """The events that end it, this having been used."""


def closing_for(endpoint: str, *, tells_usage: bool) -> Closing | None:
    """What ends the streams of an endpoint; None: nobody knows. `tells_usage`: the client asked a stream for that."""
    match endpoint:
        case "/v1/chat/completions":
            return ChoicesClosing({"delta": {}}, tells_usage=tells_usage)
        case "/v1/completions":
            return ChoicesClosing({"text": ""}, tells_usage=tells_usage)
        case "/v1/responses":
            return ResponseClosing()
    return None


class ChoicesClosing:
    """Chat completions, and completions: each choice that has begun is finished by its `length`."""

    def __init__(self, empty: dict[str, Any], *, tells_usage: bool) -> None:
        self._empty = empty
        self._tells_usage = tells_usage
        self._last: Mapping[str, Any] = {}
        self._open: dict[int, None] = {}
        self._ended: set[int] = set()

    def note(self, event: Mapping[str, Any], size: int) -> None:
        choices = event.get("choices")
        if choices.__class__ is not list or not choices:
            return
        self._last = event
        for choice in choices:
            if choice.__class__ is not dict:
                continue
            index = choice.get("index")
            if index.__class__ is not int or not 0 <= index < _CHOICES_MAX:
                index = 0
            if choice.get("finish_reason"):
                self._open.pop(index, None)
                self._ended.add(index)
            elif index not in self._ended:
                self._open[index] = None

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def events(self, usage: Usage) -> bytes:
        last = self._last
        head = {name: last[name] for name in _REPEATED if isinstance(last.get(name, ()), str | int | None)}
        unused = {"usage": None} if self._tells_usage else {}
        chunks: list[dict[str, Any]] = [
            head | {"choices": [{"index": at, **self._empty, "logprobs": None, "finish_reason": "length"}]} | unused
            for at in self._open
        ]
        if self._tells_usage:
            chunks.append(head | {"choices": [], "usage": _usage(usage)})
        # Not by orjson: a name may hold half an emoji, as a lone surrogate.
        written = [b"data: %b\n\n" % json.dumps(one, separators=(",", ":")).encode() for one in chunks]
        return b"".join(written) + b"data: [DONE]\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input, "audio_tokens": usage.audio_input},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": usage.audio_output},
    }
