from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from proxy.delivery.sinks.counted import CountedSink
from proxy.errors import SinkMisconfigured, SinkRefused, SinkUnavailable

pytestmark = pytest.mark.anyio


class Scripted:
    """Fails as it is told to, batch after batch."""

    def __init__(self, *ends: Exception | None) -> None:
        self.ends = [*ends]
        self.taken: list[dict[str, Any]] = []
        self.is_closed = False

    async def deliver(self, events: Sequence[dict[str, Any]]) -> None:
        end = self.ends.pop(0)
        if end is not None:
            raise end
        self.taken += events

    async def close(self) -> None:
        self.is_closed = True


async def test_every_batch_is_counted_by_its_end_and_handed_on() -> None:
    ends = [None, SinkUnavailable("down"), SinkMisconfigured("401"), SinkRefused("400"), RuntimeError("a fault"), None]
    inner = Scripted(*ends)
    sink = CountedSink(inner)
    assert sink.batches == {"accepted": 0, "unavailable": 0, "misconfigured": 0, "refused": 0}
    for end in ends:
        if end is None:
            await sink.deliver([{"id": "1"}, {"id": "2"}])
        else:
            with pytest.raises(type(end)):
                await sink.deliver([{"id": "3"}])
    assert sink.batches == {"accepted": 2, "unavailable": 1, "misconfigured": 1, "refused": 1}
    assert sink.events == len(inner.taken) == 4
    await sink.close()
    assert inner.is_closed
