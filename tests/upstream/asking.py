"""Asking a scripted upstream through a real pool."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from proxy.errors import Headers
from proxy.upstream.connect import Origin
from proxy.upstream.connection import Answer, Body, Connection, Timeouts
from proxy.upstream.pool import Pool, PoolLimits
from tests.scripted import ScriptedUpstream

LIMITS = PoolLimits(connections_max=16, waiting_max=16, wait_s=5, connect_timeout_s=5, idle_s=30)
TIMEOUTS = Timeouts(first_byte_s=5, between_bytes_s=5)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def tag(self) -> dict[str, Any]:
        """What `scripted.answers` said."""
        tag: dict[str, Any] = json.loads(self.body)
        return tag


@asynccontextmanager
async def pool_for(
    upstream: ScriptedUpstream | str,
    *,
    ca_file: str | None = None,
    timeouts: Timeouts = TIMEOUTS,
    **limits: float,
) -> AsyncIterator[Pool]:
    """A pool for the scripted upstream, or another URL. `limits` are fields of `PoolLimits`."""
    url = upstream if isinstance(upstream, str) else upstream.url
    pool = Pool(Origin.parse(url), replace(LIMITS, **limits), timeouts, ca_file=ca_file)  # type: ignore[arg-type]
    try:
        yield pool
    finally:
        await pool.close()


def _nothing(_: Connection) -> None:
    pass


async def send(
    pool: Pool,
    body: Body = b"",
    *,
    target: str = "/x",
    headers: Headers | None = None,
    length: int | None = None,
    tenant: str = "a",
) -> Answer:
    """The head of the answer. `close` must follow."""
    if length is None and isinstance(body, bytes):
        length = len(body)
    return await pool.send("POST", target.encode(), headers or [], body, length=length, tenant=tenant, begin=_nothing)


async def rest(answer: Answer) -> bytes:
    """The answer's body from here to its end; the answer is closed."""
    try:
        pieces = []
        while data := await answer.read():
            pieces.append(data)
        return b"".join(pieces)
    finally:
        answer.close()


async def ask(
    pool: Pool, body: Body = b"", *, target: str = "/x", length: int | None = None, tenant: str = "a"
) -> Reply:
    """A request and its whole answer."""
    answer = await send(pool, body, target=target, length=length, tenant=tenant)
    return Reply(answer.status, answer.headers, await rest(answer))


async def settled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel these tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def open_sockets() -> int:
    """How many sockets this process holds."""
    count = 0
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 # entries vanish while they are listed
        try:
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")  # noqa: PTH115
        except OSError:
            continue
    return count
