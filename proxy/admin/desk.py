"""Carries operations out in a running server: questions on a reading thread, changes through the one writer.

Requests of tenants do not wait for that: of changes there is one at a time in a commit, none of which takes long, and a
question that takes too long is given up.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from proxy.admin.operation import Answer, Context, Operation
from proxy.errors import LedgerUnavailable, RateLimited, TooMuch
from proxy.model import Settlement
from proxy.settings import Settings
from proxy.store import answered
from proxy.store.commit import GroupCommit
from proxy.store.reader import Reader
from proxy.store.usage import Bounds

log = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS_MAX = 5.0
_BOUNDS = Bounds(10_000, SECONDS_MAX)
#: Requests that may wait for their turn.
_WAITING_MAX = 100
#: How often SQLite asks whether to go on, in steps of its virtual machine.
_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Once:
    """A request that may be repeated: the key that its client chose, and a digest of what it asks."""

    key: str
    request: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """What is answered, which may have a secret in it. `repeated`: it was answered before."""

    body: bytes = field(repr=False)
    repeated: bool = False


class Desk:
    """`changed` is told in the loop of each change, with the settlements that it has recorded."""

    def __init__(
        self,
        settings: Settings,
        commit: GroupCommit,
        reader: Reader,
        changed: Callable[[list[Settlement]], None],
        now_ms: Callable[[], int],
        *,
        seconds_max: float = SECONDS_MAX,
    ) -> None:
        self._settings = settings
        self._commit = commit
        self._reader = reader
        self._changed = changed
        self._now_ms = now_ms
        self._seconds_max = seconds_max
        self._waiting = 0
        self._writing = asyncio.Lock()

    async def run(self, operation: Operation[Any, Any], asked: Any, write_as: str, once: Once | None) -> Done:
        """Carry an operation out, and write its answer as `json` or `csv`. Raises `StoreError` and `ProxyError`."""
        if self._waiting >= _WAITING_MAX:
            raise RateLimited(
                "The admin API is asked faster than it answers. Try again soon.", "requests", retry_after_s=1
            )
        self._waiting += 1
        try:
            if operation.writes:
                ahead = operation.ahead
                known = [] if ahead is None else [await ahead(self._settings, asked, self._rehearse)]
                async with self._writing:
                    return await self._write(operation, asked, once, known)
            return await self._read(lambda context: Done(_written(operation, operation.do(context, asked), write_as)))
        except sqlite3.Error as error:
            log.error("an operation of the admin API failed: %s", error)
            raise LedgerUnavailable("The ledger cannot be used at the moment. Try again soon.") from None
        finally:
            self._waiting -= 1

    async def _read(self, question: Callable[[Context], T]) -> T:
        def ask(connection: sqlite3.Connection) -> T:
            with _bounded(connection, self._seconds_max):
                return question(self._context(connection))

        return await self._reader.read(ask)

    async def _rehearse(self, work: Callable[[Context], T]) -> T:
        return await self._commit.run(lambda connection: work(self._context(connection)))

    async def _write(self, operation: Operation[Any, Any], asked: Any, once: Once | None, known: list[Any]) -> Done:
        self._commit.check()
        found = [*known]
        if operation.find is not None:
            find = operation.find
            found.append(await self._read(lambda context: find(context, asked)))

        def work(connection: sqlite3.Connection) -> tuple[Done, list[Settlement]]:
            context = self._context(connection)
            if once is not None:
                said = answered.answered(connection, once.key, once.request)
                if said is not None:
                    return Done(said.encode(), repeated=True), []
            answer: Answer = operation.do(context, asked, *found)
            if once is not None:
                kept = orjson.dumps(answer.to_keep()).decode()
                answered.note(connection, once.key, once.request, kept, context.now_ms)
            return Done(_written(operation, answer)), context.recorded

        done = self._commit.run(work)
        # Not after an `await`: whoever waits here may be cancelled, and what was recorded must be counted all the same.
        done.add_done_callback(self._note)
        return (await asyncio.shield(done))[0]

    def _note(self, done: asyncio.Future[tuple[Done, list[Settlement]]]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._changed(done.result()[1])

    def _context(self, connection: sqlite3.Connection) -> Context:
        return Context(connection, self._settings, self._now_ms(), _BOUNDS)


def _written(operation: Operation[Any, Any], answer: Answer, write_as: str = "json") -> bytes:
    if write_as == "csv":
        assert operation.csv is not None
        return operation.csv(answer).encode()
    return orjson.dumps(answer.json_object())


@contextmanager
def _bounded(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Raises `TooMuch` where it takes longer."""
    until_s = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() > until_s, _STEPS)
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise TooMuch("finding that takes too long: ask for less, or for a shorter time") from None
    finally:
        connection.set_progress_handler(None, 0)
