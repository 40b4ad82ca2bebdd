"""The admit stage: may this request be served, and a hold on what it may use until it is settled."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.errors import Forbidden, Headers, LedgerUnavailable
from proxy.gateway.call import Call
from proxy.gateway.quotas import Quotas
from proxy.gateway.reservation import Reservation
from proxy.model import Settlement, frozen

log = logging.getLogger(__name__)


class LedgerHealth(Protocol):
    def check(self) -> None:
        """Raises `LedgerUnavailable` while events cannot be written."""


class Traces(Protocol):
    """Where requests in flight leave a trace that outlives this process (`proxy.store.holds.Holds`)."""

    def take(self, known: Settlement) -> int:
        """Leave a trace. Raises `OSError`."""

    def progress(self, slot: int, characters: int) -> None: ...

    def release(self, slot: int) -> None: ...


#: How a request would be settled that was admitted at this time (unix ms), and passes this soft limit.
Known = Callable[[int, str], Settlement]


@frozen
class Hold:
    """What a request in flight holds until it is settled: its place among those in flight, its trace, its reservation.

    `known` is how it would be settled if this process ended now. What is not metered leaves no trace and has no limits.
    """

    known: Settlement
    traces: Traces
    slot: int | None
    reservation: Reservation | None

    @property
    def headers(self) -> Headers:
        """What the answer tells of the caller's limits."""
        return [] if self.reservation is None else self.reservation.headers

    @property
    def cap(self) -> int | None:
        """The output tokens of each choice that the request is to be sent on with, where it says nothing itself."""
        return None if self.reservation is None else self.reservation.cap

    def defer(self) -> None:
        """It is settled later, and holds what it has reserved until then."""
        if self.reservation is not None:
            self.reservation.deferred = True

    def progress(self, characters: int = 0) -> None:
        """The upstream has the request, and so much text of its answer has come."""
        if self.slot is not None:
            self.traces.progress(self.slot, characters)


class Admission:
    """Checks the key's model list, the ledger's health and the limits, and knows what is in flight."""

    def __init__(
        self,
        ledger: LedgerHealth,
        traces: Traces,
        quotas: Quotas,
        entitled: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`entitled` raises what it refuses a subject for that a metering engine grants nothing."""
        self._ledger = ledger
        self._entitled = entitled
        self._traces = traces
        self._quotas = quotas
        self._in_flight = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def reserve(self, call: Call, known: Known, provider: str = "") -> Hold:
        """Admit a call. `release` must follow. `known` is how it would be settled, by all that is known but its limits.

        `provider` is whose prices hold.

        Raises `Forbidden` (403), `LedgerUnavailable` (503), `EntitlementUnknown` (503), `RateLimited`, `QuotaExceeded`
        (429) or `InvalidRequest`.
        """
        slot = reservation = None
        if call.metered:
            allowed = call.caller.models
            if allowed and call.model not in allowed:
                named = f"the model '{call.model}'" if call.model else "a request that names no model"
                raise Forbidden(f"Your API key does not allow {named}.", param="model", code="model_not_allowed")
            self._ledger.check()
            if self._entitled is not None:
                await self._entitled(call.caller.subject)
            reservation = await self._reserve(call, provider)
            settlement = known(reservation.time_ms, reservation.over_limit)
            try:
                slot = self._take(settlement)
            except BaseException:
                self._quotas.release(call.arrival.id, reservation)
                raise
        else:
            settlement = known(call.arrival.time_ms, "")
        hold = Hold(settlement, self._traces, slot, reservation)
        self._in_flight += 1
        self._empty.clear()
        return hold

    def release(self, hold: Hold) -> None:
        if hold.slot is not None:
            self._traces.release(hold.slot)
        if hold.reservation is not None:
            self._quotas.release(hold.known.id, hold.reservation)
        self._in_flight -= 1
        if not self._in_flight:
            self._empty.set()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def quiet(self) -> None:
        """Wait until nothing is in flight."""
        await self._empty.wait()

    async def _reserve(self, call: Call, provider: str) -> Reservation:
        try:
            return await self._quotas.reserve(call, provider)
        except sqlite3.Error as error:
            log.error("what a caller has used could not be read, and its request is refused: %s", error)
            raise LedgerUnavailable("Usage cannot be read at the moment. Try again soon.") from None

    def _take(self, known: Settlement) -> int:
        try:
            return self._traces.take(known)
        except OSError as error:
            log.error("a request could leave no trace and is refused: %s", error)
            raise LedgerUnavailable("Usage cannot be recorded at the moment. Try again soon.") from None
