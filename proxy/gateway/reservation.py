"""What one request holds of its caller's limits: the entries of an account, and a reservation in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import Headers
from proxy.gateway.counters import Bucket, Counter
from proxy.gateway.pricing import Most
from proxy.limits import INPUT_KINDS, SLIDING_MS, VALUE_MAX, counts, matches
from proxy.model import Caller, Limit, Unit, Window
from proxy.store.board import Row

#: What of a request an entry counts: the place in `Reservation.amounts`.
ONE, TOTAL, INPUT, OUTPUT, USD = range(5)
#: What grows with the output.
OF_OUTPUT = (TOTAL, OUTPUT, USD)
_AT = {Unit.REQUESTS: ONE, Unit.INFLIGHT: ONE, Unit.USD: USD}


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
            self.amount_at = _AT[counted.unit]
        elif not counted.kind:
            self.amount_at = TOTAL
        else:
            self.amount_at = INPUT if counted.kind in INPUT_KINDS else OUTPUT

    @property
    def binds(self) -> bool:
        """Whether it can be reached at all: not where an engine grants without end, or is not asked."""
        return self.counter.used > -VALUE_MAX

    def counts(self, model: str) -> bool:
        return not self.model or matches(self.model, model)

    def is_in(self, time_ms: int, now_ms: int) -> bool:
        """Whether what arrived then still counts; what belongs to a window that is over is limited by none."""
        self.counter.move(now_ms)
        if self.counter.counted.window is Window.MINUTE:
            return time_ms > now_ms - SLIDING_MS
        return time_ms >= self.counter.start_ms


@dataclass(frozen=True, slots=True)
class Account:
    """What limits the requests of one subject with one key."""

    limits: tuple[Limit, ...]
    entries: tuple[Entry, ...]
    rates: tuple[tuple[Limit, Counter], ...]  #: those by the minute, which clients are told of with each answer
    largest: tuple[Limit, ...]  #: what one request may ask for

    def limits_output(self, model: str, most: Most | None) -> bool:
        """Whether a hard limit counts the output of this model."""
        costs = most is not None and not most.is_free
        hard = (one for one in self.entries if not one.soft and one.amount_at in OF_OUTPUT)
        return any(one.counts(model) and one.binds and (costs or one.amount_at != USD) for one in hard)

    def left(self, model: str, input_tokens: int, choices: int, most: Most | None, now_ms: int) -> int | None:
        """The output tokens of each choice that its limits leave, less than none maybe; None: none limits it."""
        rooms = [limit.value for limit in self.largest if counts(limit.counted, model)]
        for entry in self.entries:
            if entry.soft or entry.amount_at not in OF_OUTPUT or not entry.counts(model) or not entry.binds:
                continue
            entry.counter.move(now_ms)
            room = entry.value - entry.counter.used - entry.counter.reserved
            if entry.amount_at == USD:
                tokens = None if most is None else most.tokens_within(room)
                rooms += [] if tokens is None else [tokens // choices]
                continue
            rooms.append((room - input_tokens * (entry.amount_at == TOTAL)) // choices)
        return min(rooms, default=None)


@dataclass(slots=True)
class Share:
    """The same, as other workers see it (`proxy.gateway.shares`): until it is settled, and until it has ended."""

    rows: list[tuple[Row, int]] = field(default_factory=list)
    places: list[tuple[Row, int]] = field(default_factory=list)


@dataclass(slots=True)
class Reservation:
    """What one request in flight holds. `over_limit` names the soft limit that it passes, if it does."""

    caller: Caller
    model: str
    amounts: tuple[int, int, int, int, int]
    time_ms: int  #: when it was made, which is the window that it counts in
    over_limit: str = ""
    headers: Headers = field(default_factory=list)  #: what its answer tells of the limits by the minute
    cap: int | None = None  #: the output tokens of each choice that it is to be sent on with
    stop_at: int | None = None  #: the output tokens after which a stream must reserve more; None: it need not
    most: Most | None = None  #: what it may cost; None where that is not known
    stopped_by: str = ""  #: the limit of which nothing was left then
    deferred: bool = False  #: it is settled later, and holds what it may use until then
    settled: bool = False
    ended: bool = False
    #: Until it is settled.
    held: list[tuple[Counter, Bucket, int]] = field(default_factory=list)
    #: Until it has ended: its places among those in flight.
    places: list[tuple[Counter, Bucket, int]] = field(default_factory=list)
    share: Share | None = None  #: where there are other workers

    @property
    def output(self) -> int:
        """The output tokens that it holds."""
        return self.amounts[OUTPUT]

    def output_for(self, pico: int) -> int | None:
        """How much more output so much more money pays for; None where it costs nothing."""
        tokens = None if self.most is None else self.most.tokens_within(self.amounts[USD] + pico)
        return None if tokens is None else tokens - self.output

    def with_output(self, tokens: int) -> tuple[int, int, int, int, int]:
        """The amounts with so much more output."""
        one, total, given, output, pico = self.amounts
        output += tokens
        pico = pico if self.most is None or self.most.is_free else max(pico, self.most.pico(output))
        return one, total + tokens, given, output, pico


def hold(reservation: Reservation, entry: Entry, amount: int) -> None:
    """Of what a request may use, what this entry counts. In-lined as far as it goes: there may be many entries."""
    counter = entry.counter
    time_ms = reservation.time_ms
    bucket = counter.latest
    if bucket is None or not bucket.start_ms <= time_ms < counter.latest_until_ms:
        bucket = counter.bucket(time_ms)
    if amount and bucket is not None:
        bucket.reserved += amount
        counter.reserved += amount
        (reservation.places if entry.is_place else reservation.held).append((counter, bucket, amount))


def give_back(held: list[tuple[Counter, Bucket, int]]) -> None:
    for counter, bucket, amount in held:
        if bucket.counts:
            bucket.reserved -= amount
            counter.reserved -= amount
        if counter.released is not None:
            counter.wake()
    held.clear()
