"""The search for events that a sink cannot take, so that they hold up nothing else. It decides; it does no I/O.

*Refused* (4xx): the batch is halved until the culprit stands alone, which is a dead letter. Where event after event is
refused and none is taken, the fault is hardly theirs (a wrong URL, a gateway in between): from then on one event at a
time is sent as a probe, the newest, which is the likeliest to be good, and one acceptance ends that.

*Failed* (5xx, no answer, a broken connection, again and again): perhaps one event is what the sink fails at, such as
one that is larger than its broker's messages may be; perhaps so many are too much for it in the time it has; perhaps it
is just down. The batch is halved likewise, and those that follow are smaller for a while. What fails alone is set aside
and tried again now and then; a try counts against it only where the very next delivery, of other events, succeeds. So
nothing becomes a dead letter while everything fails.

*Put off* (429, no connection, again and again): perhaps so many are too much. Batches become smaller, and that is all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

#: Failures since the last acceptance, after which the events may be at fault, or too many.
FAILURES_MAX = 4
#: Tries that may count against an event which fails alone. With the default settings they take about four hours.
TRIES_MAX = 10
#: The longest time between two of them; they begin with `sink.retry_max_s` and double.
TRY_WAIT_MAX_S = 3600.0
#: Events set aside at the same time. Beyond it, the sink is taken to be down.
SUSPECTS_MAX = 1_000
#: Batches in a row after which twice as many events are tried again.
GROWS_AFTER = 32
#: Dead letters in a row, without one acceptance, after which the events are no longer taken to be at fault.
REFUSED_MAX = 10


class Carried(Protocol):
    """What is delivered: a settlement, whose events they are, or a notification."""

    @property
    def id(self) -> str: ...

    @property
    def time_ms(self) -> int: ...


T = TypeVar("T", bound=Carried)


@dataclass(slots=True)
class Suspect(Generic[T]):
    """An event that failed alone. `tries` count against it; `due_s` is when the next one is, on the monotonic clock."""

    settlement: T
    words: str
    due_s: float
    tries: int = 0


class Search(Generic[T]):
    """What goes next, and what is concluded from how it went."""

    def __init__(self, batch_max: int, retry_s: float, now_s: Callable[[], float]) -> None:
        self._batch_max = batch_max
        self._retry_s = retry_s
        self._now_s = now_s
        # While a batch is searched: the sizes of its parts, the next one last. Kept across other failures, or a sink
        # that fails now and then would have the search begin again for ever.
        self._parts: list[int] = []
        self._suspects: dict[str, Suspect[T]] = {}
        # The one that failed alone just now: what comes next tells whether it was its fault.
        self._in_question: Suspect[T] | None = None
        self._failures = 0
        self._refused = 0
        #: What the sink takes at once, as far as is known; and how many such batches it has taken since then.
        self._room = batch_max
        self._full = 0

    @property
    def size(self) -> int:
        """Of the next batch, at most."""
        return self._parts[-1] if self._parts else self._room

    @property
    def is_on(self) -> bool:
        """A batch is searched: its parts are not to gather more."""
        return bool(self._parts)

    @property
    def is_probing(self) -> bool:
        """The sink seems to refuse everything: the newest event alone is to be sent."""
        return self._refused >= REFUSED_MAX

    @property
    def aside(self) -> int:
        """How many events are set aside."""
        return len(self._suspects)

    @property
    def failing(self) -> int:
        """How many of them failed while others were taken."""
        return sum(suspect.tries > 0 for suspect in self._suspects.values())

    def without_suspects(self, found: Sequence[T]) -> list[T]:
        """Of the oldest pending events, `size` and `aside` of them, the next batch."""
        return [one for one in found if one.id not in self._suspects][: self.size]

    def due(self) -> T | None:
        """A suspect whose next try is due, one between other deliveries."""
        if self._in_question is not None or self.is_probing:
            return None
        now_s = self._now_s()
        return next((one.settlement for one in self._suspects.values() if one.due_s <= now_s), None)

    def nothing_waits(self) -> None:
        """There is nothing to deliver but suspects: nothing can tell whether the last failure was an event's fault."""
        self._parts.clear()
        self._in_question = None

    def accepted(self, batch: Sequence[T]) -> Suspect[T] | None:
        """The sink has it. Returns an event that this condemns: it is to become a dead letter (`buried`)."""
        suspect, self._in_question = self._in_question, None
        self._failures = 0
        if not self._parts and self._room < self._batch_max:
            self._grow(len(batch))
        self._end_part(batch)
        self._refused = 0
        if suspect is not None:
            suspect.tries += 1
        for one in self._suspects.values():
            if not one.tries:  # it failed when everything did
                one.due_s = self._now_s()
        return suspect if suspect is not None and suspect.tries >= TRIES_MAX else None

    def refused(self, batch: Sequence[T]) -> bool:
        """Something in it is refused for good. Returns whether it stands alone: it is to be `buried` then."""
        self._in_question = None
        if len(batch) > 1:
            self._halve(len(batch))
        return len(batch) == 1

    def buried(self, settlement: T) -> None:
        """It was refused standing alone, and is a dead letter now."""
        self._end_part([settlement])
        self._refused += 1

    def condemned(self, suspect: Suspect[T]) -> None:
        """It is a dead letter now, because others were taken."""
        self._suspects.pop(suspect.settlement.id, None)

    def failed(self, batch: Sequence[T], words: str) -> bool:
        """The sink failed at it. Returns whether something else is to be sent at once, which may tell why."""
        self._in_question = None
        suspect = self._suspects.get(batch[0].id)
        if suspect is not None:
            suspect.words = words
            self._postpone(suspect)
            self._in_question = suspect
            return True
        self._failures += 1
        if self.is_probing or not (self._parts or self._failures >= FAILURES_MAX):
            return False
        if len(batch) > 1:
            self._shrink(len(batch))
            return True
        if len(self._suspects) < SUSPECTS_MAX:
            self._end_part(batch)
            suspect = self._suspects[batch[0].id] = Suspect(batch[0], words, self._now_s())
            self._postpone(suspect)
            self._in_question = suspect
        return False

    def put_off(self, batch: Sequence[T]) -> None:
        """The sink asks to wait, or is not there: which says nothing of the events."""
        self.unavailable(batch)
        self._failures += 1
        if len(batch) > 1 and (self._parts or self._failures >= FAILURES_MAX):
            self._shrink(len(batch))

    def unavailable(self, batch: Sequence[T]) -> None:
        """Nothing is known, not even that the sink saw it."""
        self._in_question = None
        if suspect := self._suspects.get(batch[0].id):
            self._postpone(suspect)

    def _postpone(self, suspect: Suspect[T]) -> None:
        suspect.due_s = self._now_s() + min(TRY_WAIT_MAX_S, self._retry_s * 2**suspect.tries)

    def _shrink(self, count: int) -> None:
        if not self._parts:
            self._room, self._full = count // 2, 0
        self._halve(count)

    def _grow(self, count: int) -> None:
        self._full += count == self._room
        if self._full == GROWS_AFTER:
            self._room, self._full = min(self._batch_max, self._room * 2), 0

    def _halve(self, count: int) -> None:
        if self._parts:
            self._parts.pop()
        half = count // 2
        self._parts += (count - half, half)

    def _end_part(self, batch: Sequence[T]) -> None:
        """A part is done with, unless this was a suspect or a probe, which go out of turn."""
        if self._suspects.pop(batch[0].id, None) is None and self._parts and not self.is_probing:
            self._parts.pop()
