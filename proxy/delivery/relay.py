"""The relay: one task that carries events from the outbox to the sink, oldest first, at least once.

A batch that the sink took is marked accepted; one whose outcome is unknown goes again with the same ids, which
receivers drop repeats by; one that cannot be taken is searched for the events at fault (`proxy.delivery.search`). Of
several servers with one ledger, one relay delivers: the one that has the lease. Webhooks go the same way, each with a
relay of its own to the receiver of webhooks.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from proxy.delivery.backoff import Backoff
from proxy.delivery.search import Search, T
from proxy.errors import SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.store.lease import Lease

log = logging.getLogger(__name__)

#: How often the outbox is looked at without a wake: another process may have written to it.
POLL_S = 2.0
#: How often a relay that stands by looks whether the one that delivers is gone.
STAND_BY_S = 2.0
#: How often one looks at its end, where it has patience.
_PATIENT_S = 0.05
#: The wait after the store failed.
STORE_WAIT_S = 1.0

Sleep = Callable[[float], Awaitable[None]]
C = TypeVar("C", contravariant=True)


class Outbox(Protocol[T]):
    """What the relay needs of the store (`proxy.store.outbox.Outbox`). Every method may raise `sqlite3.Error`."""

    async def pending(self, limit: int, *, newest: bool = False) -> list[T]:
        """The oldest pending events, in an order that does not change; or the newest, the newest first."""
        ...

    async def accept(self, ids: Sequence[str]) -> None: ...

    async def refuse(self, one_id: str, words: str) -> None: ...

    async def note_failure(self, ids: Sequence[str], words: str) -> None: ...


class Courier(Protocol[C]):
    """Takes what waits to where it goes: events to the sink, webhooks to their receiver."""

    async def deliver(self, batch: Sequence[C]) -> None:
        """Returns when all of it was accepted. Raises as `proxy.delivery.sinks.Sink.deliver`."""
        ...


class Pace(Protocol):
    """How much goes at once, and how long to wait between (`proxy.sections.SinkSettings`)."""

    @property
    def batch_max(self) -> int: ...

    @property
    def linger_s(self) -> float: ...

    @property
    def retry_max_s(self) -> float: ...

    @property
    def pause_s(self) -> float: ...


class Relay(Generic[T]):
    """Owns the task and the lease; outbox and courier stay the caller's to close, after `stop`."""

    def __init__(
        self,
        outbox: Outbox[T],
        courier: Courier[T],
        pace: Pace,
        lease: Lease,
        *,
        what: str = "event",
        receiver: str = "the sink",
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`what` goes to which `receiver`, in words for the log. `now_s` is of a clock that nobody sets."""
        self._outbox = outbox
        self._courier = courier
        self._pace = pace
        self._lease = lease
        self._what = what
        self._receiver = receiver
        self._sleep = sleep
        self._now_s = now_s
        self._backoff = Backoff(pace.retry_max_s, random)
        self._search = self._new_search()
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._deadline_s = 0.0
        self._stopped_ms = 0
        self._stopped_s = 0.0
        #: Where another relay has the lease at the end, how long to wait for that while something is pending.
        self.patience_s = 0.0
        self._trouble = ""
        # What the sink took and the store could not mark yet.
        self._taken: list[str] = []
        #: Whether this relay is the one that delivers.
        self.leads = False
        #: How many the receiver took, how many it refused for good, and calls that it answered with neither.
        self.accepted = 0
        self.refused = 0
        self.failures = 0

    @property
    def trouble(self) -> str:
        """Why delivery is paused or failing; empty while all is well. Nothing that a receiver said is in it."""
        if self._trouble or not (failing := self._search.failing):
            return self._trouble
        return f"{self._receiver} fails at {failing} {self._what}s, while it takes others"

    def start(self) -> None:
        """Begin to deliver, what is pending first. A relay that runs is left alone."""
        if self._task is None:
            self._woken = asyncio.Event()
            self._stopping = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"tollgate-relay-{self._what}s")

    async def stop(self, deadline_s: float) -> None:
        """Try to deliver what is pending, failures included, for `deadline_s` at most; then end.

        What is left stays pending, for the next start, or for the relay that takes the lease next. Before `start`, or
        again, this does nothing.
        """
        task = self._task
        if task is None:
            return
        self._deadline_s = deadline_s
        self._stopped_ms = time.time_ns() // 1_000_000
        self._stopped_s = self._now_s()
        self._backoff.reset()  # the tries that are left are not to be slept away
        self._stopping.set()
        try:
            await asyncio.wait({task}, timeout=deadline_s)
        finally:
            task.cancel()
            await asyncio.wait({task})
            if self._task is task:
                self._task = None

    def wake(self) -> None:
        """Events were committed. Cheap; to be called in the event loop's thread."""
        self._woken.set()

    # The task

    async def _run(self) -> None:
        try:
            while not await self._safe_turn():
                pass
        finally:
            self._lease.release()
            self.leads = False

    async def _safe_turn(self) -> bool:
        try:
            return await self._turn()
        except sqlite3.Error as error:
            self._note_store(error)
            await self._rest(STORE_WAIT_S)
        except Exception as error:  # the edge of the task: delivery must not end
            self._trouble = f"delivery failed unexpectedly: {type(error).__name__}"
            log.exception("delivery of %ss failed unexpectedly and is tried again", self._what)
            await self._rest(self._backoff.next_s())
        return False

    async def _turn(self) -> bool:
        """One look at the outbox and one batch. Returns whether the relay is to end. Raises `sqlite3.Error`."""
        await self._mark_taken()
        if not self._lease.acquire():
            return await self._stand_by()
        self._lead()
        self._woken.clear()  # before the look: a commit during it wakes again
        batch = await self._gather()
        if not batch:
            return await self._idle()
        if self._stopping.is_set() and all(one.time_ms > self._stopped_ms for one in batch):
            return True  # another server with this ledger serves on, and its relay takes over
        try:
            await self._courier.deliver(batch)
        except SinkUnavailable as error:
            return await self._wait_for_sink(batch, error)
        except SinkMisconfigured as error:
            return await self._wait_for_someone(batch, error.words)
        except SinkRefused as error:
            return await self._divide(batch, error.words)
        # The sink has the batch and the outbox does not know yet: after a crash here it goes again, with the same
        # ids. An accept that fails is only repeated itself: not every receiver drops repeats (OpenMeter's default
        # does not).
        self._taken = [one.id for one in batch]
        self.accepted += len(batch)
        condemned = self._search.accepted(batch)
        await self._mark_taken()
        if condemned is not None:
            await self._bury(condemned.settlement, condemned.words)
            self._search.condemned(condemned)
        return False

    def _lead(self) -> None:
        if not self.leads:
            self.leads = True
            self._search = self._new_search()  # what was set aside may be settled meanwhile

    async def _stand_by(self) -> bool:
        """Another relay delivers; at the end it may be about to end as well, and leave something (`patience_s`)."""
        self.leads = False
        self._trouble = ""
        if not self._stopping.is_set():
            await self._rest(STAND_BY_S)
            return self._stopping.is_set() and not self.patience_s
        if self._now_s() - self._stopped_s >= self.patience_s or not await self._outbox.pending(1):
            return True
        await self._rest(_PATIENT_S)
        return False

    async def _idle(self) -> bool:
        """Nothing is pending, apart from what is set aside."""
        self._search.nothing_waits()
        if not self._search.aside:
            self._clear()
        if self._stopping.is_set():
            return True
        await self._rest(POLL_S, self._woken)
        return False

    async def _gather(self) -> list[T]:
        """The next batch. A small one waits a moment for more, unless it is a repeat or the relay stops."""
        if (suspect := self._search.due()) is not None:
            return [suspect]
        if self._search.is_probing:
            return await self._outbox.pending(1, newest=True)
        batch = await self._oldest()
        hurries = self._search.is_on or self._trouble or self._stopping.is_set()
        if 0 < len(batch) < self._search.size and not hurries:
            await self._rest(self._pace.linger_s)
            batch = await self._oldest()
        return batch

    async def _oldest(self) -> list[T]:
        return self._search.without_suspects(await self._outbox.pending(self._search.size + self._search.aside))

    async def _mark_taken(self) -> None:
        if self._taken:
            await self._outbox.accept(self._taken)
            self._taken = []
            self._clear()

    async def _wait_for_sink(self, batch: Sequence[T], error: SinkUnavailable) -> bool:
        """Whether the sink has the batch is unknown: it goes again, with the same ids."""
        self.failures += 1
        await self._note(batch, error.words)
        goes_on = False
        if error.failed:
            goes_on = self._search.failed(batch, error.words)
        else:
            self._search.put_off(batch)
        if goes_on and error.retry_after_s is None:
            return False
        reason = _own_words(error.words)
        trouble = f"{self._receiver} takes no {self._what}s"
        if not self._trouble:
            log.warning("%s, they wait on disk and are sent again: %s", trouble, reason)
        self._trouble = f"{trouble}: {reason}"
        wait_s = self._backoff.next_s(error.retry_after_s)
        if self._stopping.is_set() and wait_s >= self._deadline_s:
            return True
        await self._rest(wait_s)
        return False

    async def _wait_for_someone(self, batch: Sequence[T], words: str) -> bool:
        """The sink takes nothing until someone mends the settings."""
        self.failures += 1
        await self._note(batch, words)
        self._search.unavailable(batch)
        return await self._pause(_own_words(words))

    async def _divide(self, batch: Sequence[T], words: str) -> bool:
        """Something in the batch is refused for good: send it in halves, or bury it if it stands alone."""
        if not self._search.refused(batch):
            return False
        was_probe = self._search.is_probing
        await self._bury(batch[0], words)
        self._search.buried(batch[0])
        if was_probe:
            return await self._pause(f"{self._receiver} refuses one {self._what} after the other ({_own_words(words)})")
        self._clear()
        return False

    async def _bury(self, one: T, words: str) -> None:
        await self._outbox.refuse(one.id, words)
        self.refused += 1
        log.warning("%s %s is a dead letter now: %s", self._what, one.id, _own_words(words))

    async def _pause(self, reason: str) -> bool:
        """One try each `pause_s`, whatever is committed meanwhile. Returns whether the relay is to end."""
        trouble = f"delivery is paused: {reason}"
        if trouble != self._trouble:
            log.error("delivery is paused until someone mends this, %ss wait on disk: %s", self._what, reason)
        self._trouble = trouble
        if not self._stopping.is_set():
            await self._rest(self._pace.pause_s)
            return False
        return True

    def _clear(self) -> None:
        """The sink gave an answer that settles something, or nothing waits for one."""
        self._backoff.reset()
        if self._trouble:
            log.info("delivery of %ss works again", self._what)
            self._trouble = ""

    async def _note(self, batch: Sequence[T], words: str) -> None:
        # A store that fails must not cut the wait short which the caller is about to make.
        try:
            await self._outbox.note_failure([one.id for one in batch], words)
        except sqlite3.Error as error:
            log.warning("a failed delivery could not be noted: %s", error)

    def _note_store(self, error: sqlite3.Error) -> None:
        trouble = f"the outbox cannot be read or written: {error}"
        if trouble != self._trouble:
            log.error("delivery waits, %s", trouble)
        self._trouble = trouble

    def _new_search(self) -> Search[T]:
        return Search(self._pace.batch_max, self._pace.retry_max_s, self._now_s)

    async def _rest(self, seconds: float, signal: asyncio.Event | None = None) -> None:
        """Wait, until the time is over, the signal is set, or `stop` is called (a wait that begins later is whole)."""
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._sleep(seconds))]
        if signal is not None:
            waits.append(asyncio.ensure_future(signal.wait()))
        if not self._stopping.is_set():
            waits.append(asyncio.ensure_future(self._stopping.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _own_words(words: str) -> str:
    """The line that is the sink's own. What a receiver said may echo an event, and never goes to a log."""
    return words.partition("\n")[0]
