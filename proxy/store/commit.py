"""Group commit: one writer thread, and in each transaction whatever has gathered while the last one was written.

Requests wait for their commit. A single one costs one fsync; a hundred at once cost one fsync as well.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from proxy.errors import LedgerUnavailable
from proxy.limits import Calendar
from proxy.model import Counted, Settlement
from proxy.store.database import Database, Link, begin, savepoint
from proxy.store.ledger import probe, record, record_once
from proxy.store.others import Others, last_row
from proxy.store.spent import Seconds, spent_by_second

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

#: Changes in one transaction at most, and those that came with the last of them.
BATCH_MAX = 2_048
#: Changes that may wait; beyond it new requests are refused.
BACKLOG_MAX = 20_000
#: How often the file is looked at while nobody writes, and tried where it failed.
_PROBE_S = 1.0


@dataclass(slots=True)
class _Change:
    """A settlement to record, or other work to do in the transaction, and who waits for it."""

    settlement: Settlement | None
    work: Work | None
    waiter: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = field(default=None)


class GroupCommit:
    """Owns the writing connection. `start` and `stop` may be called in any order, and more than once.

    What is submitted before the first `start` waits for it; after `stop` it is refused.
    """

    def __init__(
        self,
        database: Database,
        *,
        probe_s: float = _PROBE_S,
        look_s: float | None = None,
        turn: AbstractContextManager[None] | None = None,
    ) -> None:
        """`look_s`: how often it is looked what others record while nothing is written; as often as `probe_s` where it
        is None. `turn` is held for each transaction, where other workers write as well."""
        self._link = Link(database)
        self._probe_s = probe_s
        self._look_s = probe_s if look_s is None else look_s
        self._turn = turn
        self._queue: queue.SimpleQueue[list[_Change] | None] = queue.SimpleQueue()
        # What was submitted in this turn of the loop: the writer is woken once for all of it.
        self._gathered: list[_Change] = []
        # Each counted by one thread alone.
        self._submitted = self._taken = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        #: Why the last write failed; empty while all is well.
        self.trouble = ""
        #: Told in the loop what other processes have recorded, before what was recorded here after it; None: the
        #: ledger is another one now. Noticed with the next write, and otherwise within a second.
        self.recorded_elsewhere: Callable[[list[Settlement] | None], None] = lambda found: None
        #: Told in the loop, after that and before what was recorded here, up to which row all of it has been told.
        self.reached: Callable[[int], None] | None = None
        self._others = Others()

    def start(self) -> None:
        """Begin to write. Changes submitted before are written now."""
        if self._thread is None or self._closed:
            self._closed = False
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(
                target=self._main, args=(self._thread,), name="tollgate-ledger", daemon=True
            )
            self._thread.start()

    async def stop(self) -> None:
        """Write all that was submitted, then close the connection."""
        thread = self._thread
        if thread is None:
            return
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.to_thread(thread.join)
        if self._thread is thread:  # it is another's where `start` was called meanwhile
            self._thread = None

    @property
    def backlog(self) -> int:
        """Changes that wait for the next transaction, or the one after."""
        return self._submitted - self._taken

    def check(self) -> None:
        """Raises `LedgerUnavailable` while events cannot be written."""
        if self.trouble or self._thread is None or self._closed or self.backlog > BACKLOG_MAX:
            raise LedgerUnavailable("Usage cannot be recorded at the moment, so nothing new is served. Try again soon.")

    def record(self, settlement: Settlement) -> asyncio.Future[None]:
        """Record a settlement; the future is done when it is on disk, or raises `sqlite3.Error`."""
        return self._submit(settlement, None)

    def record_once(self, settlement: Settlement) -> asyncio.Future[bool]:
        """Record a settlement, unless its response is one that was settled before (`ledger.record_once`)."""
        return self.run(lambda connection: record_once(connection, settlement))

    def spent(self, counted: Sequence[Counted], calendar: Calendar, now_ms: int) -> asyncio.Future[list[Seconds]]:
        """What was used, of each, by all that was recorded before and nothing after (`spent.spent_by_second`)."""
        return self.run(lambda connection: [spent_by_second(connection, one, calendar, now_ms) for one in counted])

    def run(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Do other work in the next transaction. It may be done twice, the first time rolled back.

        The future raises what the work raises, which is then undone alone, or `sqlite3.Error`.
        """
        return self._submit(None, work)

    def _submit(self, settlement: Settlement | None, work: Work | None) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            waiter.set_exception(sqlite3.OperationalError("the ledger is closed"))
            return waiter
        if not self._gathered:
            loop.call_soon(self._hand_over)
        self._gathered.append(_Change(settlement, work, waiter))
        self._submitted += 1
        return waiter

    def _hand_over(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            for at in range(0, len(gathered), BATCH_MAX):
                self._queue.put(gathered[at : at + BATCH_MAX])

    # In the writer thread

    def _main(self, predecessor: threading.Thread | None) -> None:
        if predecessor is not None:
            predecessor.join()  # it was told to stop, and writes what was submitted until then
        stopping = False
        while not stopping:
            batch, stopping = self._gather()
            if batch or not stopping:
                self._write(batch)
            news = self._others.news()
            if batch or news:
                self._tell(batch, news)
        self._link.close()

    def _gather(self) -> tuple[list[_Change], bool]:
        """What has been submitted, waiting for the first of it; and whether that is all there will be.

        Comes back with nothing when it is time to try a ledger that failed.
        """
        try:
            gathered = self._queue.get(timeout=self._probe_s if self.trouble else self._look_s)
        except queue.Empty:
            return [], False
        if gathered is None:
            return [], True
        self._taken += len(gathered)
        self._add_to(gathered)
        return gathered, False

    def _add_to(self, batch: list[_Change]) -> None:
        """What has been submitted meanwhile goes with the batch, as far as that has room."""
        with suppress(queue.Empty):
            while len(batch) < BATCH_MAX:
                gathered = self._queue.get_nowait()
                if gathered is None:
                    self._queue.put(None)  # the end is met when this is written
                    return
                batch += gathered
                self._taken += len(gathered)

    def _write(self, batch: list[_Change]) -> None:
        had_trouble = bool(self.trouble)
        try:
            if had_trouble:
                probe(self._link.connection())
            connection = self._link.connection()  # a file that was deleted is noticed while nobody writes, too
            if batch:
                with self._turn or nullcontext():
                    if self._turn is not None:
                        self._add_to(batch)
                    self._transact(connection, batch)
            else:
                self._others.look(connection)
        except Exception as error:  # noqa: BLE001 (the edge of the writer: who submitted the changes is told)
            for change in batch:
                change.error = error
            self._note(error)
        else:
            if had_trouble:
                log.warning("the ledger can be written again")
                self.trouble = ""

    def _transact(self, connection: sqlite3.Connection, batch: list[_Change]) -> None:
        """Write a batch in one transaction. Raises what keeps the ledger from being written."""
        try:
            with begin(connection):
                self._others.look(connection)
                _apply(connection, batch)
                last = last_row(connection)
        except Exception as error:
            if _is_trouble(error):
                raise
            # Once more: a change that is at fault fails alone, and costs the others no commit of their own.
            with begin(connection):
                self._others.look(connection)
                for change in batch:
                    _apply_alone(connection, change)
                last = last_row(connection)
        self._others.committed(last)

    def _note(self, error: Exception) -> None:
        trouble = str(error) or type(error).__name__
        if trouble != self.trouble:
            log.error("the ledger cannot be written, new requests are refused until it can: %s", trouble)
        self.trouble = trouble
        self._link.fail(error)

    def _tell(self, batch: list[_Change], news: list[list[Settlement] | None]) -> None:
        assert self._loop is not None
        try:
            for found in news:
                self._loop.call_soon_threadsafe(self.recorded_elsewhere, found)
            if self.reached is not None:
                self._loop.call_soon_threadsafe(self.reached, self._others.seq)
            self._loop.call_soon_threadsafe(_resolve, batch)
        except RuntimeError:
            lost = [change for change in batch if change.error is not None]
            log.warning("the event loop closed before %d changes were done, %d of which failed", len(batch), len(lost))


def _apply(connection: sqlite3.Connection, batch: list[_Change]) -> None:
    """Do the changes in their order; settlements that follow each other go together."""
    for work, changes in groupby(batch, _work_of):
        if work is None:
            record(connection, [change.settlement for change in changes if change.settlement is not None])
        else:
            for change in changes:
                change.result = work(connection)


def _work_of(change: _Change) -> Work | None:
    return change.work


def _apply_alone(connection: sqlite3.Connection, change: _Change) -> None:
    """Do one change; if it is at fault it is undone and told. Raises where the ledger is."""
    try:
        with savepoint(connection):
            _apply(connection, [change])
    except Exception as error:
        # A settlement that lacks its table or column shows that this is not our file; other work may just be wrong.
        if _is_trouble(error) or (change.work is None and isinstance(error, sqlite3.OperationalError)):
            raise
        # Who records a settlement expects no other error.
        change.error = error if change.work or isinstance(error, sqlite3.Error) else sqlite3.DataError(repr(error))


def _is_trouble(error: Exception) -> bool:
    """Whether the file is at fault (full, locked, gone), and not one change (a duplicate id, a wrong statement)."""
    blameless = sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, blameless):
        return False
    return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR


def _resolve(batch: list[_Change]) -> None:
    for change in batch:
        if change.waiter.done():
            continue
        if change.error is None:
            change.waiter.set_result(change.result)
        else:
            change.waiter.set_exception(change.error)
