"""Models whose upstream refuses `stream_options`: remembered, so that only the first request is repeated."""

from __future__ import annotations

import time
from collections.abc import Callable

#: An upstream may be upgraded: it is asked again after this time.
LIFETIME_S = 3600.0
_MODELS_MAX = 1_000


class Refusals:
    """The memory of one upstream."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def note(self, model: str) -> None:
        """This model's streams are not to be asked for usage."""
        if len(self._until) >= _MODELS_MAX and model not in self._until:
            self._until.pop(next(iter(self._until)))
        self._until[model] = self._monotonic() + LIFETIME_S

    def holds(self, model: str) -> bool:
        until = self._until.get(model)
        return until is not None and self._monotonic() < until


def is_refusal(status: int, body: bytes) -> bool:
    """Whether an error answer refuses the option, and not the request: a 400 or 422 that names it."""
    return status in (400, 422) and (b"stream_options" in body or b"include_usage" in body)
