"""A ledger on disk, with settlements to deliver and a look at where their events stand."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from proxy.delivery.cloudevents import events_of
from proxy.model import EventState, Outcome, Settlement, Usage, UsageSource
from proxy.store import ledger as rows
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.ledger import Delivery
from proxy.store.outbox import EVENTS, Outbox

NOW_MS = 1_776_076_200_123


def settlement(number: int = 1, *, subject: str = "user-001", model: str = "gpt-4o-mini-2024-07-18") -> Settlement:
    """A finished chat completion with the id `req-0001`."""
    return Settlement(
        id=f"req-{number:04}",
        subject=subject,
        key_id="key_1",
        time_ms=NOW_MS + number,
        endpoint="/v1/chat/completions",
        requested_model="gpt-4o-mini",
        model=model,
        provider="openai",
        streamed=False,
        status=200,
        outcome=Outcome.COMPLETED,
        usage=Usage(uncached_input=50, cached_input=2, text_output=190, reasoning=5),
        usage_source=UsageSource.REPORTED,
        duration_ms=812,
        ttft_ms=190,
    )


class Ledger:
    """Database, group commit and outbox together, as the application wires them."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'ledger.db'}")
        self.commit = GroupCommit(self.database)
        self.outbox = Outbox(self.database, self.commit, lambda: NOW_MS, EVENTS)

    def open(self) -> None:
        self.database.create()
        self.commit.start()

    async def close(self) -> None:
        await self.commit.stop()
        self.outbox.close()

    async def record(self, *settlements: Settlement) -> None:
        await asyncio.gather(*(self.commit.record(one) for one in settlements))

    def deliveries(self) -> list[Delivery]:
        """Every event, the newest first."""
        with closing(self.database.connect(read_only=True)) as connection:
            return rows.newest(connection, limit=100_000)

    def states(self) -> Counter[EventState]:
        return Counter(delivery.state for delivery in self.deliveries())

    def accepted(self) -> int:
        return self.states()[EventState.ACCEPTED]


def event_of(one: Settlement, source: str) -> dict[str, Any]:
    """The event of a settlement in the default profile."""
    (event,) = events_of(one, source)
    return event
