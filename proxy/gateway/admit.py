"""The admit stage: may this request be served, and a hold on what it may use until it is settled."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import Forbidden, LedgerUnavailable
from proxy.gateway.call import Call
from proxy.model import Settlement

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


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request in flight holds until it is settled: its place among those in flight, and its trace.

    `known` is how it would be settled if this process ended now. A request that is not metered leaves no trace.
    """

    known: Settlement
    traces: Traces
    slot: int | None

    def progress(self, characters: int = 0) -> None:
        """The upstream has the request, and so much text of its answer has come."""
        if self.slot is not None:
            self.traces.progress(self.slot, characters)


class Admission:
    """Checks the key's model list and the ledger's health, and knows what is in flight."""

    def __init__(self, ledger: LedgerHealth, traces: Traces) -> None:
        self._ledger = ledger
        self._traces = traces
        self._in_flight = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def reserve(self, call: Call, known: Settlement) -> Hold:
        """Admit a call, or raise `Forbidden` (403) or `LedgerUnavailable` (503). `release` must follow."""
        slot = None
        if call.metered:
            allowed = call.caller.models
            if allowed and call.model not in allowed:
                named = f"the model '{call.model}'" if call.model else "a request that names no model"
                raise Forbidden(f"Your API key does not allow {named}.", param="model", code="model_not_allowed")
            self._ledger.check()
            slot = self._take(known)
        hold = Hold(known, self._traces, slot)
        self._in_flight += 1
        self._empty.clear()
        return hold

    def release(self, hold: Hold) -> None:
        if hold.slot is not None:
            self._traces.release(hold.slot)
        self._in_flight -= 1
        if not self._in_flight:
            self._empty.set()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def quiet(self) -> None:
        """Wait until nothing is in flight."""
        await self._empty.wait()

    def _take(self, known: Settlement) -> int:
        try:
            return self._traces.take(known)
        except OSError as error:
            log.error("a request could leave no trace and is refused: %s", error)
            raise LedgerUnavailable("Usage cannot be recorded at the moment. Try again soon.") from None
