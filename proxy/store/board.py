"""The board: what each of several workers with one ledger has reserved, in a file that all of them have mapped.

A row stands for one counter in one window, and has a column for each worker. Whoever reserves holds the lock, adds up
the row and writes into its own column: so no two workers give away the same room. The lock is the kernel's (`flock`),
which takes it back from a process that dies, and the columns are the kernel's as well: that of a dead worker stays
until what it had in flight is settled.

Beside the rows each worker has a place for how far it has read the ledger (`seen`) and for a count that tells whether
its loop turns (`beat`), and a page for what it tells the others about itself. Rows move to another area of the file
when they are too many, or too many of them are empty; until that is done the old area holds, so that a kill in the
middle leaves it whole.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from zlib import crc32

#: Rows at first, and at most: those of counters that have something in flight.
_ROWS = 1024
ROWS_MAX = 2**18
#: What one worker can tell of itself.
PAGE_BYTES = 32 * 1024
#: Reserved amounts are shown as at most this; none is wrong by that, since no limit is higher.
AMOUNT_MAX = 2**62

_MAGIC = 0x32_4452414F42_4754  # "TGBOARD2"
_WORD = 8
_HEAD_BYTES = 8192
#: Words of the head: what it is, how many places there are, which of the two descriptions of the rows holds, and the
#: process that had the lock last.
_MAGIC_AT, _PLACES_AT, _GENERATION_AT, _HOLDER_AT, _AREAS_AT = range(5)
#: Words of such a description: where the rows begin, how many there are, and how many of them have been used.
_BEGIN, _ROWS_OF, _USED, _AREA_WORDS = range(4)
#: Words of a place: its state, its process, what that has seen, from when on it can be cleared, and its beats.
_PLACES_BEGIN, _PLACE_WORDS = 16, 5
_STATE, _PID, _SEEN, _CLEAR, _BEATS = range(_PLACE_WORDS)
PLACES_MAX = (_HEAD_BYTES // _WORD - _PLACES_BEGIN) // _PLACE_WORDS
_NEVER = 2**62
#: How full the rows may be before they move.
_FULL = 2 / 3
#: And how full after that, where they cannot be more.
_KEPT = 0.6


class State(IntEnum):
    """Of a place. `STARTING` has not read the ledger yet and reserves nothing; what a `DEAD` one has reserved stays."""

    FREE = 0
    STARTING = 1
    LIVE = 2
    DEAD = 3


@dataclass(frozen=True, slots=True)
class Seat:
    """Which board a worker has to use, and which of its places."""

    board: Path
    place: int


class Row:
    """One counter in one window, as one process knows it. `own` is its share; `slides`: the window is a minute's."""

    __slots__ = ("__weakref__", "at", "generation", "key", "own", "start_ms")

    def __init__(self, key: int, start_ms: int) -> None:
        """`key` is never 0."""
        self.key = key
        self.start_ms = start_ms
        self.own = 0
        self.at = 0  #: where it stands on the board, in this generation of rows
        self.generation = -1


class BoardFull(Exception):
    """There is no room for another row, on the board or on the disk."""


