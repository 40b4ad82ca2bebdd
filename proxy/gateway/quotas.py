"""Quotas: all that limits a caller, reserved at once or not at all, and given back for what was really used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from proxy.errors import ProxyError, RateLimited
from proxy.gateway.call import Call
from proxy.gateway.counters import Counter, Counters
from proxy.gateway.pricing import Most, Prices, most_of
from proxy.gateway.refusal import not_priced, rate_headers, refusal, too_large, words_of
from proxy.gateway.reservation import OF_OUTPUT, USD, Account, Entry, Reservation, give_back, hold
from proxy.gateway.shares import LOOK_S, LOOKS, PLACE_WAIT_S, Shares
from proxy.limits import counts
from proxy.model import Caller, Counted, Limit, Settlement, Unit, Window

#: Accounts (of a subject and a key) that are kept in memory; beyond it all are forgotten, and read again when needed.
ACCOUNTS_MAX = 50_000
#: Requests that may wait for room at the same time. Each of them looks again whenever something is given back.
WAITING_MAX = 1_000

#: A stream that sets a maximum is kept to it by its upstream. It is stopped only if it has delivered so many times as
#: much: an estimate of what was delivered may be off, an upstream that ignores the maximum is.
_ESTIMATE_FACTOR = 2


class Quotas:
    """The accounts, and the reservations of all that is in flight, by the requests' ids."""

    def __init__(
        self,
        counters: Counters,
        *,
        output_tokens: int,
        caps_output: bool = False,
        stops_streams: bool = False,
        wait_s: float,
        rate_wait_s: float,
        now_ms: Callable[[], int],
        entitled: Callable[[str], tuple[Limit, Counter]] | None = None,
        prices: Prices | None = None,
        counts_unpriced: bool = False,
        shares: Shares | None = None,
    ) -> None:
        """`output_tokens`: what is reserved where a request sets no maximum; with `caps_output` all that is left of its
        limits is, and is its maximum. With `stops_streams` a stream reserves of that what is left, and `more` while it
        goes on. `wait_s`: to wait for others to use less than they have reserved. `rate_wait_s`: to wait for a window
        by the minute to move on. `entitled`: the limit of a subject that is not counted by this ledger.
        `counts_unpriced`: what has no price is served under a limit in money all the same, and counts nothing there.
        `shares`: what other workers with the same ledger have reserved, where there are any."""
        self._counters = counters
        counters.clock = now_ms
        self._output_tokens = output_tokens
        self._caps_output = caps_output
        self._stops_streams = stops_streams
        self._wait_s = wait_s
        self._rate_wait_s = rate_wait_s
        self._now_ms = now_ms
        self._entitled = entitled
        self._prices = prices
        self._counts_unpriced = counts_unpriced
        self._shares = shares
        #: Told when a request is refused for what is used of a limit already, in a window that ends at an instant.
        self.refused: Callable[[Caller, Limit, int], None] = lambda caller, limit, until_ms: None
        self._accounts: dict[tuple[str, str], Account] = {}
        self._live: dict[str, Reservation] = {}
        self._waiting = 0

    async def account(self, caller: Caller) -> Account:
        """What limits a caller, its counters read. Raises `sqlite3.Error`."""
        account = self._accounts.get((caller.subject, caller.key_id))
        if account is None or account.limits is not caller.limits:
            account = await self._open(caller)
        return account

    async def reserve(self, call: Call, provider: str = "") -> Reservation:
        """Reserve what a call may use at a provider. `release` must follow, and `settled` when it is in the ledger.

        Raises `RateLimited` or `QuotaExceeded` (429), `InvalidRequest` (400, more output than one request may ask
        for), `Forbidden` (403, no price is known, and money is limited) or `sqlite3.Error`.
        """
        caller = call.caller
        account = await self.account(caller)
        now_ms = self._now_ms()
        output, over_limit = self._output(account, call)
        most = self._most(account, call, provider, now_ms)
        cap = None
        is_stoppable = self._stops_streams and call.streamed and account.limits_output(call.model, most)
        takes_rest = call.output.each is None and (is_stoppable or self._caps_output)
        shares = self._shares if account.entries else None
        if shares is not None and takes_rest:
            shares.lock(account.entries, now_ms)
        try:
            if takes_rest:
                left = account.left(call.model, call.input_tokens, call.output.choices, most, now_ms)
                if is_stoppable:
                    output = min(output, max(1, left or 1) * call.output.choices)
                elif left is not None and left > 0:
                    cap, output = left, left * call.output.choices
            # Of some requests (images, speech) no tokens are known before: one is, so that a limit that is spent holds.
            # The same goes for money, except for what is free.
            pico = 0 if most is None or most.is_free else max(1, most.pico(output))
            amounts = (1, max(1, call.input_tokens + output), call.input_tokens, output, pico)
            reservation = Reservation(caller, call.model, amounts, now_ms, over_limit, cap=cap, most=most)
            if is_stoppable:
                reservation.stop_at = output if call.output.each is None else output * _ESTIMATE_FACTOR
            if shares is not None and not takes_rest:
                shares.lock(account.entries, now_ms)
            error, entry = self._try(account, reservation, now_ms) if account.entries else (None, None)
        finally:
            if shares is not None:
                shares.unlock()
        if error is not None:
            assert entry is not None
            now_ms = await self._wait(account, reservation, error, entry)
        if account.rates:
            reservation.headers = rate_headers(account.rates, now_ms)
        self._live[call.arrival.id] = reservation
        return reservation

    async def more(self, reservation: Reservation, limits: tuple[Limit, ...], tokens: int) -> int:
        """Reserve more output, in all of the `limits` that count it or in none. How much: up to `tokens`, as is left.

        Raises `sqlite3.Error`.
        """
        more, is_shared = await self._more(reservation, limits, tokens)
        for _ in range(LOOKS):
            if more or not is_shared or reservation.settled:
                break
            await asyncio.sleep(LOOK_S)
            more, is_shared = await self._more(reservation, limits, tokens)
        return more

    async def _more(self, reservation: Reservation, limits: tuple[Limit, ...], tokens: int) -> tuple[int, bool]:
        """How much more, and whether other workers have something of the same."""
        account = await self.account(replace(reservation.caller, limits=limits))
        now_ms = self._now_ms()
        counting = (one for one in account.entries if one.amount_at in OF_OUTPUT and one.counts(reservation.model))
        entries = [one for one in counting if one.is_in(reservation.time_ms, now_ms)]
        shares = self._shares if entries else None
        if shares is not None:
            shares.lock(entries, now_ms)
        try:
            for entry in entries:
                room = entry.value - entry.counter.used - entry.counter.reserved
                left = room if entry.amount_at != USD else reservation.output_for(room)
                if not entry.soft and left is not None and left < tokens:
                    tokens = left
                    reservation.stopped_by = words_of(entry.limit)
            is_shared = any(entry.counter.elsewhere for entry in entries)
            if tokens <= 0 or reservation.settled:
                return 0, is_shared
            before, reservation.amounts = reservation.amounts, reservation.with_output(tokens)
            for entry in entries:
                amount = reservation.amounts[entry.amount_at] - before[entry.amount_at]
                hold(reservation, entry, amount)
                if shares is not None:
                    shares.take_more(reservation, entry.counter, amount)
            return tokens, is_shared
        finally:
            if shares is not None:
                shares.unlock()

    def release(self, request_id: str, reservation: Reservation) -> None:
        """The request has ended."""
        reservation.ended = True
        give_back(reservation.places)
        if self._shares is not None:
            self._shares.leave(reservation)
        if not reservation.deferred or reservation.settled:
            give_back(reservation.held)
            if self._shares is not None:
                self._shares.give_up(reservation)
            self._live.pop(request_id, None)

    def settled(self, one: Settlement) -> None:
        """It is in the ledger now: what was used takes the place of what was reserved."""
        reservation = self._live.get(one.id)
        if self._shares is None:
            self._counters.settled(one)
        else:
            changed: list[tuple[Counter, int]] = []
            self._counters.settled(one, changed)
            self._shares.settled(reservation, changed)
        if reservation is not None:
            self._is_settled(one.id, reservation)

    def settled_elsewhere(self, found: list[Settlement] | None) -> None:
        """Other processes have recorded these; None: everything is to be read again."""
        if found is None:
            self.forget()
            return
        self._counters.settled_elsewhere(found)
        for one in found:
            reservation = self._live.get(one.id)
            if reservation is not None:  # a background response, which another one has followed up
                if self._shares is not None:
                    self._shares.give_up(reservation)
                self._is_settled(one.id, reservation)

    def _is_settled(self, request_id: str, reservation: Reservation) -> None:
        reservation.settled = True
        give_back(reservation.held)
        if reservation.ended:
            del self._live[request_id]

    def look(self, account: Account) -> None:
        """See what other workers have reserved, for people to read. Raises `LedgerUnavailable`."""
        if self._shares is not None:
            self._shares.look([entry.counter for entry in account.entries], self._now_ms())

    def age(self) -> None:
        """Let others have what requests that go on for long no longer hold of a minute."""
        if self._shares is not None:
            self._shares.age(self._live.values(), self._now_ms())

    async def follow(self, limits: Callable[[str, str], Awaitable[tuple[Limit, ...]]]) -> None:
        """Let what is in flight count in limits that are new. Raises `LedgerUnavailable` and `sqlite3.Error`."""
        callers = {(one.caller.subject, one.caller.key_id): one.caller for one in self._live.values()}
        for (subject, key_id), caller in callers.items():
            found = await limits(subject, key_id)
            account = self._accounts.get((subject, key_id))
            if account is None or account.limits is not found:
                await self.account(replace(caller, limits=found))

    def forget(self) -> None:
        """The ledger is another one, or there are too many: everything is read again when it is needed."""
        self._accounts.clear()
        self._counters.forget(self._now_ms())

    # Accounts

    async def _open(self, caller: Caller) -> Account:
        if len(self._accounts) >= ACCOUNTS_MAX:
            self.forget()
        granted = () if self._entitled is None else (self._entitled(caller.subject),)
        limits = [one for one in caller.limits if one.counted.unit is not Unit.MAX_TOKENS]
        owners = (("tenant", caller.subject), ("key", caller.key_id))
        counters = await self._counters.open([one.counted for one in limits], owners, self._now_ms())
        pairs = (*zip(limits, counters, strict=True), *granted)
        for _, counter in pairs:
            if not counter.adopted:
                counter.adopted = True
                self._adopt(counter)
        account = Account(
            caller.limits,
            tuple(Entry(limit, counter) for limit, counter in pairs),
            tuple(pair for pair in pairs if _is_rate(pair[0].counted)),
            tuple(one for one in caller.limits if one.counted.unit is Unit.MAX_TOKENS),
        )
        self._accounts[caller.subject, caller.key_id] = account
        return account

    def _adopt(self, counter: Counter) -> None:
        """A counter is new: what is in flight already counts in it as well. Raises `LedgerUnavailable`."""
        counted = counter.counted
        entry = Entry(Limit(counted, 0, ""), counter)
        owned = [
            one
            for one in self._live.values()
            if counted.owner == (one.caller.key_id if counted.scope == "key" else one.caller.subject)
            and counts(counted, one.model)
            and not (one.ended if entry.is_place else one.settled)
        ]
        shares = self._shares if owned else None
        if shares is not None:
            shares.lock([entry], self._now_ms())
        try:
            for one in owned:
                hold(one, entry, one.amounts[entry.amount_at])
                if shares is not None:
                    shares.adopt(one, counter, is_place=entry.is_place)
        finally:
            if shares is not None:
                shares.unlock()

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

    def _most(self, account: Account, call: Call, provider: str, now_ms: int) -> Most | None:
        """What the call may cost at most, None where that is not known. Raises `Forbidden` where it must be."""
        most = None if self._prices is None else most_of(self._prices, call, provider, now_ms)
        if most is None and not self._counts_unpriced:
            for entry in account.entries:
                if entry.amount_at == USD and not entry.soft and entry.counts(call.model):
                    raise not_priced(entry.limit, call.model)
        return most

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
                hold(reservation, entry, amounts[entry.amount_at])
        if self._shares is not None:
            self._shares.take(reservation)
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
                    self._tell(reservation, entry)
                    raise error
                if self._shares is not None:
                    self._shares.awaits(entry.counter)
                await entry.counter.change(rest_s)
                account = await self.account(reservation.caller)  # all may have been forgotten meanwhile
                now_ms = self._now_ms()
                found, in_the_way = self._try_again(account, reservation, now_ms)
                if found is None or in_the_way is None:
                    return now_ms
                error, entry = found, in_the_way
        finally:
            self._waiting -= 1

    def _try_again(
        self, account: Account, reservation: Reservation, now_ms: int
    ) -> tuple[ProxyError | None, Entry | None]:
        if self._shares is None:
            return self._try(account, reservation, now_ms)
        self._shares.lock(account.entries, now_ms)
        try:
            return self._try(account, reservation, now_ms)
        finally:
            self._shares.unlock()

    def _tell(self, reservation: Reservation, entry: Entry) -> None:
        counter, needed = entry.counter, reservation.amounts[entry.amount_at]
        slides = counter.counted.window is Window.MINUTE
        if not entry.is_place and not slides and counter.used + needed > entry.value >= needed:
            self.refused(reservation.caller, entry.limit, counter.end_ms)

    def _rest_s(self, reservation: Reservation, entry: Entry, waited_s: float) -> float:
        """How long to wait for this entry at most; nothing where waiting does not help."""
        if entry.is_place:  # of one that has ended elsewhere we hear in a moment
            return PLACE_WAIT_S - waited_s if entry.counter.elsewhere else 0.0
        needed = reservation.amounts[entry.amount_at]
        counter = entry.counter
        if counter.used + needed <= entry.value:
            return self._wait_s - waited_s
        if counter.counted.window is not Window.MINUTE or needed > entry.value:
            return 0.0
        free_in_s = (counter.free_at_ms(needed, entry.value, self._now_ms()) - self._now_ms()) / 1000
        return free_in_s + 0.001 if waited_s + free_in_s <= self._rate_wait_s else 0.0


def _is_rate(counted: Counted) -> bool:
    return counted.window is Window.MINUTE and counted.unit is not Unit.USD
