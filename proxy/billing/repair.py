"""Sending again what a reconciliation proved to be absent, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.billing.comparison import LATE_MS
from proxy.billing.reconcile import Missing
from proxy.delivery.sinks import Sink
from proxy.store import audit
from proxy.store.database import Database


class Repair:
    """May raise `SinkError` and `sqlite3.Error`; what was repaired until then stays so, and a next run goes on."""

    def __init__(self, database: Database, sink: Sink, *, visible_ms: int, now_ms: Callable[[], int]) -> None:
        """`visible_ms` as in `Terms`: what was delivered later is left alone."""
        self._database = database
        self._sink = sink
        self._visible_ms = visible_ms
        self._now_ms = now_ms
        #: Requests that wait for the relay again.
        self.requests = 0
        #: Events that were sent here: parts of a request whose other events are there.
        self.parts = 0
        #: Events of both that are so old that the invoice of their period may have been made.
        self.stale = 0

    async def __call__(self, missing: Sequence[Missing]) -> None:
        proven = [one.absent for one in missing if one.proven]
        whole = [one.recorded.settlement.id for one in proven if one.whole]
        if whole:
            with self._database.transaction() as connection:
                self.requests += audit.send_again(connection, whole, self._visible_ms)
        # The relay sends all events of a request. Where some are there, that would double them in an engine that does
        # not drop repeats, which is the default of a self-hosted one.
        parts = [one for one in proven if not one.whole]
        if parts:
            await self._sink.deliver([event for one in parts for event in one.events])
            with self._database.transaction() as connection:
                for one in parts:
                    audit.note_sent(connection, one.recorded.settlement.id, self._now_ms())
            self.parts += sum(len(one.events) for one in parts)
        old_ms = self._now_ms() - LATE_MS
        self.stale += sum(len(one.events) for one in proven if one.recorded.settlement.time_ms < old_ms)
