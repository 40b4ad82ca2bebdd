"""The admit stage: may this request be served, and a hold on what it may use until it is settled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import Forbidden
from proxy.gateway.call import Call


class LedgerHealth(Protocol):
    def check(self) -> None:
        """Raises `LedgerUnavailable` while events cannot be written."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a request in flight holds until it is settled: so far, its place among those in flight."""

    request_id: str


class Admission:
    """Checks the key's model list and the ledger's health, and knows what is in flight."""

    def __init__(self, ledger: LedgerHealth) -> None:
        self._ledger = ledger
        self._holds: dict[str, Hold] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def reserve(self, call: Call) -> Hold:
        """Admit a call, or raise `Forbidden` (403) or `LedgerUnavailable` (503). `release` must follow."""
        if call.metered:
            allowed = call.caller.models
            if allowed and call.model not in allowed:
                named = f"the model '{call.model}'" if call.model else "a request that names no model"
                raise Forbidden(f"Your API key does not allow {named}.", param="model", code="model_not_allowed")
            self._ledger.check()
        hold = Hold(call.arrival.id)
        self._holds[hold.request_id] = hold
        self._empty.clear()
        return hold

    def release(self, hold: Hold) -> None:
        del self._holds[hold.request_id]
        if not self._holds:
            self._empty.set()

    @property
    def in_flight(self) -> int:
        return len(self._holds)

    async def quiet(self) -> None:
        """Wait until nothing is in flight."""
        await self._empty.wait()