class Board:
    """One process's view of the file. Not for use by several threads, and not across a fork.

    Used as a context manager it holds the lock. `add_up`, `put` and `clear` are for whoever holds it.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self.path = path
        self._own_pid = os.getpid()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._descriptor, 0)
        self._words = memoryview(self._map).cast("q")
        assert self._words[_MAGIC_AT] == _MAGIC
        self.places = self._words[_PLACES_AT]
        self._width = 1 + self.places
        self._generation = -1  # changes when the rows have moved
        self._area_at = self._rows_at = self._rows = 0

    @classmethod
    def create(cls, ledger: Path, places: int) -> Board:
        """A new one beside the ledger, which is gone when it is removed, or after this process. Raises `OSError`."""
        assert places <= PLACES_MAX
        for path in ledger.parent.glob(f"{ledger.name}-board-*"):
            _remove_if_left(path)
        while True:
            path = ledger.with_name(f"{ledger.name}-board-{os.getpid()}-{secrets.token_hex(4)}")
            try:
                _write_first(path, places)
                board = cls(path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            # A lock of another kind than that of reserving, which children do not have.
            fcntl.lockf(board._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            if path.exists():
                return board
            board.close()  # somebody took it for one that was left

    def close(self) -> None:
        self._words.release()
        self._map.close()
        os.close(self._descriptor)

    def remove(self) -> None:
        """Delete the file. Who has it open keeps it."""
        with suppress(OSError):
            self.path.unlink()

    # The lock

    def __enter__(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._locked()

    def try_lock(self) -> bool:
        """As `with`, but without a wait: False where another holds the lock. `unlock` gives it back."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._locked()
        return True

    def _locked(self) -> None:
        self._words[_HOLDER_AT] = self._own_pid
        if self._words[_GENERATION_AT] != self._generation:
            self._follow()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.unlock()

    def unlock(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @property
    def holder(self) -> int:
        """The process that has the lock, or had it last."""
        return self._words[_HOLDER_AT]

    # Places

    def state(self, place: int) -> State:
        return State(self._words[_place(place) + _STATE])

    def pid(self, place: int) -> int:
        return self._words[_place(place) + _PID]

    def take(self, place: int) -> None:
        """A free place is a worker's that is about to start."""
        at = _place(place)
        self._words[at + _PID], self._words[at + _SEEN], self._words[at + _CLEAR] = 0, 0, _NEVER
        self._words[at + _BEATS] = 0
        self._words[at + _STATE] = State.STARTING

    def name(self, place: int, pid: int) -> None:
        """The id of its process."""
        self._words[_place(place) + _PID] = pid

    def see(self, place: int, seq: int) -> None:
        """Its worker has what others have settled up to this row of the ledger. From the first time on it is live."""
        at = _place(place)
        self._words[at + _SEEN] = seq
        if self._words[at + _STATE] == State.STARTING:
            self._words[at + _STATE] = State.LIVE

    def beat(self, place: int) -> None:
        """Its worker's loop turns."""
        self._words[_place(place) + _BEATS] += 1

    def rest(self, place: int) -> None:
        """Its worker ends, and beats no more."""
        self._words[_place(place) + _BEATS] = 0

    def beats(self, place: int) -> int:
        """Counts up while its worker's loop turns; 0 before that and when it ends."""
        return self._words[_place(place) + _BEATS]

    def bury(self, place: int) -> None:
        """Its process is no more."""
        if self.state(place) != State.FREE:
            self._words[_place(place) + _STATE] = State.DEAD

    def clear_at(self, place: int, seq: int) -> None:
        """All that the dead worker has settled, or was settled for it, stands in the ledger up to this row at most."""
        at = _place(place) + _CLEAR
        self._words[at] = min(self._words[at], seq)

    def is_clear(self, place: int) -> bool:
        """Whether all that are live have seen what a dead worker's column stands for."""
        return self.state(place) is State.DEAD and self.seen_by_all() >= self._words[_place(place) + _CLEAR]

    def clear(self, place: int) -> None:
        """Nothing is reserved by it any more, and it is free."""
        begin, end = self._rows_at + 1 + place, self._rows_at + self._rows * self._width
        with memoryview(bytes(_WORD * self._rows)).cast("q") as nothing:
            self._words[begin : end : self._width] = nothing
        self._words[_place(place) + _STATE] = State.FREE

    def seen_by_all(self, but: int = -1) -> int:
        """The last row of the ledger that all live workers have seen, apart from one; very many where there is none."""
        words = self._words
        return min(
            (
                words[_place(place) + _SEEN]
                for place in range(self.places)
                if place != but and words[_place(place) + _STATE] == State.LIVE
            ),
            default=_NEVER - 1,
        )

    # Rows

    def add_up(self, row: Row, but: int) -> int:
        """What is reserved in a row by all, apart from one. Raises `BoardFull`."""
        at = row.at if row.generation == self._generation else self._at(row)
        return sum(self._words[at + 1 : at + self._width]) - self._words[at + 1 + but]

    def put(self, row: Row, place: int) -> None:
        """Show all that this process has reserved in a row. Raises `BoardFull`."""
        at = row.at if row.generation == self._generation else self._at(row)  # first: the words may be others then
        self._words[at + 1 + place] = row.own if row.own < AMOUNT_MAX else AMOUNT_MAX

    def _at(self, row: Row) -> int:
        row.at = self._find(row.key)
        row.generation = self._generation  # the rows may just have moved
        return row.at

    def _find(self, key: int) -> int:
        """Where a row stands, which is made where there is none."""
        at = self._probe(key)
        if self._words[at] != key:
            if self._words[self._area_at + _USED] >= self._rows * _FULL:
                self._move()
                at = self._probe(key)
            self._words[at] = key
            self._words[self._area_at + _USED] += 1
        return at

    def _probe(self, key: int) -> int:
        """Where it stands, or would."""
        words, mask = self._words, self._rows - 1
        number = key & mask
        while True:
            at = self._rows_at + number * self._width
            if words[at] in (key, 0):
                return at
            number = (number + 1) & mask

    def _follow(self) -> None:
        """The rows have moved."""
        generation = self._words[_GENERATION_AT]
        at = _area(generation)
        rows_at, rows = self._words[at + _BEGIN], self._words[at + _ROWS_OF]
        if (rows_at + rows * self._width) * _WORD > len(self._map):
            self._map_again()
        self._area_at, self._rows_at, self._rows, self._generation = at, rows_at, rows, generation

    def _move(self) -> None:
        """Put the rows that are not empty into another area, with as much room again. Raises `BoardFull`."""
        width = self._width
        begin, end = self._rows_at, self._rows_at + self._rows * width
        kept = [
            bytes(self._words[at : at + width])
            for at in range(begin, end, width)
            if self._words[at] and any(self._words[at + 1 : at + width])
        ]
        rows = self._rows
        while rows < ROWS_MAX and len(kept) > rows * _FULL / 2:
            rows *= 2
        if len(kept) > rows * _KEPT:
            raise BoardFull(f"{len(kept)} counters have something reserved, which is as many as may")
        begin = self._room(rows)
        self._words[begin : begin + rows * width] = memoryview(bytes(rows * width * _WORD)).cast("q")
        for written in kept:
            row = memoryview(written).cast("q")
            place = row[0] & (rows - 1)
            while self._words[begin + place * width]:
                place = (place + 1) & (rows - 1)
            self._words[begin + place * width : begin + (place + 1) * width] = row
        at = _area(self._generation + 1)
        self._words[at + _BEGIN], self._words[at + _ROWS_OF], self._words[at + _USED] = begin, rows, len(kept)
        self._words[_GENERATION_AT] = self._generation + 1
        self._follow()

    def _room(self, rows: int) -> int:
        """Where there is room for so many rows outside the area that is in use. Raises `BoardFull`."""
        first = (_HEAD_BYTES + (self.places + 1) * PAGE_BYTES) // _WORD
        size = rows * self._width
        if first + size <= self._rows_at:
            return first
        begin = self._rows_at + self._rows * self._width
        known, needed = os.fstat(self._descriptor).st_size, (begin + size) * _WORD
        if needed > known:
            try:
                _write_out(self._descriptor, known, needed)
            except OSError as error:
                raise BoardFull(f"{self.path}: {error.strerror}") from None
        if needed > len(self._map):
            self._map_again()
        return begin

    def _map_again(self) -> None:
        self._words.release()
        self._map.close()
        self._map = mmap.mmap(self._descriptor, 0)
        self._words = memoryview(self._map).cast("q")

    # Pages

    def write_page(self, place: int, text: bytes) -> None:
        """What a worker tells of itself; `places` is the page of those that were replaced. For the lock's holder."""
        assert len(text) <= PAGE_BYTES - _WORD, len(text)
        begin = _HEAD_BYTES + place * PAGE_BYTES
        self._map[begin + _WORD : begin + _WORD + len(text)] = text
        self._map[begin : begin + _WORD] = len(text).to_bytes(4, "little") + crc32(text).to_bytes(4, "little")

    def read_page(self, place: int) -> bytes:
        """Nothing where nothing was told, or who told it was killed at that. For the lock's holder."""
        begin = _HEAD_BYTES + place * PAGE_BYTES
        length = int.from_bytes(self._map[begin : begin + 4], "little")
        text = self._map[begin + _WORD : begin + _WORD + length]
        return text if crc32(text) == int.from_bytes(self._map[begin + 4 : begin + _WORD], "little") else b""


def _place(place: int) -> int:
    return _PLACES_BEGIN + place * _PLACE_WORDS


def _area(generation: int) -> int:
    return _AREAS_AT + _AREA_WORDS * (generation % 2)


def _write_first(path: Path, places: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        begin = _HEAD_BYTES + (places + 1) * PAGE_BYTES
        size = begin + _ROWS * (1 + places) * _WORD
        _write_out(descriptor, 0, size)
        with mmap.mmap(descriptor, size) as mapped, memoryview(mapped).cast("q") as words:
            words[_PLACES_AT] = places
            words[_AREAS_AT + _BEGIN], words[_AREAS_AT + _ROWS_OF] = begin // _WORD, _ROWS
            words[_MAGIC_AT] = _MAGIC
    finally:
        os.close(descriptor)


def _remove_if_left(path: Path) -> None:
    """Where its process was killed. Workers of that one which are still at their end have it open."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            path.unlink()
        finally:
            os.close(descriptor)


def _write_out(descriptor: int, begin: int, end: int) -> None:
    """Write zeros, and not leave it sparse: on a full disk a store into a hole would kill this process."""
    block = bytes(65_536)
    while begin < end:
        begin += os.pwrite(descriptor, block[: end - begin], begin)
