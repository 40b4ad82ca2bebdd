"""Quotas: all that limits a caller, reserved at once or not at all, and given back for what was really used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.errors import Headers, ProxyError, RateLimited
from proxy.gateway.call import Call
from proxy.gateway.counters import Bucket, Counter, Counters
from proxy.gateway.refusal import rate_headers, refusal, too_large
from proxy.limits import INPUT_KINDS, counts, matches
from proxy.model import Caller, Limit, Settlement, Unit, Window

#: Accounts (of a subject and a key) that are kept in memory; beyond it all are forgotten, and read again when needed.
ACCOUNTS_MAX = 50_000
#: Requests that may wait for room at the same time. Each of them looks again whenever something is given back.
WAITING_MAX = 1_000

#: What of a request an entry counts: the place in `Reservation.amounts`.
_ONE, _TOTAL, _INPUT, _OUTPUT = range(4)


class Entry:
    """One limit and its counter, as they are looked at for each request."""

    __slots__ = ("amount_at", "counter", "is_place", "limit", "model", "soft", "value")

    def __init__(self, limit: Limit, counter: Counter) -> None:
        counted = limit.counted
        self.limit = limit
        self.counter = counter
        self.value = limit.value
        self.soft = limit.soft
        self.model = counted.model
        self.is_place = counted.unit is Unit.INFLIGHT
        if counted.unit is not Unit.TOKENS:
            self.amount_at = _ONE
        elif not counted.kind:
            self.amount_at = _TOTAL
        else:
            self.amount_at = _INPUT if counted.kind in INPUT_KINDS else _OUTPUT

    def counts(self, model: str) -> bool:
        return not self.model or matches(self.model, model)


@dataclass(frozen=True, slots=True)
class Account:
    """What limits the requests of one subject with one key."""

    limits: tuple[Limit, ...]
    entries: tuple[Entry, ...]
    rates: tuple[tuple[Limit, Counter], ...]  #: those by the minute, which clients are told of with each answer
    largest: tuple[Limit, ...]  #: what one request may ask for


@dataclass(slots=True)
class Reservation:
    """What one request in flight holds. `over_limit` names the soft limit that it passes, if it does."""

    caller: Caller
    model: str
    amounts: tuple[int, int, int, int]
    time_ms: int  #: when it was made, which is the window that it counts in
    over_limit: str = ""
    headers: Headers = field(default_factory=list)  #: what its answer tells of the limits by the minute
    cap: int | None = None  #: the output tokens of each choice that it is to be sent on with
    deferred: bool = False  #: it is settled later, and holds what it may use until then
    settled: bool = False
    ended: bool = False
    #: Until it is settled.
    held: list[tuple[Counter, Bucket, int]] = field(default_factory=list)
    #: Until it has ended: its places among those in flight.
    places: list[tuple[Counter, Bucket, int]] = field(default_factory=list)


class Quotas:
    """The accounts, and the reservations of all that is in flight, by the requests' ids."""

    def __init__(
        self,
        counters: Counters,
        *,
        output_tokens: int,
        caps_output: bool = False,
        wait_s: float,
        rate_wait_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        """`output_tokens`: what is reserved where a request sets no maximum; with `caps_output` all that is left of its
        limits is, and is its maximum. `wait_s`: to wait for others to use less than they have reserved. `rate_wait_s`:
        to wait for a window by the minute to move on."""
        self._counters = counters
        self._output_tokens = output_tokens
        self._caps_output = caps_output
        self._wait_s = wait_s
        self._rate_wait_s = rate_wait_s
        self._now_ms = now_ms
        self._accounts: dict[tuple[str, str], Account] = {}
        self._live: dict[str, Reservation] = {}
        self._waiting = 0

    async def account(self, caller: Caller) -> Account:
        """What limits a caller, its counters read. Raises `sqlite3.Error`."""
        account = self._accounts.get((caller.subject, caller.key_id))
        if account is None or account.limits is not caller.limits:
            account = await self._open(caller)
        return account

    async def reserve(self, call: Call) -> Reservation:
        """Reserve what a call may use. `release` must follow, and `settled` when it is in the ledger.

        Raises `RateLimited` or `QuotaExceeded` (429), `InvalidRequest` (400, more output than one request may ask
        for) or `sqlite3.Error`.
        """
        caller = call.caller
        account = await self.account(caller)
        now_ms = self._now_ms()
        output, over_limit = self._output(account, call)
        cap = self._cap(account, call, now_ms) if self._caps_output and call.output.each is None else None
        if cap is not None:
            output = cap * call.output.choices
        # Of some requests (images, speech) no tokens are known before: one is, so that a limit that is spent holds.
        amounts = (1, max(1, call.input_tokens + output), call.input_tokens, output)
        reservation = Reservation(caller, call.model, amounts, now_ms, over_limit, cap=cap)
        if account.entries:
            error, entry = self._try(account, reservation, now_ms)
            if error is not None:
                assert entry is not None
                now_ms = await self._wait(account, reservation, error, entry)
            if account.rates:
                reservation.headers = rate_headers(account.rates, now_ms)
        self._live[call.arrival.id] = reservation
        return reservation

    def release(self, request_id: str, reservation: Reservation) -> None:
        """The request has ended."""
        reservation.ended = True
        _give_back(reservation.places)
        if not reservation.deferred or reservation.settled:
            _give_back(reservation.held)
            self._live.pop(request_id, None)

    def settled(self, one: Settlement) -> None:
        """It is in the ledger now: what was used takes the place of what was reserved."""
        self._counters.settled(one)
        reservation = self._live.get(one.id)
        if reservation is not None:
            reservation.settled = True
            _give_back(reservation.held)
            if reservation.ended:
                del self._live[one.id]

    def settled_elsewhere(self, found: list[Settlement] | None) -> None:
        """Other processes have recorded these; None: everything is to be read again."""
        if found is None:
            self.forget()
        else:
            self._counters.settled_elsewhere(found, self._now_ms())

    def forget(self) -> None:
        """The ledger is another one, or there are too many: everything is read again when it is needed."""
        self._accounts.clear()
        self._counters.forget(self._now_ms())

    # Accounts

    async def _open(self, caller: Caller) -> Account:
        if len(self._accounts) >= ACCOUNTS_MAX:
            self.forget()
        limits = [one for one in caller.limits if one.counted.unit is not Unit.MAX_TOKENS]
        owners = (("tenant", caller.subject), ("key", caller.key_id))
        counters = await self._counters.open([one.counted for one in limits], owners, self._now_ms())
        for counter in counters:
            if not counter.adopted:
                counter.adopted = True
                self._adopt(counter)
        pairs = tuple(zip(limits, counters, strict=True))
        account = Account(
            caller.limits,
            tuple(Entry(limit, counter) for limit, counter in pairs),
            tuple(pair for pair in pairs if pair[0].counted.window is Window.MINUTE),
            tuple(one for one in caller.limits if one.counted.unit is Unit.MAX_TOKENS),
        )
        self._accounts[caller.subject, caller.key_id] = account
        return account

    def _adopt(self, counter: Counter) -> None:
        """A counter is new: what is in flight already counts in it as well."""
        counted = counter.counted
        for one in self._live.values():
            owner = one.caller.subject if counted.scope == "tenant" else one.caller.key_id
            entry = Entry(Limit(counted, 0, ""), counter)
            is_over = one.ended if entry.is_place else one.settled
            if owner == counted.owner and counts(counted, one.model) and not is_over:
                _hold(one, entry)

    def _output(self, account: Account, call: Call) -> tuple[int, str]:
        """The output tokens to reserve, and the soft limit that they pass. Raises `InvalidRequest`."""
        each = call.output.each
        most = self._output_tokens if each is None else each
        over_limit = ""
        for limit in account.largest:
            if most <= limit.value or not counts(limit.counted, call.model):
                continue
            if each is None:
                most = limit.value
            elif limit.soft:
                over_limit = over_limit or limit.counted.name
            else:
                raise too_large(limit, each)
        return most * call.output.choices, over_limit

    def _cap(self, account: Account, call: Call, now_ms: int) -> int | None:
        """The output tokens of each choice that its limits leave; None: none limits it, or nothing is left."""
        rooms = [limit.value for limit in account.largest if counts(limit.counted, call.model)]
        for entry in account.entries:
            if entry.soft or entry.amount_at not in (_TOTAL, _OUTPUT) or not entry.counts(call.model):
                continue
            entry.counter.move(now_ms)
            room = entry.value - entry.counter.used - entry.counter.reserved
            rooms.append((room - call.input_tokens * (entry.amount_at == _TOTAL)) // call.output.choices)
        cap = min(rooms, default=0)
        return cap if cap > 0 else None

    # Reservations

    def _try(self, account: Account, reservation: Reservation, now_ms: int) -> tuple[ProxyError | None, Entry | None]:
        """Reserve in every counter, or in none: then the error, and the entry that is in the way.

        What has been used weighs more than what is only reserved: the latter may become free in a moment.
        """
        in_the_way: Entry | None = None
        over_limit = ""
        amounts, model = reservation.amounts, reservation.model
        for entry in account.entries:
            amount = amounts[entry.amount_at]
            counter = entry.counter
            if now_ms >= counter.changes_ms:
                counter.move(now_ms)
            if counter.used + counter.reserved + amount <= entry.value or not amount or not entry.counts(model):
                continue
            if entry.soft:
                over_limit = over_limit or counter.counted.name
            elif in_the_way is None or counter.used + amount > entry.value:
                in_the_way = entry
                if counter.used + amount > entry.value:
                    break
        if in_the_way is not None:
            needed = amounts[in_the_way.amount_at]
            error = refusal(in_the_way.limit, in_the_way.counter, needed, now_ms)
            if isinstance(error, RateLimited):
                error.rates = rate_headers(account.rates, now_ms)
            return error, in_the_way
        reservation.over_limit = reservation.over_limit or over_limit
        reservation.time_ms = now_ms
        for entry in account.entries:
            if not entry.model or entry.counts(model):
                _hold(reservation, entry)
        return None, None

    async def _wait(self, account: Account, reservation: Reservation, error: ProxyError, entry: Entry) -> int:
        """Try again when there may be room, until there is. Returns when that was; raises the last error."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._waiting += 1
        try:
            while True:
                rest_s = self._rest_s(reservation, entry, loop.time() - began_s)
                if rest_s <= 0 or self._waiting > WAITING_MAX:
                    raise error
                await entry.counter.change(rest_s)
                account = await self.account(reservation.caller)  # all may have been forgotten meanwhile
                now_ms = self._now_ms()
                found, in_the_way = self._try(account, reservation, now_ms)
                if found is None or in_the_way is None:
                    return now_ms
                error, entry = found, in_the_way
        finally:
            self._waiting -= 1

    def _rest_s(self, reservation: Reservation, entry: Entry, waited_s: float) -> float:
        """How long to wait for this entry at most; nothing where waiting does not help."""
        if entry.is_place:
            return 0.0
        needed = reservation.amounts[entry.amount_at]
        counter = entry.counter
        if counter.used + needed <= entry.value:
            return self._wait_s - waited_s
        if counter.counted.window is not Window.MINUTE or needed > entry.value:
            return 0.0
        free_in_s = (counter.free_at_ms(needed, entry.value, self._now_ms()) - self._now_ms()) / 1000
        return free_in_s + 0.001 if waited_s + free_in_s <= self._rate_wait_s else 0.0


def _hold(reservation: Reservation, entry: Entry) -> None:
    """Of what a request may use, what this entry counts. In-lined as far as it goes: there may be many entries."""
    amount = reservation.amounts[entry.amount_at]
    counter = entry.counter
    time_ms = reservation.time_ms
    bucket = counter.latest
    if bucket is None or not bucket.start_ms <= time_ms < counter.latest_until_ms:
        bucket = counter.bucket(time_ms)
    if amount and bucket is not None:
        bucket.reserved += amount
        counter.reserved += amount
        (reservation.places if entry.is_place else reservation.held).append((counter, bucket, amount))


def _give_back(held: list[tuple[Counter, Bucket, int]]) -> None:
    for counter, bucket, amount in held:
        counter.release(bucket, amount)
    held.clear()
