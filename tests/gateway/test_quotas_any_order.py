"""Reserve, settle, leave, reload, restart, and others on the same ledger, in any order: the counters are right."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.billing.prices import PriceBook
from proxy.billing.tariff import MILLION, Holding, Rates, Tariff, parts
from proxy.errors import ProxyError
from proxy.gateway.call import Arrival, Call
from proxy.gateway.counters import Counters
from proxy.gateway.quotas import Quotas
from proxy.gateway.reservation import Reservation
from proxy.limits import INPUT_KINDS, Calendar, Written, amount_of, counts
from proxy.model import TIMELESS, Caller, Cost, CostState, Counted, Settlement, Unit, Usage, Window
from proxy.store import limits as stored
from proxy.store.commit import GroupCommit
from proxy.store.database import Database, begin
from proxy.store.ledger import record
from proxy.store.tenants import create_key, create_tenant
from proxy.wire.output import Output
from tests.store.samples import TIME_MS, settlement

TENANTS = ("a", "b")
MODELS = ("gpt-4o", "gpt-4o-mini-2024-07-18", "o3")
tenants = st.sampled_from(TENANTS)
models = st.sampled_from(MODELS)
tokens = st.integers(0, 60)
#: Dollars for a million tokens of input and of output, and for a request.
PRICES = {
    "gpt-4o": (3, 5, Decimal(0)),
    "gpt-4o-mini-2024-07-18": (1, 2, Decimal("0.000007")),
    "o3": (0, 0, Decimal(0)),
}
WRITTEN = (
    *("tokens/total=400", "tokens/total=150", "tokens/day=120", "tokens/hour=100", "tokens/minute=90"),
    *("requests/minute=4", "requests/day=9", "inflight=3", "tokens/period=300", "requests/total=30"),
    *("usd/total=0.0015", "usd/day=0.0008", "usd/hour=0.0005", "usd/minute=0.00031", "usd/period=0"),
)


def pico_of(model: str, prompt: int, completion: int) -> int:
    """What a request costs, by the prices as they are written."""
    of_input, of_output, of_request = PRICES[model]
    return int(of_input * prompt * 10**6 + of_output * completion * 10**6 + of_request * 10**12)


class Listed:
    """The same as a list of prices."""

    def find(self, provider: str, model: str, time_ms: int, tier: str = "") -> Holding:
        assert (provider, time_ms > 0, tier) == ("openai", True, "")
        of_input, of_output, of_request = PRICES[model]
        rates = Rates(parts(Decimal(of_input), MILLION), text_output=parts(Decimal(of_output), MILLION))
        rates = replace(rates, request=parts(of_request))
        return Holding(Tariff((rates.filled(),), (), "test"))


@dataclass(slots=True)
class Live:
    """A request in flight, as the model sees it."""

    call: Call
    reservation: Reservation
    time_ms: int
    settled: bool = False
    more: int = 0  #: output that was reserved later


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.calendar = Calendar()
        self.prices = PriceBook([Listed()])
        self.now_ms = TIME_MS
        self.numbers = itertools.count()
        self.recorded: list[Settlement] = []
        self.live: list[Live] = []
        self.database = Database(f"sqlite:///{self.folder.name}/tollgate.db")
        self.database.create()
        self.other = self.database.connect()
        self.key_ids = {}
        with self.database.transaction() as connection:
            for tenant in TENANTS:
                create_tenant(connection, tenant, now_ms=TIME_MS - 40 * 86_400_000)
                self.key_ids[tenant] = create_key(connection, tenant, now_ms=0)[0].id
        self.begin()

    def begin(self) -> None:
        self.commit = GroupCommit(self.database)
        self.quotas = Quotas(
            Counters(self.commit, self.calendar, self.now_ms),
            output_tokens=7,
            wait_s=0.0,
            rate_wait_s=0.0,
            now_ms=lambda: self.now_ms,
            prices=self.prices,
        )
        self.commit.recorded_elsewhere = self.quotas.settled_elsewhere
        self.callers: dict[str, Caller] = {}
        self.do(self._start())

    async def _start(self) -> None:
        self.commit.start()

    def do(self, work: object) -> object:
        return self.loop.run_until_complete(work)  # type: ignore[arg-type] # a coroutine

    def teardown(self) -> None:
        self.do(self.commit.stop())
        self.other.close()
        self.loop.close()
        self.folder.cleanup()

    def caller(self, tenant: str) -> Caller:
        """As it is remembered until something changes."""
        if tenant not in self.callers:
            with closing(self.database.connect()) as connection:
                limits = stored.effective(connection, tenant, self.key_ids[tenant])
            key_id = self.key_ids[tenant]
            self.callers[tenant] = Caller(key_id, tenant, True, frozenset(), False, None, limits=limits)
        return self.callers[tenant]

    # The model

    def used(self, counted: Counted) -> int:
        if counted.unit in TIMELESS:
            return 0
        start_ms, end_ms = self.calendar.bounds(counted.window, self.now_ms, counted.anchor_ms)
        if counted.window is Window.MINUTE:  # by the second
            start_ms, end_ms = start_ms - start_ms % 1000 + 1000, end_ms + 1
        return sum(
            amount_of(counted, one.usage, one.cost.pico_usd)
            for one in self.recorded
            if counted.owner in (one.subject, one.key_id)
            and start_ms <= one.time_ms < end_ms
            and counts(counted, one.model)
        )

    def reserved(self, counted: Counted) -> int:
        return sum(
            self.amount(counted, one.call, one.more)
            for one in self.live
            if self.is_in(counted, one.time_ms) and not (one.settled and counted.unit is not Unit.INFLIGHT)
            if counted.owner in (one.call.caller.subject, one.call.caller.key_id)
        )

    def amount(self, counted: Counted, call: Call, more: int = 0) -> int:
        if not counts(counted, call.model):
            return 0
        if counted.unit not in (Unit.TOKENS, Unit.USD):
            return 1
        output = (7 if call.output.each is None else call.output.each) * call.output.choices + more
        if counted.unit is Unit.USD:
            return max(call.model != "o3", pico_of(call.model, call.input_tokens, output))  # what is free is none
        if not counted.kind:
            return max(1, call.input_tokens + output)
        return call.input_tokens if counted.kind in INPUT_KINDS else output

    # What happens

    @rule(tenant=tenants, model=models, given=tokens, each=st.none() | tokens, choices=st.integers(1, 3))
    def reserve(self, tenant: str, model: str, given: int, each: int | None, choices: int) -> None:
        number = next(self.numbers)
        arrival = Arrival(f"req_{number}", self.now_ms)
        caller = self.caller(tenant)
        call = Call(
            *(arrival, caller, "/v1/x", True, "POST", b"/x", [], b"{}"),
            model=model,
            input_tokens=given,
            output=Output(each, choices),
        )
        fits = all(
            self.used(one.counted) + self.reserved(one.counted) + self.amount(one.counted, call) <= one.value
            for one in caller.limits
            if not one.soft and self.amount(one.counted, call)
        )
        try:
            reservation = self.do(self.quotas.reserve(call, "openai"))
        except ProxyError as error:
            reservation = error
        if fits:
            assert isinstance(reservation, Reservation), "refused although it fits"
            self.live.append(Live(call, reservation, self.now_ms))
        else:
            assert isinstance(reservation, ProxyError), "admitted although it does not fit"

    @precondition(lambda self: self.live)
    @rule(data=st.data(), prompt=tokens, completion=tokens, stays=st.booleans())
    def settle(self, data: st.DataObject, prompt: int, completion: int, stays: bool) -> None:
        """It is committed; `stays`: and its last bytes are still to go out."""
        one = data.draw(st.sampled_from(self.live))
        if not one.settled:
            self.do(self._record(self._settlement(one, prompt, completion)))
            one.settled = True
        if not stays:
            self._end(one)

    @precondition(lambda self: any(not one.settled for one in self.live))
    @rule(data=st.data(), wanted=st.integers(1, 200))
    def reserve_more(self, data: st.DataObject, wanted: int) -> None:
        """A stream goes on beyond what it has reserved."""
        one = data.draw(st.sampled_from([one for one in self.live if not one.settled]))
        limits = self.caller(one.call.caller.subject).limits
        left = [
            self.tokens_for(one, limit.counted, limit.value - self.used(limit.counted) - self.reserved(limit.counted))
            for limit in limits
            if limit.counted.unit in (Unit.TOKENS, Unit.USD) and not limit.soft
            if counts(limit.counted, one.call.model) and self.is_in(limit.counted, one.time_ms)
        ]
        more = self.do(self.quotas.more(one.reservation, limits, wanted))
        assert more == max(0, min([wanted, *left]))
        one.more += more

    def tokens_for(self, one: Live, counted: Counted, left: int) -> int:
        """How many tokens of output so much of a limit is."""
        if counted.unit is Unit.TOKENS:
            return left
        model, (_, of_output, _) = one.call.model, PRICES[one.call.model]
        if not of_output:
            return 10**9
        paid = self.amount(counted, one.call, one.more) + left - pico_of(model, one.call.input_tokens, 0)
        return paid // (of_output * 10**6) - one.reservation.output

    def is_in(self, counted: Counted, time_ms: int) -> bool:
        """Whether what arrived then counts now."""
        start_ms, end_ms = self.calendar.bounds(counted.window, self.now_ms, counted.anchor_ms)
        if counted.window is Window.MINUTE:
            start_ms, end_ms = start_ms - start_ms % 1000 + 1000, end_ms + 1
        return start_ms <= time_ms < end_ms

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end_without_a_settlement(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(self.live)))

    @rule(tenant=tenants, model=models, prompt=tokens, age_ms=st.sampled_from([0, 500, 30_000, 90_000, 4_000_000]))
    def others_record(self, tenant: str, model: str, prompt: int, age_ms: int) -> None:
        """Another process, such as a second server, or an import."""
        one = settlement(
            f"other_{next(self.numbers)}",
            subject=tenant,
            key_id=self.key_ids[tenant],
            model=model,
            time_ms=self.now_ms - age_ms,
            usage=Usage(uncached_input=prompt),
            cost=Cost(pico_of(model, prompt, 0), CostState.PRICED),
        )
        with begin(self.other):
            record(self.other, [one])
        self.recorded.append(one)
        self.do(self._notice())

    @rule(tenant=tenants, written=st.sampled_from(WRITTEN), model=st.sampled_from(["", "gpt-4o*"]), soft=st.booleans())
    def set_limit(self, tenant: str, written: str, model: str, soft: bool) -> None:
        with self.database.transaction() as connection:
            stored.set_limit(connection, "tenant", tenant, Written.parse(written), model=model, soft=soft)
        self.callers.clear()

    @rule(tenant=tenants, written=st.sampled_from(WRITTEN))
    def set_limit_of_a_key(self, tenant: str, written: str) -> None:
        with self.database.transaction() as connection:
            stored.set_limit(connection, "key", self.key_ids[tenant], Written.parse(written))
        self.callers.clear()

    @rule(seconds=st.sampled_from([0.2, 1, 20, 59.5, 61, 700, 3_600, 86_400, 2_700_000]))
    def time_passes(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    @rule()
    def restart(self) -> None:
        """Killed: what was in flight is settled by what is known of it."""
        self.do(self.commit.stop())
        interrupted = [self._settlement(one, one.call.input_tokens, 0) for one in self.live if not one.settled]
        with begin(self.other):
            record(self.other, interrupted)
        self.recorded += interrupted
        self.live.clear()
        self.begin()

    @rule()
    def all_is_forgotten(self) -> None:
        self.quotas.forget()

    @invariant()
    def the_counters_are_the_ledger_and_what_is_in_flight(self) -> None:
        for tenant in TENANTS:
            account = self.do(self.quotas.account(self.caller(tenant)))
            for entry in account.entries:  # type: ignore[attr-defined] # an account
                counted, counter = entry.limit.counted, entry.counter
                counter.move(self.now_ms)
                assert counter.used == self.used(counted), counted
                assert counter.reserved == self.reserved(counted), counted

    # Steps

    def _settlement(self, one: Live, prompt: int, completion: int) -> Settlement:
        call = one.call
        usage = Usage(uncached_input=prompt, text_output=completion)
        known = settlement(call.arrival.id, subject=call.caller.subject, key_id=call.caller.key_id, usage=usage)
        found = self.prices.costed(replace(known, time_ms=call.arrival.time_ms, model=call.model))
        assert found.cost.pico_usd == pico_of(call.model, prompt, completion)
        return found

    async def _record(self, one: Settlement) -> None:
        done = self.commit.record(one)
        done.add_done_callback(lambda _: self.quotas.settled(one))
        await done
        await asyncio.sleep(0)
        self.recorded.append(one)

    async def _notice(self) -> None:
        await self.commit.run(lambda connection: None)
        await asyncio.sleep(0)

    def _end(self, one: Live) -> None:
        self.quotas.release(one.call.arrival.id, one.reservation)
        self.live.remove(one)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_the_folder_of_a_machine_is_its_own() -> None:
    first, second = AnyOrder(), AnyOrder()
    assert Path(first.folder.name) != Path(second.folder.name)
    first.teardown()
    second.teardown()
