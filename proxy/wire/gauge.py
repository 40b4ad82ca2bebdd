"""How much an answer has delivered so far, told while it streams at the cost of an addition for each text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.wire.delivered import Delivered, Place
from proxy.wire.tokens import Tokenizer, bytes_of

#: More than what is counted around a text or a call (`Delivered.tokens`).
_AROUND_MAX = 16
_BYTES_PER_TOKEN = 4


class Gauge(Delivered):
    """What an answer delivers, weighed as it comes. No text has more tokens than bytes."""

    __slots__ = ("_counted", "_hidden", "_new", "weight")

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0  #: bytes of all that has come, what came encrypted by its tokens
        self._new: dict[Place, list[str]] = {}
        self._counted = 0
        self._hidden = 0

    def add(self, document: Mapping[str, Any]) -> None:
        super().add(document)
        if self._encrypted:
            hidden = sum(self._encrypted.values())
            self.weight += (hidden - self._hidden) * _BYTES_PER_TOKEN
            self._hidden = hidden

    def tokens_at_most(self, tokenizer: Tokenizer) -> int:
        """A little more than `tokens` would count, for the time that it takes to count what is new."""
        self._counted += sum(tokenizer.count("".join(texts)) for texts in self._new.values())
        self._new.clear()
        return self._counted + self._hidden + _AROUND_MAX * len(self._buffers)

    def add_text(self, place: Place, text: str) -> None:
        super().add_text(place, text)
        self.weight += bytes_of(text)
        self._new.setdefault(place, []).append(text)
