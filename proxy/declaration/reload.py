"""When the file is read again: it has changed, or somebody asks for it (SIGHUP). None of this is on the request path.

A file is read when it has stayed the same between two looks, so that one that is being written is not taken for one
that declares less. An editor's rename, or the links of a ConfigMap, make another file of it at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable

from proxy.declaration.apply import Declared, warn_of_unread
from proxy.errors import ConfigurationError
from proxy.settings import Settings
from proxy.source import Stamp, stamp_of
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.reader import Reader

log = logging.getLogger(__name__)

#: How often the file is looked at.
LOOK_S = 0.25
#: How often it is tried again where the ledger could not take it.
RETRY_S = 1.0
#: How often it is looked whether what it declares is still in force.
OTHERS_S = 10.0


class Reload:
    """One task that looks. `start` and `stop` may be called in any order, and more than once."""

    def __init__(self, declared: Declared, database: Database) -> None:
        self.declared = declared
        self._path = declared.source.path
        self._database = database
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_asked = False
        #: The file as it was at the last look, and as it was last read.
        self._looked = self._read = declared.source.stamp
        self._retry_at = math.inf
        self._others_at = 0.0

    def start(self, commit: GroupCommit, applied: Callable[[], None]) -> None:
        """Begin to look. `applied` is called in the loop when something in the store has changed."""
        if self._task is None:
            self._stopping = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(commit, applied), name="tollgate-reload")

    async def stop(self) -> None:
        """End, once what is being done is over."""
        task, self._task = self._task, None
        if task is not None:
            self._stopping.set()
            await asyncio.wait([task])

    def soon(self) -> None:
        """Read the file at the next look, whether it has changed or not."""
        self._is_asked = True

    async def look(self, commit: GroupCommit, reader: Reader) -> bool:
        """One look; whether something in the store has changed."""
        now = time.monotonic()
        is_asked, self._is_asked = self._is_asked, False
        stamp = await asyncio.to_thread(stamp_of, self._path)
        is_settled, self._looked = stamp == self._looked, stamp
        if is_asked or (is_settled and stamp != self._read) or now >= self._retry_at:
            return await self._apply(stamp, commit, reader)
        if now >= self._others_at:
            self._others_at = now + OTHERS_S
            if await self.declared.is_gone(reader):  # no |=, which forgets who asks meanwhile
                self._is_asked = True
        return False

    async def _run(self, commit: GroupCommit, applied: Callable[[], None]) -> None:
        reader = Reader(self._database)
        while not self._stopping.is_set():
            try:
                if await self.look(commit, reader):
                    applied()
            except Exception:
                log.exception("%s could not be followed", self._path)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                pass
        await reader.stop()

    async def _apply(self, stamp: Stamp, commit: GroupCommit, reader: Reader) -> bool:
        self._read, self._retry_at = stamp, math.inf
        try:
            if stamp is None:
                raise ConfigurationError(f"{self._path} is not there, or no plain file")
            return await self.declared.apply(commit, reader, lambda: stamp_of(self._path) == stamp)
        except ConfigurationError as error:
            self.declared.refuse(error)
        except sqlite3.Error as error:
            self._retry_at = time.monotonic() + RETRY_S
            self.declared.fail(error)
        return False


def apply_first(settings: Settings, database: Database, now_ms: Callable[[], int]) -> Reload | None:
    """Apply what the settings' file declares, and return what follows its changes; None where there is no file.

    Raises `ConfigurationError`, and `sqlite3.Error`.
    """
    if settings.source is None:
        warn_of_unread(database)
        return None
    declared = Declared(settings.source, settings.limits.time_zone, now_ms)
    declared.apply_first(database)
    return Reload(declared, database)
