"""Several workers on one ledger and one board, in one process: whatever the order of what they do, limits hold.

And when all have looked at each other, each of them knows exactly what is used and reserved.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import ProxyError
from proxy.gateway.call import Arrival, Call
from proxy.gateway.counters import Counters
from proxy.gateway.quotas import Quotas
from proxy.gateway.reservation import Reservation
from proxy.gateway.shares import Shares
from proxy.limits import SLIDING_MS, Calendar, Written, amount_of, counts
from proxy.model import TIMELESS, Caller, Counted, Limit, Settlement, Unit, Usage, Window
from proxy.store.board import Board, State
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, begin
from proxy.store.ledger import record
from proxy.store.others import last_row
from proxy.wire.output import Output
from tests.store.samples import TIME_MS, settlement

T = TypeVar("T")

WORKERS = 3
PLACES = 2 * WORKERS + 2
LIMITS = {
    "a": ("tokens/total=300", "tokens/minute=120", "inflight=4"),
    "b": ("tokens/hour=100", "requests/minute=5", "requests/total=40"),
}
OF_ONE_MODEL = ("tokens/total=90", "gpt-4o-mini*")
MODELS = ("gpt-4o", "gpt-4o-mini")
tokens = st.integers(1, 40)


@dataclass(slots=True)
class Live:
    """A request in flight, or one that a dead worker has left."""

    call: Call
    reservation: Reservation
    time_ms: int
    amount: int
    settled: bool = False


@dataclass(slots=True)
class Worker:
    place: int
    board: Board
    commit: GroupCommit
    shares: Shares
    quotas: Quotas
    live: list[Live] = field(default_factory=list)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.calendar = Calendar()
        self.now_ms = TIME_MS
        self.numbers = itertools.count()
        self.recorded: list[Settlement] = []
        self.database = Database(f"sqlite:///{self.folder.name}/tollgate.db")
        self.database.create()
        self.other = self.database.connect()
        self.board = Board.create(self.database.path, PLACES)
        self.callers = {tenant: self._caller(tenant) for tenant in LIMITS}
        self.workers = [self.do(self._begin()) for _ in range(WORKERS)]
        #: What the dead have left, by their places.
        self.orphans: dict[int, list[Live]] = {}

    def _caller(self, tenant: str) -> Caller:
        written = [(one, "") for one in LIMITS[tenant]] + [OF_ONE_MODEL]
        limits = tuple(
            Limit(Counted("tenant", tenant, one.unit, one.window, model), one.value, "tenant")
            for one, model in ((Written.parse(text), model) for text, model in written)
        )
        return Caller(f"key_{tenant}", tenant, True, frozenset(), False, None, limits=limits)

    async def _begin(self) -> Worker:
        place = next(place for place in range(PLACES) if self.board.state(place) is State.FREE)
        self.board.take(place)
        self.board.name(place, 1_000 + place)
        board = Board(self.board.path)
        commit = GroupCommit(self.database, look_s=60.0)
        shares = Shares(board, place)
        quotas = Quotas(
            Counters(commit, self.calendar, self.now_ms),
            output_tokens=7,
            wait_s=0.0,
            rate_wait_s=0.0,
            now_ms=lambda: self.now_ms,
            shares=shares,
        )
        commit.recorded_elsewhere = quotas.settled_elsewhere
        commit.reached = shares.reached
        commit.start()
        await commit.run(last_row)
        return Worker(place, board, commit, shares, quotas)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for worker in self.workers:
            self.do(worker.commit.stop())
            worker.board.close()
        self.board.close()
        self.other.close()
        self.loop.close()
        self.folder.cleanup()

    # The model

    def all_live(self) -> list[Live]:
        return [
            *(one for worker in self.workers for one in worker.live),
            *(one for left in self.orphans.values() for one in left),
        ]

    def is_in(self, counted: Counted, time_ms: int) -> bool:
        if counted.window is Window.MINUTE:
            return time_ms - time_ms % 1000 > self.now_ms - SLIDING_MS
        start_ms, end_ms = self.calendar.bounds(counted.window, self.now_ms, counted.anchor_ms)
        return start_ms <= time_ms < end_ms

    def used(self, counted: Counted) -> int:
        return sum(
            amount_of(counted, one.usage, 0)
            for one in self.recorded
            if counted.unit not in TIMELESS
            and one.subject == counted.owner
            and counts(counted, one.model)
            and self.is_in(counted, one.time_ms)
        )

    def reserved(self, counted: Counted) -> int:
        return sum(
            one.amount if counted.unit is Unit.TOKENS else 1
            for one in self.all_live()
            if one.call.caller.subject == counted.owner
            and counts(counted, one.call.model)
            and self.is_in(counted, one.time_ms)
            and not (one.settled and counted.unit is not Unit.INFLIGHT)
        )

    # What happens

    @rule(
        number=st.integers(0, WORKERS - 1), tenant=st.sampled_from([*LIMITS]), model=st.sampled_from(MODELS), n=tokens
    )
    def reserve(self, number: int, tenant: str, model: str, n: int) -> None:
        worker = self.workers[number]
        arrival = Arrival(f"req_{next(self.numbers)}", self.now_ms)
        call = Call(
            *(arrival, self.callers[tenant], "/v1/x", True, "POST", b"/x", [], b"{}"),
            model=model,
            input_tokens=0,
            output=Output(n),
        )
        try:
            reservation = self.do(worker.quotas.reserve(call))
        except ProxyError:
            return
        assert isinstance(reservation, Reservation)
        worker.live.append(Live(call, reservation, self.now_ms, n))

    @precondition(lambda self: any(worker.live for worker in self.workers))
    @rule(data=st.data(), share=st.floats(0, 1), stays=st.booleans(), answered=st.sampled_from(["", "gpt-4o-mini-x"]))
    def settle(self, data: st.DataObject, share: float, stays: bool, answered: str) -> None:
        """With at most what it has reserved; maybe by another model than it asked for."""
        worker, one = data.draw(st.sampled_from([(worker, one) for worker in self.workers for one in worker.live]))
        if not one.settled:
            model = answered if one.call.model == "gpt-4o-mini" and answered else one.call.model
            self.do(self._record(worker, self._settlement(one, round(one.amount * share), model)))
            one.settled = True
        if not stays:
            self.do(self._end(worker, one))

    async def _end(self, worker: Worker, one: Live) -> None:
        worker.quotas.release(one.call.arrival.id, one.reservation)
        worker.live.remove(one)

    async def _record(self, worker: Worker, one: Settlement) -> None:
        done = worker.commit.record(one)
        done.add_done_callback(lambda _: worker.quotas.settled(one))
        await done
        self.recorded.append(one)

    @precondition(lambda self: any(worker.live for worker in self.workers))
    @rule(data=st.data())
    def end_without_a_settlement(self, data: st.DataObject) -> None:
        worker, one = data.draw(st.sampled_from([(worker, one) for worker in self.workers for one in worker.live]))
        self.do(self._end(worker, one))

    @rule(number=st.integers(0, WORKERS - 1))
    def look_at_the_ledger(self, number: int) -> None:
        self.do(self._notice(self.workers[number]))

    async def _notice(self, worker: Worker) -> None:
        await worker.commit.run(lambda connection: None)
        await asyncio.sleep(0)

    @rule(number=st.integers(0, WORKERS - 1))
    def tick(self, number: int) -> None:
        self.do(self._tick(self.workers[number]))

    async def _tick(self, worker: Worker) -> None:
        worker.shares.tick(self.now_ms)

    @rule(number=st.integers(0, WORKERS - 1))
    def follow(self, number: int) -> None:
        self.do(self._follow(self.workers[number]))

    async def _follow(self, worker: Worker) -> None:
        async def limits(subject: str, _key_id: str) -> tuple[Limit, ...]:
            return self.callers[subject].limits

        worker.quotas.age()
        await worker.quotas.follow(limits)
        for place, _ in worker.shares.dead():
            if not self.orphans.get(place):
                worker.shares.bury(place, 1_000 + place, await worker.commit.run(last_row))

    @rule(number=st.integers(0, WORKERS - 1), settles=st.booleans())
    def die(self, number: int, settles: bool) -> None:
        """And maybe one settlement more is in the ledger by then than it knew of."""
        worker = self.workers[number]
        if settles and (left := [one for one in worker.live if not one.settled]):
            one = self._settlement(left[0], left[0].amount, left[0].call.model)
            with begin(self.other):
                record(self.other, [one])
            self.recorded.append(one)
            left[0].settled = True
        worker.commit.reached = None
        worker.commit.recorded_elsewhere = lambda found: None
        self.do(worker.commit.stop())
        worker.board.close()
        self.board.bury(worker.place)
        self.orphans[worker.place] = [one for one in worker.live if not one.settled]
        if not any(self.board.state(place) is State.FREE for place in range(PLACES)):
            self.rescue(1 - min(number, 1))
            for other in self.workers:
                if other is not worker:
                    self.do(self._notice(other))
                    self.do(self._follow(other))
        self.workers[number] = self.do(self._begin())

    @rule(number=st.integers(0, WORKERS - 1))
    def rescue(self, number: int) -> None:
        self.do(self._rescue(self.workers[number]))

    async def _rescue(self, worker: Worker) -> None:
        for place, left in self.orphans.items():
            found = [self._settlement(one, one.amount // 2, one.call.model) for one in left]
            await worker.commit.run(partial(record, settlements=found))
            self.recorded += found
            self.orphans[place] = []
            for one in found:
                worker.quotas.settled(one)

    def _settlement(self, one: Live, used: int, model: str) -> Settlement:
        call = one.call
        return settlement(
            call.arrival.id,
            subject=call.caller.subject,
            key_id=call.caller.key_id,
            time_ms=one.time_ms,
            model=model,
            usage=Usage(text_output=used),
        )

    @rule(number=st.integers(0, WORKERS - 1))
    def forget(self, number: int) -> None:
        self.workers[number].quotas.forget()

    @rule(seconds=st.sampled_from([0.3, 5, 61, 700, 3_600]))
    def time_passes(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    # What holds

    @invariant()
    def no_limit_is_passed(self) -> None:
        for caller in self.callers.values():
            for limit in caller.limits:
                assert self.used(limit.counted) + self.reserved(limit.counted) <= limit.value, limit

    @rule()
    def all_look_at_each_other(self) -> None:
        """Then each knows what is, and not more either: no room is kept from anybody."""
        self.do(self._rescue(self.workers[0]))
        for _ in range(3):
            for worker in self.workers:
                self.do(self._notice(worker))
                self.do(self._follow(worker))
                self.do(self._tick(worker))
        assert [self.board.state(place) for place in range(PLACES)].count(State.FREE) == PLACES - WORKERS
        for worker in self.workers:
            for caller in self.callers.values():
                account = self.do(worker.quotas.account(caller))
                worker.quotas.look(account)
                for entry in account.entries:
                    counted, counter = entry.limit.counted, entry.counter
                    counter.move(self.now_ms)
                    known = counter.used, counter.reserved
                    assert known == (self.used(counted), self.reserved(counted)), (worker.place, counted)


AnyOrder.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_the_folder_of_a_machine_is_its_own() -> None:
    first, second = AnyOrder(), AnyOrder()
    assert Path(first.folder.name) != Path(second.folder.name)
    first.teardown()
    second.teardown()
