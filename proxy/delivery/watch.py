"""The watch over what waits for the sink: looked at now and then, so that who asks (a probe, a scrape) costs nothing.

Receivers bear late events only so long. Nothing is lost here after that, but what is billed, or counted, may be wrong.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

from proxy.store.database import Database, Link
from proxy.store.outbox import Backlog, backlog

log = logging.getLogger(__name__)

#: How old what is shown may be.
LOOK_S = 10.0
#: OpenMeter makes an invoice an hour after its period's end (`collection.interval`) from what has arrived by then.
_COLLECTION_S = 45 * 60
#: Its sink drops repeats for 24 hours (`sink.dedupe.config.expiration`).
_REPEATS_S = 20 * 3600
_LATE = (
    (0, ""),
    (
        _COLLECTION_S,
        "the oldest event has waited for over 45 minutes: an invoice is made an hour after its period's end",
    ),
    (
        _REPEATS_S,
        "the oldest event has waited for over 20 hours: receivers drop repeats for 24, see tollgate reconcile",
    ),
)


def warning_of(age_s: int | None) -> str:
    """What to warn of when the oldest event has waited for so long; empty where it is too early for that."""
    return _LATE[_lateness(age_s)][1]


class Watch:
    """One task that looks. `start` and `stop` may be called in any order, and more than once.

    Without a sink that events wait for (`has_sink`) their age means nothing, and nobody is warned.
    """

    def __init__(
        self,
        database: Database,
        *,
        has_sink: bool,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        look_s: float = LOOK_S,
    ) -> None:
        self._link = Link(database, read_only=True)
        self._has_sink = has_sink
        self._now_ms = now_ms
        self._look_s = look_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._warned = 0
        #: Told when the oldest event has waited for so many seconds, and in words what follows from that.
        self.late: Callable[[Backlog, int, str], None] = lambda backlog, late_s, words: None
        #: What waited at the last look; nothing before the first.
        self.backlog = Backlog(0, 0, 0, None)

    def start(self) -> None:
        if self._task is None:
            self._stopping = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-watch")

    async def stop(self) -> None:
        """End, and close the connection, once a look that is being taken is over."""
        task, self._task = self._task, None
        if task is not None:
            self._stopping.set()
            await asyncio.wait([task])
            self._link.close()

    @property
    def age_s(self) -> int | None:
        """How long the oldest event has waited; None where none waits."""
        return self.backlog.age_s(self._now_ms())

    @property
    def warning(self) -> str:
        return warning_of(self.age_s) if self._has_sink else ""

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.backlog = await asyncio.to_thread(self._look)
            except sqlite3.Error as error:
                log.debug("the backlog cannot be read: %s", error)  # the ledger's own trouble is told elsewhere
            self._warn()
            try:
                async with asyncio.timeout(self._look_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    def _look(self) -> Backlog:
        try:
            return backlog(self._link.connection())
        except sqlite3.Error as error:
            self._link.fail(error)
            raise

    def _warn(self) -> None:
        """Once for each of the receiver's windows, and again only after the backlog was gone."""
        late = _lateness(self.age_s) if self._has_sink else 0
        if late > self._warned:
            log.warning("%s (%d wait)", _LATE[late][1], self.backlog.pending)
            self.late(self.backlog, *_LATE[late])
        if late > self._warned or not late:
            self._warned = late


def _lateness(age_s: int | None) -> int:
    """How many of the receiver's windows are about to run out."""
    return max(number for number, (begins_s, _) in enumerate(_LATE) if (age_s or 0) >= begins_s)
