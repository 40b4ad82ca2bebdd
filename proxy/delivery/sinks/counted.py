"""A sink that counts what became of its batches, for `/metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from proxy.errors import SinkError, SinkMisconfigured, SinkRefused, SinkUnavailable

#: What can become of a batch.
ACCEPTED = "accepted"
_FAILURES: dict[type[SinkError], str] = {
    SinkUnavailable: "unavailable",
    SinkMisconfigured: "misconfigured",
    SinkRefused: "refused",
}
RESULTS = (ACCEPTED, *_FAILURES.values())


class _Sink(Protocol):
    async def deliver(self, events: Sequence[dict[str, Any]]) -> None: ...

    async def close(self) -> None: ...


class CountedSink:
    """Hands everything on to another sink."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        #: Batches, by what became of them; and the events of those that were accepted.
        self.batches = dict.fromkeys(RESULTS, 0)
        self.events = 0

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        """As `Sink.deliver`."""
        try:
            await self._sink.deliver(events)
        except (SinkUnavailable, SinkMisconfigured, SinkRefused) as error:
            self.batches[_FAILURES[type(error)]] += 1
            raise
        self.batches[ACCEPTED] += 1
        self.events += len(events)

    async def close(self) -> None:
        await self._sink.close()
