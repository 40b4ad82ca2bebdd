"""What one worker does for it to be one of several: it keeps up with them, and settles what the dead have left."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.errors import LedgerUnavailable
from proxy.gateway.quotas import Quotas
from proxy.gateway.shares import Shares
from proxy.model import Limit
from proxy.store.commit import GroupCommit
from proxy.store.holds import Holds
from proxy.store.others import last_row

log = logging.getLogger(__name__)

#: How often new limits are looked for, and dead workers.
_FOLLOW_S = 0.25
#: How often the others are told what this one counts.
_PUBLISH_S = 1.0


class Callers(Protocol):
    """What callers may use (`proxy.store.callers.Callers`). Each may raise `LedgerUnavailable`."""

    async def revision(self) -> object: ...

    async def limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]: ...


class Fellows:
    """Its tasks."""

    def __init__(
        self,
        shares: Shares,
        quotas: Quotas,
        commit: GroupCommit,
        holds: Holds,
        callers: Callers,
        now_ms: Callable[[], int],
    ) -> None:
        self._shares = shares
        self._quotas = quotas
        self._commit = commit
        self._holds = holds
        self._callers = callers
        self._revision: object = None
        self._now_ms = now_ms
        self._tasks: list[asyncio.Task[None]] = []
        #: Tells the others what this worker counts. May raise `OSError`.
        self.publish: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin, once this worker has read the ledger: from then on the others wait for it. Raises `sqlite3.Error`."""
        await self._commit.run(last_row)
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [
                loop.create_task(self._shares.run(self._now_ms), name="tollgate-shares"),
                loop.create_task(self._run(_FOLLOW_S, self._follow), name="tollgate-fellows"),
                loop.create_task(self._run(_PUBLISH_S, self._publish), name="tollgate-counts"),
            ]

    async def stop(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self._publish()

    async def _run(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except (LedgerUnavailable, sqlite3.Error, OSError) as error:
                log.debug("other workers cannot be followed: %s", error)  # the ledger's trouble is told elsewhere
            except Exception:  # the edge of the task
                log.exception("other workers could not be followed")
            await asyncio.sleep(seconds)

    async def _follow(self) -> None:
        self._quotas.age()
        revision = await self._callers.revision()
        if revision is not self._revision:
            await self._quotas.follow(self._callers.limits)
            self._revision = revision
        for place, pid in self._shares.dead():
            # In this order: what it has settled itself was in the ledger before, and what another settles for it is
            # there when its traces are gone.
            if not self._holds.are_left_by(pid):
                self._shares.bury(place, pid, await self._commit.run(last_row))

    async def _publish(self) -> None:
        try:
            self.publish()
        except (OSError, AssertionError) as error:
            log.warning("other workers cannot be told what this one counts: %s", error)
