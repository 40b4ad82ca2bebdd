"""The lookout: one task that sees what webhooks are to tell, and notes it in the ledger. It sends nothing itself.

What is told of limits it reads out of the ledger (`proxy.webhooks.thresholds`), so that a request does no more for it
than to wake it up. Of several servers with one ledger, the one that sends webhooks also looks.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Protocol

from proxy.limits import Calendar
from proxy.model import Caller, Counted, Limit, Notification
from proxy.sections import WebhookSettings
from proxy.store import notifications
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.notifications import Counts
from proxy.store.outbox import Backlog
from proxy.store.reader import Reader
from proxy.store.tenants import keys_expiring
from proxy.webhooks.messages import backlog_late, key_expiring
from proxy.webhooks.thresholds import Found, Refused, Thresholds

log = logging.getLogger(__name__)

#: The least time between two looks: what is settled meanwhile is looked at together.
GATHER_S = 0.5
#: How often it looks without being woken up: another process may have recorded something.
POLL_S = 2.0
#: How often keys are looked through.
KEYS_EVERY_MS = 3_600_000
#: Settlements that may have been looked at without that being noted: so many are looked at again after a crash.
_UNNOTED_MAX = 1_000
#: Refusals that are remembered, so that a client that goes on asking costs nothing.
_REFUSALS_MAX = 10_000
_DAY_MS = 86_400_000


class Leader(Protocol):
    """The relay that sends the webhooks."""

    @property
    def leads(self) -> bool:
        """Whether it is this server's task to send, and to look."""
        ...

    def wake(self) -> None:
        """Something was noted."""
        ...


class Lookout:
    """Owns the task and its reader. `start` and `stop` may be called in any order, and more than once."""

    def __init__(
        self,
        database: Database,
        commit: GroupCommit,
        leader: Leader,
        settings: WebhookSettings,
        calendar: Calendar,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        gather_s: float = GATHER_S,
    ) -> None:
        self._database = database
        self._commit = commit
        self._leader = leader
        self._expiry_ms = settings.key_expiry_days * _DAY_MS
        self._now_ms = now_ms
        self._gather_s = gather_s
        self._thresholds = Thresholds(calendar, settings.thresholds)
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble = ""
        self._noted_seq = 0
        self._keys_looked_ms = -KEYS_EVERY_MS
        self._refused: dict[tuple[Counted, int], Refused] = {}
        # Until when each of these refusals is the same thing.
        self._refusals: dict[tuple[Counted, int], int] = {}
        self._late: list[Notification] = []
        #: How webhooks stood at the last look.
        self.counts = Counts(0, 0)

    def start(self) -> None:
        if self._task is None:
            self._woken = asyncio.Event()
            self._woken.set()  # there may be something from before
            self._stopping = asyncio.Event()
            self._reader = Reader(self._database)
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-lookout")

    async def stop(self) -> None:
        """Look once more, then end."""
        task, self._task = self._task, None
        if task is not None:
            self._stopping.set()
            await asyncio.wait([task])
            await self._reader.stop()

    # What happens, told in the event loop's thread

    def wake(self) -> None:
        """Something was settled. Cheap."""
        self._woken.set()

    def refused(self, caller: Caller, limit: Limit, until_ms: int) -> None:
        """A request was refused for what is used of a limit, in a window that ends then. Cheap when repeated."""
        now_ms = self._now_ms()
        one = limit.counted, limit.value
        if self._refusals.get(one, 0) > now_ms:
            return
        if len(self._refusals) >= _REFUSALS_MAX:
            self._refusals.clear()
        self._refusals[one] = until_ms
        self._refused[one] = Refused((caller.subject, caller.key_id), limit, now_ms)
        self._woken.set()

    def backlog_late(self, backlog: Backlog, late_s: int, words: str) -> None:
        """Events have waited for the sink for over `late_s`."""
        if backlog.oldest_ms is not None:
            self._late.append(backlog_late(backlog.pending, backlog.oldest_ms, late_s, words, self._now_ms()))
            self._woken.set()

    # The task

    async def _run(self) -> None:
        is_last = False
        while not is_last:
            await self._rest(self._gather_s)
            await self._rest(POLL_S, until_woken=True)
            is_last = self._stopping.is_set()
            self._woken.clear()
            await self._safe_look()

    async def _safe_look(self) -> None:
        try:
            await self._look()
            self._trouble = ""
        except (sqlite3.Error, OSError) as error:
            self._thresholds.forget()
            if self._trouble != (trouble := str(error)):
                log.warning("what webhooks are to tell is noted later, the ledger fails: %s", error)
            self._trouble = trouble
        except Exception:  # the edge of the task
            self._thresholds.forget()
            log.exception("the look for what webhooks are to tell failed unexpectedly, and is taken again")

    async def _look(self) -> None:
        """What is not noted is kept, or found again. Raises `sqlite3.Error`."""
        leads, now_ms = self._leader.leads, self._now_ms()
        if not leads:
            self._thresholds.forget()
        refused, late = dict(self._refused), list(self._late)
        # Also after the clock was set back.
        keys_are_due = leads and self._expiry_ms > 0 and abs(now_ms - self._keys_looked_ms) >= KEYS_EVERY_MS

        def look(connection: sqlite3.Connection) -> tuple[Found, list[Notification], Counts]:
            found = self._thresholds.look(connection, refused.values(), now_ms, settled=leads)
            keys = keys_expiring(connection, now_ms, now_ms + self._expiry_ms) if keys_are_due else []
            return found, [key_expiring(key, now_ms) for key in keys], notifications.counts(connection)

        found, keys, self.counts = await self._reader.read(look)
        await self._note([*late, *keys, *found.notifications], found.seq)
        del self._late[: len(late)]
        for one, refusal in refused.items():
            if self._refused[one] is refusal:  # and not another that came meanwhile
                del self._refused[one]
        if keys_are_due:
            self._keys_looked_ms = now_ms

    async def _note(self, new: list[Notification], seq: int | None) -> None:
        """How far it has looked is noted with what there is to tell, and else now and then."""
        behind = 0 if seq is None else seq - self._noted_seq
        if not new and (not behind or (behind < _UNNOTED_MAX and not self._stopping.is_set())):
            return
        added = await self._commit.run(lambda connection: notifications.note(connection, new, seq))
        self._noted_seq = self._noted_seq if seq is None else seq
        if added:
            self._leader.wake()

    async def _rest(self, seconds: float, *, until_woken: bool = False) -> None:
        """Wait, until the time is over, or it is to end, or (if that is asked for) something happens."""
        waits = [asyncio.ensure_future(self._stopping.wait())]
        if until_woken:
            waits.append(asyncio.ensure_future(self._woken.wait()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
