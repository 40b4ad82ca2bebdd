"""One thread that reads, so that a long question holds up neither the event loop nor the writer."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from proxy.store.database import Database, Link

T = TypeVar("T")


class Reader:
    """Questions are answered one after the other, on a connection of their own."""

    def __init__(self, database: Database) -> None:
        self._link = Link(database, read_only=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tollgate-reader")

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """What it finds in one view of the data. Raises what it raises, and `sqlite3.Error`."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, question)

    async def stop(self) -> None:
        """Answer all that was asked, then close the connection. Nothing can be asked any more."""
        await asyncio.to_thread(self._thread.shutdown)
        self._link.close()

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._link.connection()
            # What it sorts stays in memory: in a container there may be no directory for temporary files.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("BEGIN")
            try:
                return question(connection)
            finally:
                if connection.in_transaction:  # some errors end it
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self._link.fail(error)
            raise
