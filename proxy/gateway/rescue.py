"""Settles what processes that were killed have left in flight: at the start, and while others may die."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable

from proxy.gateway.settle import Costed
from proxy.model import Settlement
from proxy.store.commit import GroupCommit
from proxy.store.holds import Holds, Orphan
from proxy.store.ledger import record_unsettled

log = logging.getLogger(__name__)

_EVERY_S = 1.0


class Rescue:
    """One task that looks after the traces: its own are written to disk, those of the dead are settled."""

    def __init__(
        self,
        holds: Holds,
        commit: GroupCommit,
        recorded: Callable[[Settlement], None],
        *,
        costed: Costed = lambda settlement: settlement,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._costed = costed
        self._holds = holds
        self._commit = commit
        self._recorded = recorded
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Raises `ConfigurationError` where no trace could be left."""
        if self._task is None:
            self._holds.open(self._now_ms())
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-rescue")

    async def stop(self) -> None:
        """End. What is still in flight keeps its trace, for the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
            self._holds.close()

    async def _run(self) -> None:
        trouble = ""
        while True:
            try:
                self._holds.seen(self._now_ms())
                await asyncio.to_thread(self._holds.sync)
                for orphan in self._holds.orphans():
                    await self._settle(orphan)
                trouble = ""
            except (OSError, sqlite3.Error) as error:
                if trouble != (trouble := str(error)):
                    log.warning("requests in flight are traced, and interrupted ones settled, later: %s", error)
            except Exception:
                # The edge of the task: a fault of ours must not end it.
                log.exception("interrupted requests could not be settled")
            await asyncio.sleep(_EVERY_S)

    async def _settle(self, orphan: Orphan) -> None:
        settled = False
        try:
            interrupted = [self._costed(one) for one in orphan.settlements()]
            unsettled: list[Settlement] = []
            if interrupted:
                unsettled = await self._commit.run(lambda connection: record_unsettled(connection, interrupted))
            settled = True
        finally:
            orphan.close(settled=settled)
        if unsettled:
            log.warning("%d requests were interrupted by the end of their process, and are settled now", len(unsettled))
        for one in unsettled:
            self._recorded(one)
