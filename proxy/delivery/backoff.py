"""How long to wait before the next try."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.5


class Backoff:
    """Waits that double from half a second up to a ceiling, with full jitter: relays that failed together part ways."""

    def __init__(self, max_s: float, random: Callable[[], float]) -> None:
        """`max_s` is the longest wait of our own choice; `random` gives numbers in `[0, 1)`."""
        self._max_s = max_s
        self._random = random
        self._ceiling_s = 0.0
        self.reset()

    def next_s(self, retry_after_s: float | None = None) -> float:
        """Seconds to wait after one more failure, and never less than the receiver asked for."""
        wait_s = self._random() * self._ceiling_s
        self._ceiling_s = min(self._max_s, self._ceiling_s * 2)
        return max(wait_s, retry_after_s or 0.0)

    def reset(self) -> None:
        """A try succeeded: the next failure waits briefly again."""
        self._ceiling_s = min(self._max_s, FIRST_S)
