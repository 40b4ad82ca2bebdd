"""Counters: what has been used of each limit in its window, by the ledger, and what requests in flight have reserved.

A counter is read from the ledger once, when it is first needed, and moved by each settlement as it is committed from
then on, this process's and others'. So it equals the ledger, also after a crash, and costs no query for each request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from proxy.limits import SECOND_MS, SLIDING_MS, Calendar, amount_of, counts
from proxy.model import TIMELESS, Counted, Settlement, Unit, Window
from proxy.store.board import Row
from proxy.store.spent import Seconds

#: When nothing is left that could be over.
_NEVER_MS = 2**62


class Bucket:
    """What arrived in one window; or, of one that slides, in one second."""

    __slots__ = ("counts", "reserved", "start_ms", "used")

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.used = 0
        self.reserved = 0
        self.counts = True  #: until its time is over: what is settled later belongs to no window any more


class Counter:
    """One counter. `used` and `reserved` are the sums of the buckets that count; `move` to now before reading them."""

    __slots__ = (
        *("_buckets", "_calendar", "adopted", "changes_ms", "counted", "elsewhere", "end_ms", "latest"),
        *("latest_until_ms", "loaded", "released", "reserved", "row", "start_ms", "sums", "used", "what"),
    )

    def __init__(self, counted: Counted, calendar: Calendar, now_ms: int) -> None:
        self.counted = counted
        self.sums = counted.unit not in TIMELESS  #: what is settled adds to it
        self.what = counted.unit, counted.kind  #: counters with the same add the same amount
        self._calendar = calendar
        self._buckets: deque[Bucket] = deque()
        self.used = 0
        self.reserved = 0
        #: What of `reserved` is other workers', when that was last looked at (`proxy.gateway.shares`).
        self.elsewhere = 0
        self.row: Row | None = None  #: where they show it
        self.start_ms, self.end_ms = calendar.bounds(counted.window, now_ms, counted.anchor_ms)
        #: When `move` has something to do again; before, it need not be called.
        self.changes_ms = _NEVER_MS if counted.window is Window.MINUTE else self.end_ms
        #: Where what arrives before `latest_until_ms` counts, which saves a call of `bucket`.
        self.latest: Bucket | None = None
        self.latest_until_ms = 0
        self.adopted = False  #: what was in flight before it is in it
        #: Done when what the ledger knows is in it.
        self.loaded: asyncio.Future[None] | None = None
        #: Done when something is given back that was reserved, if somebody waits for that.
        self.released: asyncio.Future[None] | None = None

    def move(self, now_ms: int) -> None:
        """The time is now: forget what is over. A clock that was set back changes nothing."""
        if self.counted.window is Window.MINUTE:
            while self._buckets and self._buckets[0].start_ms <= now_ms - SLIDING_MS:
                self._forget(self._buckets.popleft())
            self.changes_ms = self._buckets[0].start_ms + SLIDING_MS if self._buckets else _NEVER_MS
        elif now_ms >= self.end_ms:
            self.start_ms, self.end_ms = self._calendar.bounds(self.counted.window, now_ms, self.counted.anchor_ms)
            while self._buckets:
                self._forget(self._buckets.popleft())
            self.changes_ms = self.end_ms

    def bucket(self, time_ms: int) -> Bucket | None:
        """Where a request counts that arrived at this time; None where that is over."""
        if self.counted.window is not Window.MINUTE:
            if not self.start_ms <= time_ms < self.end_ms:
                return None
            if not self._buckets:
                self._put(0, Bucket(self.start_ms), self.end_ms)
            return self._buckets[0]
        second_ms = time_ms - time_ms % SECOND_MS
        at = len(self._buckets)
        while at and self._buckets[at - 1].start_ms >= second_ms:
            at -= 1
            if self._buckets[at].start_ms == second_ms:
                return self._buckets[at]
        self._put(at, Bucket(second_ms), second_ms + SECOND_MS)
        return self._buckets[at]

    def use(self, time_ms: int, amount: int) -> bool:
        """A request that arrived then was settled with this. Whether it counts."""
        bucket = self.latest
        if bucket is None or not bucket.start_ms <= time_ms < self.latest_until_ms:
            bucket = self.bucket(time_ms)
        if bucket is None:
            return False
        bucket.used += amount
        self.used += amount
        return True

    def wake(self) -> None:
        """There may be more room for whoever waits."""
        released, self.released = self.released, None
        if released is not None:
            released.set_result(None)

    async def change(self, seconds: float) -> None:
        """Wait until something is given back, or for so long."""
        if self.released is None:
            self.released = asyncio.get_running_loop().create_future()
        await asyncio.wait([self.released], timeout=seconds)

    def free_at_ms(self, needed: int, value: int, now_ms: int) -> int:
        """When there is room for so much, by what has been used; the end of the window where it does not slide."""
        if self.counted.window is not Window.MINUTE:
            return self.end_ms
        excess = self.used + needed - value
        for bucket in self._buckets:
            if excess <= 0:
                break
            excess -= bucket.used
            now_ms = max(now_ms, bucket.start_ms + SLIDING_MS)
        return now_ms

    @property
    def last_ms(self) -> int:
        """The last second in which something arrived that counts."""
        return self._buckets[-1].start_ms if self._buckets else 0

    def _put(self, at: int, bucket: Bucket, until_ms: int) -> None:
        self._buckets.insert(at, bucket)
        if at == len(self._buckets) - 1:
            self.latest, self.latest_until_ms = bucket, until_ms
        if at == 0 and self.counted.window is Window.MINUTE:
            self.changes_ms = bucket.start_ms + SLIDING_MS

    def _forget(self, bucket: Bucket) -> None:
        bucket.counts = False
        if bucket is self.latest:
            self.latest, self.latest_until_ms = None, 0
        self.used -= bucket.used
        self.reserved -= bucket.reserved


#: `tenant` or `key`, and its id.
Owner = tuple[str, str]


class Spending(Protocol):
    """What the ledger knows (`proxy.store.commit.GroupCommit` with `proxy.store.spent`)."""

    def spent(self, counted: Sequence[Counted], calendar: Calendar, now_ms: int) -> asyncio.Future[list[Seconds]]:
        """What was used, of each. Nothing that is recorded later is in it. The future may raise `sqlite3.Error`."""


class Counters:
    """All counters that were needed, by what they count and by whose they are."""

    def __init__(self, spending: Spending, calendar: Calendar, now_ms: int) -> None:
        self._spending = spending
        self._calendar = calendar
        self._all: dict[Counted, Counter] = {}
        self._of: dict[Owner, list[Counter]] = {}
        # Whose requests have been seen here, or were settled elsewhere.
        self._owners: set[Owner] = set()
        # Since when all that was recorded has passed here.
        self._knows_since_ms = now_ms
        #: What time it is (unix ms): no window begins before that, whatever was recorded.
        self.clock: Callable[[], int] = lambda: now_ms

    def __len__(self) -> int:
        return len(self._all)

    async def open(self, wanted: Iterable[Counted], owners: Iterable[Owner], now_ms: int) -> list[Counter]:
        """The counters, read from the ledger where they are new. Raises `sqlite3.Error`.

        `owners` is whose requests they are about to count, or any that are not limited.
        """
        counters = [self._all.get(counted) or self._add(counted, now_ms) for counted in wanted]
        new = [counter for counter in counters if counter.loaded is None]
        if now_ms - self._knows_since_ms > SLIDING_MS:
            # Nothing of these has passed here in this minute: it need not be searched for, which takes long.
            for counter in [one for one in new if one.counted.window is Window.MINUTE and self._is_new(one.counted)]:
                counter.loaded = asyncio.get_running_loop().create_future()
                counter.loaded.set_result(None)
            new = [counter for counter in new if counter.loaded is None]
        self._owners.update(owners)
        if new:
            self._load(new, now_ms)
        for counter in counters:
            assert counter.loaded is not None
            await asyncio.shield(counter.loaded)
        return counters

    def settled(self, one: Settlement, changed: list[tuple[Counter, int]] | None = None) -> None:
        """It is in the ledger now. To be called in the order of the commits. `changed` gets the counters that count it,
        and how much it is there.
        """
        time_ms = one.time_ms
        amounts: dict[tuple[Unit, str], int] = {}  # many limits count the same
        for owner in (("tenant", one.subject), ("key", one.key_id)):
            of = self._of.get(owner)
            if of is None:
                self._owners.add(owner)
                continue
            for counter in of:
                if not counter.sums or counter.loaded is None or not counter.loaded.done():
                    continue
                counted = counter.counted
                if counted.model and not counts(counted, one.model):
                    continue
                if time_ms >= counter.changes_ms:  # nothing was asked of it since its window was over
                    counter.move(min(time_ms, self.clock()))
                what = counter.what
                amount = amounts.get(what)
                if amount is None:
                    amount = amounts[what] = amount_of(counted, one.usage, one.cost.pico_usd)
                if counter.use(time_ms, amount) and changed is not None:
                    changed.append((counter, amount))

    def settled_elsewhere(self, found: Sequence[Settlement]) -> None:
        """The same, for what other processes have recorded."""
        for one in found:
            self.settled(one)

    def forget(self, now_ms: int) -> None:
        """What is needed is read again."""
        self._knows_since_ms = now_ms
        self._all.clear()
        self._of.clear()
        self._owners.clear()

    def _is_new(self, counted: Counted) -> bool:
        return (counted.scope, counted.owner) not in self._owners

    def _add(self, counted: Counted, now_ms: int) -> Counter:
        counter = self._all[counted] = Counter(counted, self._calendar, now_ms)
        self._of.setdefault((counted.scope, counted.owner), []).append(counter)
        return counter

    def _load(self, counters: list[Counter], now_ms: int) -> None:
        """One question for all. Its answer comes between those commits that are in it and those that are not."""
        loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for counter in counters:
            counter.loaded = loaded

        def done(answer: asyncio.Future[list[Seconds]]) -> None:
            error = asyncio.CancelledError() if answer.cancelled() else answer.exception()
            if error is not None:
                for counter in counters:
                    self._drop(counter)
                loaded.set_exception(error)
                loaded.exception()  # whoever waits sees it; if nobody does any more, it is nobody's
                return
            for counter, seconds in zip(counters, answer.result(), strict=True):
                for start_ms, amount in seconds:
                    counter.use(start_ms, amount)
            loaded.set_result(None)

        self._spending.spent([counter.counted for counter in counters], self._calendar, now_ms).add_done_callback(done)

    def _drop(self, counter: Counter) -> None:
        self._all.pop(counter.counted, None)
        of = self._of.get((counter.counted.scope, counter.counted.owner), [])
        if counter in of:
            of.remove(counter)
