"""Background responses (`"background": true`): settled once, when their usage first becomes known.

The upstream answers at once, without usage, and generates later. So the request's settlement waits on disk, and the
response is asked for until it has ended; whether its tenant polls for it as well makes no difference.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace

import orjson

from proxy.errors import InvalidRequest, LedgerUnavailable, ProxyError
from proxy.gateway.meter import meter_for
from proxy.gateway.settle import Costed
from proxy.model import NO_USAGE, Outcome, Settlement, UsageSource
from proxy.store import followups
from proxy.store.commit import GroupCommit
from proxy.store.followups import Pending
from proxy.upstream.connection import Connection
from proxy.upstream.route import Router
from proxy.wire.tokens import BY_BYTES

log = logging.getLogger(__name__)

#: The first question comes after this time; the wait doubles up to the second.
FIRST_MS = 2_000
_WAIT_MS_MAX = 60_000
#: OpenAI keeps what was not to be stored for about ten minutes, and the rest for 30 days; nothing takes a day.
_GIVE_UP_MS = 86_400_000
_AT_ONCE = 32
_RETRY_S = 5.0
#: How often the ledger is looked at where nothing waits: some may have been imported.
_LOOK_S = 60.0
_ENDED = ("completed", "failed", "incomplete", "cancelled")


class Followup:
    """One task that asks for what is due. `start` and `stop` may be called in any order, and more than once."""

    def __init__(
        self,
        commit: GroupCommit,
        router: Router,
        recorded: Callable[[Settlement], None],
        *,
        costed: Costed = lambda settlement: settlement,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._costed = costed
        self._commit = commit
        self._router = router
        self._recorded = recorded
        self._now_ms = now_ms
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-followup")

    async def stop(self) -> None:
        """What is not settled yet is asked for after the next start."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def defer(self, settlement: Settlement, upstream_key: str) -> asyncio.Future[None]:
        """Let a settlement wait for its response; the future is done when that is on disk."""
        now_ms = self._now_ms()
        deferred = self._commit.run(
            lambda connection: followups.add(
                connection,
                settlement,
                next_ms=now_ms + FIRST_MS,
                until_ms=now_ms + _GIVE_UP_MS,
                upstream_key=upstream_key,
            )
        )
        self._woken.set()
        return deferred

    async def _run(self) -> None:
        while True:
            try:
                self._woken.clear()
                pending = await self._commit.run(lambda connection: followups.due(connection, self._now_ms(), _AT_ONCE))
                await asyncio.gather(*[self._ask(one) for one in pending])
                soonest = await self._commit.run(followups.next_ms)
                wait_s = _LOOK_S if soonest is None else max(0.05, (soonest - self._now_ms()) / 1000)
            except sqlite3.Error as error:
                log.warning("background responses are followed up later: %s", error)
                wait_s = _RETRY_S
            except Exception:
                # The edge of the task: a fault of ours must not end it.
                log.exception("background responses could not be followed up")
                wait_s = _RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def settle_first(self, response_id: str) -> None:
        """Settle a response that its tenant is about to delete, because nobody could be asked for its usage then.

        Raises `InvalidRequest` where it has not ended, and `LedgerUnavailable`.
        """
        try:
            waiting = await self._commit.run(lambda connection: followups.of_response(connection, response_id))
            settled = [await self._ask(pending) for pending in waiting]
        except sqlite3.Error:
            raise LedgerUnavailable("Usage cannot be recorded at the moment. Try again soon.") from None
        if not all(settled):
            message = "This response is still being generated: cancel it, or wait for its end, before you delete it."
            raise InvalidRequest(message, code="response_not_ended")

    async def _ask(self, pending: Pending) -> bool:
        """Ask for one response, and settle it where it has ended; else ask again later. Whether it is settled."""
        known = pending.settlement
        try:
            status, body = await self._get(pending)
        except ProxyError as error:
            log.info("response %s could not be asked for: %s", pending.response_id, error)
            status, body = 0, b""
        settled = _settled(known, status, body)
        if settled is None and self._now_ms() >= pending.until_ms:
            settled = _unused(known)
        if settled is None:
            wait_ms = min(_WAIT_MS_MAX, FIRST_MS << min(pending.tries + 1, 16))
            at_ms = self._now_ms() + wait_ms
            await self._commit.run(lambda connection: followups.postpone(connection, known.id, at_ms))
            return False
        final = self._costed(replace(settled, duration_ms=self._now_ms() - known.time_ms))
        if await self._commit.run(lambda connection: followups.settle(connection, final)):
            self._recorded(final)
        return True

    async def _get(self, pending: Pending) -> tuple[int, bytes]:
        known = pending.settlement
        upstream = self._router.route(known.requested_model, pending.upstream_key)
        headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity"), *upstream.credentials]
        target = b"/responses/" + pending.response_id.encode()
        answer = await upstream.pool.send("GET", target, headers, b"", length=None, tenant=known.subject, begin=_ignore)
        try:
            parts = []
            while part := await answer.read():
                parts.append(part)
                if answer.at_end:
                    break
            return answer.status, b"".join(parts)
        finally:
            answer.close()


def _ignore(_: Connection) -> None:
    pass


def _settled(known: Settlement, status: int, body: bytes) -> Settlement | None:
    """The settlement of a response that has ended, or is gone (404); None for one that has not."""
    if status == 404:
        return _unused(known)
    if status != 200:
        return None
    meter = meter_for(b"application/json", None, hides_usage=False)
    meter.feed(body)
    reading = meter.reading()
    state = _state(body)
    is_reported = reading.usage_source is UsageSource.REPORTED
    if not is_reported and state not in _ENDED:
        return None
    model = reading.model or known.model
    if reading.failed or state == "failed":
        known = _unused(known)
    if is_reported:
        known = replace(known, usage=reading.usage, usage_source=reading.usage_source, estimator="")
    elif known.outcome is not Outcome.UPSTREAM_ERROR:
        # Whoever cancels has had what was generated until then.
        written = replace(meter.delivered().tokens(BY_BYTES, model), uncached_input=known.usage.uncached_input)
        known = replace(known, usage=written, usage_source=UsageSource.ESTIMATED, estimator=BY_BYTES.name)
    tier = reading.service_tier or known.service_tier
    return replace(known, model=model, usage_path=reading.usage_path, service_tier=tier)


def _unused(known: Settlement) -> Settlement:
    """The settlement of a response of which nobody knows what it used."""
    return replace(known, outcome=Outcome.UPSTREAM_ERROR, usage=NO_USAGE, usage_source=UsageSource.NONE, estimator="")


def _state(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    state = answer.get("status") if isinstance(answer, dict) else None
    return state if isinstance(state, str) else ""
