"""The reconciliation: ledger and engine walked side by side in the order of time, a second of both in memory.

A 2xx says that one process of the engine took an event, not that it was stored: this is what finds out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from proxy.billing import stored
from proxy.billing.comparison import (
    Absent,
    Compared,
    Finding,
    Kind,
    Tally,
    Terms,
    compare,
    finding_of,
    request_of,
)
from proxy.billing.meters import HOUR_S, Difference, Meter, Sums, meters_of
from proxy.billing.openmeter import OpenMeter
from proxy.billing.stored import Stored
from proxy.delivery.cloudevents import events_of
from proxy.model import EventState, Outcome, Settlement, Usage, UsageSource
from proxy.store.audit import Recorded

#: Requests whose events are asked for by their ids at once.
ASKED_MAX = 50

_SECOND_MS = 1000


class Ledger(Protocol):
    """What is needed of the store. Every method may raise `sqlite3.Error`."""

    def between(self, from_ms: int, to_ms: int) -> Iterable[Recorded]:
        """Settlements in the order of arrival."""
        ...

    def recorded(self, request_id: str) -> Recorded | None: ...


@dataclass(frozen=True, slots=True)
class Missing:
    """Events of one request that are not there. `proven` where the engine has stored something delivered since."""

    absent: Absent
    proven: bool


#: Does something about what is missing (`proxy.billing.repair`).
Repair = Callable[[Sequence[Missing]], Awaitable[None]]


class Reconciliation:
    """One run. `findings` is walked once; `tally` and the rest are complete after it."""

    def __init__(
        self,
        ledger: Ledger,
        engine: OpenMeter,
        terms: Terms,
        from_s: int,
        to_s: int,
        *,
        repair: Repair | None = None,
    ) -> None:
        """The period is `[from_s, to_s)` in unix seconds of event time."""
        self._ledger = ledger
        self._engine = engine
        self._terms = terms
        self._from_s = from_s
        self._to_s = to_s
        self._repair = repair
        self._newest_ms = 0
        self._asked: list[Absent] = []
        self._sums = Sums([])
        self.tally = Tally()
        #: Missing events that the engine may just not have come to yet: it has stored nothing delivered since.
        self.unproven = 0
        #: Hours whose sums were compared, and those that could not be yet.
        self.hours_compared = 0
        self.hours_open = 0

    @property
    def meters(self) -> list[Meter]:
        """The meters whose sums are compared."""
        return self._sums.meters

    async def findings(self) -> AsyncIterator[Finding | Difference]:
        """Everything that is wrong, as it is found. May raise `EngineError` and `sqlite3.Error`."""
        source = self._terms.source
        self._newest_ms = await stored.newest_ms(self._engine, source)
        self._sums = Sums(await meters_of(self._engine, _example(source, self._terms.profile)))
        hour_s = -1
        async for second, ours, theirs in self._seconds():
            if second // HOUR_S * HOUR_S != hour_s:
                async for one in self._end_hour(hour_s):
                    yield one
                hour_s = second // HOUR_S * HOUR_S
                self._sums.begin(hour_s)
            compared = compare(self._terms, ours, theirs, self.tally)
            for finding in self._settle(compared, ours):
                yield self._count(finding)
            if len(self._asked) >= ASKED_MAX:
                async for finding in self._ask():
                    yield finding
        async for one in self._end_hour(hour_s):
            yield one

    async def _seconds(self) -> AsyncIterator[tuple[int, list[Recorded], list[Stored]]]:
        """Both sides, second by second. The order within a second says nothing: the engine has none of its own."""
        theirs = self._listed()
        following = await anext(theirs, None)
        walk = self._ledger.between(self._from_s * _SECOND_MS, self._to_s * _SECOND_MS)
        for second, ours in groupby(walk, key=lambda one: one.settlement.time_ms // _SECOND_MS):
            while following is not None and following[0] < second:
                yield following[0], [], following[1]
                following = await anext(theirs, None)
            if following is not None and following[0] == second:
                yield second, [*ours], following[1]
                following = await anext(theirs, None)
            else:
                yield second, [*ours], []
        while following is not None:
            yield following[0], [], following[1]
            following = await anext(theirs, None)

    async def _listed(self) -> AsyncIterator[tuple[int, list[Stored]]]:
        together: list[Stored] = []
        async with aclosing(stored.since(self._engine, self._terms.source, self._from_s)) as rows:
            async for row in rows:
                if together and row.time_s != together[0].time_s:
                    yield together[0].time_s, together
                    together = []
                if row.time_s >= self._to_s:
                    return
                together.append(row)
        if together:
            yield together[0].time_s, together

    def _settle(self, compared: Compared, ours: Sequence[Recorded]) -> Iterator[Finding]:
        """What can be said of one second at once; the absent are kept to be asked for."""
        for event in compared.counted:
            self._sums.add(event)
        if compared.unsure:
            self._sums.spoil()
        yield from compared.findings
        reshaped = set()
        here = {one.settlement.id for one in ours}
        for row in compared.strangers:
            if request_of(row.id) in here:
                reshaped.add(request_of(row.id))
                yield _finding(
                    Kind.DIFFERENT, row, f"type {row.type!r}: sent in another profile than the one that is set"
                )
            else:
                yield from self._stranger(row)
        self._asked += (one for one in compared.absent if one.recorded.settlement.id not in reshaped)

    def _stranger(self, row: Stored) -> Iterator[Finding]:
        """An event that is not in the ledger at its second: perhaps at another, or by now, or never."""
        one = self._ledger.recorded(request_of(row.id))
        if one is None:
            yield _finding(Kind.UNKNOWN, row, "not in the ledger")
        elif one.settlement.time_ms // _SECOND_MS != row.time_s:
            yield _finding(Kind.DIFFERENT, row, "the ledger has this id at another time")
        else:
            self._sums.spoil()  # settled while this ran

    async def _ask(self) -> AsyncIterator[Finding]:
        """Ask for what was not listed by its ids, and only then call it missing."""
        asked, self._asked = self._asked, []
        rows: dict[str, list[Stored]] = {}
        for row in await stored.with_ids(self._engine, [event["id"] for one in asked for event in one.events]):
            rows.setdefault(row.id, []).append(row)
        missing: list[Missing] = []
        for one in asked:
            time_ms = one.recorded.settlement.time_ms
            gone = []
            for event in one.events:
                there = rows.get(event["id"])
                if there is None:
                    gone.append(event)
                elif any(self._is(row, time_ms) for row in there):
                    self.tally.found[EventState.ACCEPTED] += 1  # it came meanwhile
                elif not any(self._walked(row) for row in there):
                    yield self._count(finding_of(Kind.DIFFERENT, event, time_ms, _elsewhere(there[0], self._terms)))
            if gone:
                whole = one.whole and len(gone) == len(one.events)
                proven = (one.recorded.delivered_ms or 0) < self._newest_ms
                missing.append(Missing(Absent(one.recorded, tuple(gone), whole), proven))
                for event in gone:
                    yield self._count(finding_of(Kind.MISSING, event, time_ms, _delivered(proven)))
                    self.unproven += not proven
        if missing and self._repair is not None:
            await self._repair(missing)

    async def _end_hour(self, hour_s: int) -> AsyncIterator[Finding | Difference]:
        async for finding in self._ask():
            yield finding
        if hour_s < 0 or not self.meters:
            return
        ends_s = hour_s + HOUR_S
        whole = self._from_s <= hour_s and ends_s <= self._to_s and ends_s * _SECOND_MS <= self._terms.visible_ms
        differences = await self._sums.differences(self._engine) if whole else None
        if differences is None:
            self.hours_open += 1
            return
        self.hours_compared += 1
        for difference in differences:
            yield difference

    def _is(self, row: Stored, time_ms: int) -> bool:
        return row.source == self._terms.source and row.time_s == time_ms // _SECOND_MS

    def _walked(self, row: Stored) -> bool:
        """Whether the walk comes by this row, and says what is wrong with it."""
        return row.source == self._terms.source and self._from_s <= row.time_s < self._to_s

    def _count(self, finding: Finding) -> Finding:
        self.tally.findings[finding.kind] += 1
        return finding


def _finding(kind: Kind, row: Stored, words: str) -> Finding:
    return Finding(kind, row.id, row.subject, row.type, row.time_s * _SECOND_MS, words)


def _elsewhere(row: Stored, terms: Terms) -> str:
    return "there at another time" if row.source == terms.source else f"there with the source {row.source!r}"


def _delivered(proven: bool) -> str:
    return "accepted, and not there" if proven else "accepted, and not there; nothing delivered since is there either"


def _example(source: str, profile: str) -> dict[str, object]:
    """An event as meters get it."""
    usage = Usage(uncached_input=1)
    settlement = Settlement(
        "req", "subject", "", 0, "", "", "", "", False, 200, Outcome.COMPLETED, usage, UsageSource.REPORTED, 0, 0
    )
    return events_of(settlement, source, profile)[0]
