"""What becomes of answers whose clients have left."""

from __future__ import annotations

from proxy.sections import UpstreamSettings


class Leaving:
    """Such an answer is read on, within bounds, because its end holds the usage that the upstream charges for.

    Where that is not wanted, and beyond the bounds, the upstream's connection is closed: what was delivered is all that
    is known.
    """

    def __init__(self, settings: UpstreamSettings) -> None:
        self.timeout_s = settings.drain_timeout_s
        self.bytes_max = settings.drain_bytes_max
        self._answers_max = settings.drain_answers_max if settings.on_disconnect == "drain" else 0
        #: Exchanges whose answers are read on.
        self.draining: set[object] = set()

    def drains(self, exchange: object) -> bool:
        """Whether the answer of this one is read on, now that its client has left."""
        if len(self.draining) < self._answers_max:
            self.draining.add(exchange)
        return exchange in self.draining
