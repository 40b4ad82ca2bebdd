"""The relay: one task that carries events from the outbox to the sink, oldest first, at least once.

A batch that the sink took is marked accepted; one whose outcome is unknown goes again with the same ids, which
receivers drop repeats by; one that is refused is halved until the culprit stands alone and becomes a dead letter.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from proxy.delivery.backoff import Backoff
from proxy.delivery.cloudevents import events_of
from proxy.delivery.sinks import Sink
from proxy.errors import SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.model import Settlement
from proxy.settings import SinkSettings

log = logging.getLogger(__name__)

#: How often the outbox is looked at without a wake: another process may have written to it.
POLL_S = 2.0
#: The wait after the store failed.
STORE_WAIT_S = 1.0

Sleep = Callable[[float], Awaitable[None]]


class Outbox(Protocol):
    """What the relay needs of the store (`proxy.store.outbox.Outbox`). Every method may raise `sqlite3.Error`."""

    async def pending(self, limit: int) -> list[Settlement]:
        """The oldest pending events, in an order that does not change."""
        ...

    async def accept(self, ids: Sequence[str]) -> None: ...

    async def refuse(self, event_id: str, words: str) -> None: ...

    async def note_failure(self, ids: Sequence[str], words: str) -> None: ...


class Relay:
    """Owns the task; outbox and sink stay the caller's to close, after `stop`."""

    def __init__(
        self,
        outbox: Outbox,
        sink: Sink,
        settings: SinkSettings,
        *,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._settings = settings
        self._sleep = sleep
        self._backoff = Backoff(settings.retry_max_s, random)
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._deadline_s = 0.0
        # While a refused batch is searched for its culprit: the sizes of its parts, the next one last. Kept across
        # failures, or a receiver that fails now and then would have the search begin again for ever.
        self._parts: list[int] = []
        # What the sink took and the store could not mark yet.
        self._taken: list[str] = []
        #: Why delivery is paused or failing; empty while all is well. Nothing that a receiver said is in it.
        self.trouble = ""

    def start(self) -> None:
        """Begin to deliver, what is pending first. A relay that runs is left alone."""
        if self._task is None:
            self._woken = asyncio.Event()
            self._stopping = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-relay")

    async def stop(self, deadline_s: float) -> None:
        """Try to deliver what is pending, failures included, for `deadline_s` at most; then end.

        What is left stays pending, for the next start. Before `start`, or again, this does nothing.
        """
        task = self._task
        if task is None:
            return
        self._deadline_s = deadline_s
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
        while True:
            try:
                if await self._turn():
                    return
            except sqlite3.Error as error:
                self._note_store(error)
                await self._rest(STORE_WAIT_S)
            except Exception as error:  # the edge of the task: delivery must not end
                self.trouble = f"delivery failed unexpectedly: {type(error).__name__}"
                log.exception("delivery failed unexpectedly and is tried again")
                await self._rest(self._backoff.next_s())

    async def _turn(self) -> bool:
        """One look at the outbox and one batch. Returns whether the relay is to end. Raises `sqlite3.Error`."""
        await self._mark_taken()
        self._woken.clear()  # before the look: a commit during it wakes again
        batch = await self._gather()
        if not batch:
            self._parts.clear()
            self._clear()
            if self._stopping.is_set():
                return True
            await self._rest(POLL_S, self._woken)
            return False
        ids = [settlement.id for settlement in batch]
        try:
            await self._deliver(batch)
        except SinkUnavailable as error:
            wait_s = self._backoff.next_s(error.retry_after_s)
            reason = _own_words(error.words)
            if not self.trouble:
                log.warning("the sink takes no events, they wait on disk and are sent again: %s", reason)
            self.trouble = f"the sink takes no events: {reason}"
            await self._note(ids, error.words)
            if self._stopping.is_set() and wait_s >= self._deadline_s:
                return True
            await self._rest(wait_s)
        except SinkMisconfigured as error:
            self._note_paused(_own_words(error.words))
            await self._note(ids, error.words)
            if self._stopping.is_set():
                return True  # useless until someone mends it
            await self._rest(self._settings.pause_s)
        except SinkRefused as error:
            await self._divide(ids, error.words)
        else:
            # The sink has the batch and the outbox does not know yet: after a crash here it goes again, with the same
            # ids. An accept that fails is only repeated itself: not every receiver drops repeats (OpenMeter's
            # default does not).
            self._taken = ids
            self._done_part()
            await self._mark_taken()
        return False

    async def _deliver(self, batch: Sequence[Settlement]) -> None:
        source, profile = self._settings.source, self._settings.profile
        events = [event for settlement in batch for event in events_of(settlement, source, profile)]
        if events:  # a request that used nothing has no event in a profile of one event for each token kind
            await self._sink.deliver(events)

    async def _gather(self) -> list[Settlement]:
        """The next batch. A small one waits a moment for more, unless it is a repeat or the relay stops."""
        size = self._parts[-1] if self._parts else self._settings.batch_max
        batch = await self._outbox.pending(size)
        if 0 < len(batch) < size and not (self._parts or self.trouble or self._stopping.is_set()):
            await self._rest(self._settings.linger_s)
            batch = await self._outbox.pending(size)
        return batch

    async def _mark_taken(self) -> None:
        if self._taken:
            await self._outbox.accept(self._taken)
            self._taken = []
            self._clear()

    async def _divide(self, ids: list[str], words: str) -> None:
        """Something in the batch is refused for good: send it in halves, or bury it if it stands alone."""
        if len(ids) == 1:
            await self._outbox.refuse(ids[0], words)
            log.warning("event %s is refused for good, it is a dead letter now: %s", ids[0], _own_words(words))
            self._clear()
            self._done_part()
            return
        if self._parts:
            self._parts.pop()
        half = len(ids) // 2
        self._parts += (len(ids) - half, half)

    def _done_part(self) -> None:
        if self._parts:
            self._parts.pop()

    def _clear(self) -> None:
        """The sink gave an answer that settles something, or nothing waits for one."""
        self._backoff.reset()
        if self.trouble:
            log.info("delivery works again")
            self.trouble = ""

    async def _note(self, ids: Sequence[str], words: str) -> None:
        # A store that fails must not cut the wait short which the caller is about to make.
        try:
            await self._outbox.note_failure(ids, words)
        except sqlite3.Error as error:
            log.warning("a failed delivery could not be noted: %s", error)

    def _note_paused(self, reason: str) -> None:
        trouble = f"delivery is paused: {reason}"
        if trouble != self.trouble:
            log.error("delivery is paused until someone mends this, events wait on disk: %s", reason)
        self.trouble = trouble

    def _note_store(self, error: sqlite3.Error) -> None:
        trouble = f"the outbox cannot be read or written: {error}"
        if trouble != self.trouble:
            log.error("delivery waits, %s", trouble)
        self.trouble = trouble

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
