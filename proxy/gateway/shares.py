"""What this worker has reserved, as other workers see it, and what they have, as it sees them (`proxy.store.board`).

A worker's share of a counter is all of its own that some other worker does not have in its counters yet: what its
requests in flight have reserved, and what they have used from the settlement on until every other worker has read that
in the ledger. So what one worker knows to be used, and what all of them show as shares, is never less than what is used
and reserved in truth; and for a moment it may be more. Who finds no room for what others have looks again soon.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from hashlib import blake2b
from weakref import WeakValueDictionary

from proxy.errors import LedgerUnavailable
from proxy.gateway.counters import Counter
from proxy.gateway.reservation import Entry, Reservation, Share
from proxy.limits import SLIDING_MS
from proxy.model import Counted, Window
from proxy.store.board import Board, BoardFull, Row, State

log = logging.getLogger(__name__)

#: How often others are looked at for somebody who waits, and told that they are not waited for any more.
TICK_S = 0.025
#: How long a request waits for a place that another worker's has, and may have left already.
PLACE_WAIT_S = 0.06
#: A stream that finds nothing left where other workers have something looks again, so often and after so long, before
#: it ends: of what was settled just now they may have shown more than there is.
LOOKS = 4
LOOK_S = 0.03
#: Settlements that some other worker has not read; beyond it they are summed up, and wait for the last of them.
_LAGGING_MAX = 50_000
#: When a minute's window begins.
_SLIDES = -1
_KEY_BYTES = 8


class Shares:
    """For use in the event loop's thread. As a context manager it holds the board's lock."""

    def __init__(self, board: Board, place: int) -> None:
        self._board = board
        self._place = place
        self._rows: WeakValueDictionary[int, Row] = WeakValueDictionary()
        #: Whose column on the board is not what they have.
        self._unwritten: set[Row] = set()
        #: What was settled here, up to which row of the ledger, and maybe not read by all others yet.
        self._lagging: deque[tuple[int, Row, int]] = deque()
        self._reached = 0
        self._awaited: set[Counter] = set()
        self._is_soon = False
        self._is_full = False

    def reached(self, seq: int) -> None:
        """What others have settled is in the counters up to this row of the ledger; and what is settled here is there.

        From the first time on the others wait for this worker.
        """
        if seq < self._reached:  # the ledger is another one, with less in it
            self._forget_lagging()
        self._reached = seq
        self._board.see(self._place, seq)

    # Reserving

    def lock(self, entries: Iterable[Entry], now_ms: int) -> None:
        """Hold the lock, with all that others have reserved in the counters. Raises `LedgerUnavailable`."""
        try:
            self._board.__enter__()
        except OSError as error:
            raise _unavailable(error) from None
        try:
            if self._lagging or self._unwritten:
                self._write()
            add_up, place = self._board.add_up, self._place
            for entry in entries:
                counter = entry.counter
                if now_ms >= counter.changes_ms:
                    counter.move(now_ms)
                row = counter.row
                if row is None or row.start_ms not in (counter.start_ms, _SLIDES):
                    row = self._row(counter)
                elsewhere = add_up(row, place)
                if elsewhere != counter.elsewhere:
                    self._is_elsewhere(counter, elsewhere)
        except BaseException as error:
            self.unlock()
            if isinstance(error, BoardFull):
                raise _unavailable(error) from None
            raise

    def unlock(self) -> None:
        self._board.__exit__(None, None, None)

    def take(self, reservation: Reservation) -> None:
        """A request has reserved what it holds. For the lock's holder."""
        put, place = self._board.put, self._place
        share = reservation.share = Share()
        for held, into in ((reservation.held, share.rows), (reservation.places, share.places)):
            for counter, _, amount in held:
                row = counter.row
                assert row is not None, "it was looked at just now"
                row.own += amount
                into.append((row, amount))
                put(row, place)

    def take_more(self, reservation: Reservation, counter: Counter, amount: int) -> None:
        """It has reserved more. For the lock's holder."""
        if reservation.share is not None and amount:
            self._add(self._row(counter), amount, reservation.share.rows)

    def adopt(self, reservation: Reservation, counter: Counter, *, is_place: bool) -> None:
        """A request in flight counts in one more counter, or in a new one that stands for the same. As `take`."""
        held = reservation.places if is_place else reservation.held
        if not held or held[-1][0] is not counter:
            return  # in a window that is over
        share = reservation.share = reservation.share or Share()
        into, row = share.places if is_place else share.rows, self._row(counter)
        if all(known is not row for known, _ in into):
            self._add(row, held[-1][2], into)

    # Giving back, in any order and without a wait

    def leave(self, reservation: Reservation) -> None:
        """It has ended, and needs its places no more."""
        if reservation.share is not None:
            self._give_back(reservation.share.places)

    def give_up(self, reservation: Reservation) -> None:
        """It is not settled, or by others, whose share it is then."""
        if reservation.share is not None:
            self._give_back(reservation.share.rows)

    def settled(self, reservation: Reservation | None, changed: Iterable[tuple[Counter, int]]) -> None:
        """It is in the ledger, and in these counters with so much: until all others know, that is this one's share."""
        held: dict[Row, int] = {}
        if reservation is not None and reservation.share is not None:
            for row, amount in reservation.share.rows:
                held[row] = held.get(row, 0) + amount
            reservation.share.rows.clear()
        for counter, used in changed:
            row = self._row(counter)
            row.own += used - held.pop(row, 0)
            if used:
                self._lagging.append((self._reached, row, used))
            self._unwritten.add(row)
        for row, amount in held.items():  # of a counter that is not kept here just now
            self._lagging.append((self._reached, row, amount))
        if len(self._lagging) > _LAGGING_MAX:
            self._sum_up_lagging()
        self._soon()

    def age(self, live: Iterable[Reservation], now_ms: int) -> None:
        """What was reserved longer ago than windows by the minute last counts in none of them. `live`: oldest first."""
        for one in live:
            if one.time_ms - one.time_ms % 1000 > now_ms - SLIDING_MS:
                break
            if one.share is not None:
                over = [(row, amount) for row, amount in one.share.rows if row.start_ms == _SLIDES]
                if over:
                    one.share.rows = [(row, amount) for row, amount in one.share.rows if row.start_ms != _SLIDES]
                    self._give_back(over)

    # Others

    def look(self, counters: Iterable[Counter], now_ms: int) -> None:
        """Put into the counters what others have reserved, for people to see. Raises `LedgerUnavailable`."""
        self.lock((), now_ms)
        try:
            for counter in counters:
                self._look(counter, now_ms)
        except BoardFull as error:
            raise _unavailable(error) from None
        finally:
            self.unlock()

    def awaits(self, counter: Counter) -> None:
        """Somebody waits for room in a counter: wake it up when others have given something back."""
        self._awaited.add(counter)

    def tick(self, now_ms: int) -> None:
        """To be called often (`TICK_S`)."""
        self._awaited = {counter for counter in self._awaited if counter.released is not None}
        if self._lagging or self._unwritten or self._awaited:
            try:
                self.look(self._awaited, now_ms)
            except LedgerUnavailable as error:
                log.debug("the board cannot be read: %s", error)

    async def run(self, now_ms: Callable[[], int]) -> None:
        """Tick until cancelled, and let the supervisor see that."""
        try:
            while True:
                try:
                    self.tick(now_ms())
                except Exception:  # the edge of the task
                    log.exception("the shares of other workers could not be looked at")
                self._board.beat(self._place)
                await asyncio.sleep(TICK_S)
        finally:
            self._board.rest(self._place)

    # Dead workers, whose shares stay until what they had in flight is settled, and all have seen that

    def dead(self) -> list[tuple[int, int]]:
        """The places of workers that have died, and what their processes' ids were."""
        board = self._board
        return [(place, board.pid(place)) for place in range(board.places) if board.state(place) is State.DEAD]

    def bury(self, place: int, pid: int, seq: int) -> None:
        """All of a dead worker's is settled, and stands in the ledger up to this row."""
        with self._board:
            if self._board.state(place) is State.DEAD and self._board.pid(place) == pid:
                self._board.clear_at(place, seq)
                if self._board.is_clear(place):
                    self._board.clear(place)

    # The board, for the lock's holder

    def _look(self, counter: Counter, now_ms: int) -> None:
        if now_ms >= counter.changes_ms:
            counter.move(now_ms)
        self._is_elsewhere(counter, self._board.add_up(self._row(counter), self._place))

    def _is_elsewhere(self, counter: Counter, elsewhere: int) -> None:
        before, counter.elsewhere = counter.elsewhere, elsewhere
        counter.reserved += elsewhere - before
        if elsewhere < before:
            counter.wake()

    def _add(self, row: Row, amount: int, into: list[tuple[Row, int]]) -> None:
        row.own += amount
        into.append((row, amount))
        self._board.put(row, self._place)

    def _write(self) -> None:
        lagging = self._lagging
        if lagging:
            seen = self._board.seen_by_all(but=self._place)
            while lagging and lagging[0][0] <= seen:
                _, row, amount = lagging.popleft()
                row.own -= amount
                self._unwritten.add(row)
        unwritten = self._unwritten
        while unwritten:
            row = unwritten.pop()
            try:
                self._board.put(row, self._place)
            except BoardFull:
                unwritten.add(row)
                raise

    # Rows

    def _row(self, counter: Counter) -> Row:
        start_ms = _SLIDES if counter.counted.window is Window.MINUTE else counter.start_ms
        row = counter.row
        if row is not None and row.start_ms == start_ms:
            return row
        key = _key(counter.counted, start_ms)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(key, start_ms)
        counter.row = row
        return row

    def _give_back(self, held: list[tuple[Row, int]]) -> None:
        for row, amount in held:
            row.own -= amount
            self._unwritten.add(row)
        held.clear()
        self._soon()

    def _soon(self) -> None:
        """Write what was given back, in this turn of the loop and all of it together."""
        if self._unwritten and not self._is_soon:
            self._is_soon = True
            asyncio.get_running_loop().call_soon(self._write_now)

    def _write_now(self) -> None:
        self._is_soon = False
        try:
            with self._board:
                self._write()
            self._is_full = False
        except (BoardFull, OSError) as error:
            if not self._is_full:
                log.error("what was given back cannot be shown to other workers: %s", error)
            self._is_full = True

    def _forget_lagging(self) -> None:
        for _, row, amount in self._lagging:
            row.own -= amount
            self._unwritten.add(row)
        self._lagging.clear()

    def _sum_up_lagging(self) -> None:
        sums: dict[Row, int] = {}
        for _, row, amount in self._lagging:
            sums[row] = sums.get(row, 0) + amount
        self._lagging = deque((self._reached, row, amount) for row, amount in sums.items())


def _key(counted: Counted, start_ms: int) -> int:
    """Of one counter in one window, the same in all workers, and never 0."""
    written = "\0".join(
        str(part)
        for part in (
            *(counted.scope, counted.owner, counted.unit, counted.window, counted.model, counted.kind),
            *(counted.anchor_ms, start_ms),
        )
    )
    return int.from_bytes(blake2b(written.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()) >> 1 or 1


def _unavailable(error: Exception) -> LedgerUnavailable:
    log.error("what other workers have reserved cannot be told, and a request is refused: %s", error)
    return LedgerUnavailable("Limits cannot be checked at the moment. Try again soon.")
