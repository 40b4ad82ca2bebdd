"""Group commit: one writer thread, and in each transaction whatever has gathered while the last one was written.

Requests wait for their commit. A single one costs one fsync; a hundred at once cost one fsync as well.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.errors import LedgerUnavailable
from proxy.model import Settlement
from proxy.store.database import Database, begin
from proxy.store.ledger import record

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

#: Changes in one transaction at most.
BATCH_MAX = 512
#: Changes that may wait; beyond it new requests are refused.
BACKLOG_MAX = 20_000
#: How often a ledger that failed is tried again while nobody writes.
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
    """Owns the writing connection. `start` and `stop` may be called in any order, and more than once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: sqlite3.Connection | None = None
        #: Why the last write failed; empty while all is well.
        self.trouble = ""

    def start(self) -> None:
        """Begin to write. Changes submitted before are written now."""
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._main, name="tollgate-ledger", daemon=True)
            self._thread.start()

    async def stop(self) -> None:
        """Write all that was submitted, then close the connection."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    @property
    def backlog(self) -> int:
        return self._queue.qsize()

    def check(self) -> None:
        """Raises `LedgerUnavailable` while events cannot be written."""
        if self.trouble or self._thread is None or self.backlog > BACKLOG_MAX:
            raise LedgerUnavailable("Usage cannot be recorded at the moment, so nothing new is served. Try again soon.")

    def record(self, settlement: Settlement) -> asyncio.Future[None]:
        """Record a settlement; the future is done when it is on disk, or raises `sqlite3.Error`."""
        return self._submit(settlement, None)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Do other work in the next transaction. It may be done twice, the first time rolled back."""
        return self._submit(None, work)

    def _submit(self, settlement: Settlement | None, work: Work | None) -> asyncio.Future[Any]:
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put(_Change(settlement, work, waiter))
        return waiter

    # In the writer thread

    def _main(self) -> None:
        stopping = False
        while not stopping:
            batch, stopping = self._gather()
            if batch:
                self._write(batch)
                self._tell(batch)
            elif self.trouble:
                self._probe()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _gather(self) -> tuple[list[_Change], bool]:
        """What has been submitted, waiting for the first of it; and whether that is all there will be."""
        batch: list[_Change] = []
        try:
            change = self._queue.get(timeout=_PROBE_S if self.trouble else None)
            while change is not None:
                batch.append(change)
                if len(batch) >= BATCH_MAX:
                    return batch, False
                change = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _write(self, batch: list[_Change]) -> None:
        try:
            self._transact(batch)
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 (the edge of the writer: who submitted the change is told)
            if len(batch) > 1 and not _is_trouble(error):
                for change in batch:  # one by one, so that only the culprit fails
                    self._write([change])
                return
            for change in batch:
                change.error = error
            if _is_trouble(error):
                self._note(error)

    def _transact(self, batch: list[_Change]) -> None:
        if self._connection is None:
            self._connection = self._database.connect()
        with begin(self._connection):
            settlements = [change.settlement for change in batch if change.settlement is not None]
            if settlements:
                record(self._connection, settlements)
            for change in batch:
                if change.work is not None:
                    change.result = change.work(self._connection)

    def _note(self, trouble: Exception) -> None:
        if not self.trouble:
            log.error("the ledger cannot be written, new requests are refused until it can: %s", trouble)
        self.trouble = str(trouble)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _probe(self) -> None:
        try:
            self._transact([])
            self.trouble = ""
            log.warning("the ledger can be written again")
        except sqlite3.Error as error:
            self._note(error)

    def _tell(self, batch: list[_Change]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, batch)
        except RuntimeError:
            log.warning("%d changes were written after the event loop had closed", len(batch))


def _is_trouble(error: Exception) -> bool:
    """Whether the file is at fault (full, locked, gone), and not one change (a duplicate id, an unknown tenant)."""
    blameless = sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.DataError
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, blameless)


def _resolve(batch: list[_Change]) -> None:
    for change in batch:
        if change.waiter.done():
            continue
        if change.error is None:
            change.waiter.set_result(change.result)
        else:
            change.waiter.set_exception(change.error)
