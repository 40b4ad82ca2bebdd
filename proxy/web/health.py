"""`/healthz`: the process lives. `/readyz`: it can serve, which takes a ledger that can be written."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxy.errors import LedgerUnavailable
from proxy.gateway.admit import LedgerHealth


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class Readiness:
    """200 while new requests are served, else 503. Trouble with the sink is told, and makes nobody wait."""

    def __init__(self, ledger: LedgerHealth, delivery_trouble: Callable[[], str]) -> None:
        self._ledger = ledger
        self._delivery_trouble = delivery_trouble

    async def readyz(self, _: Request) -> JSONResponse:
        delivery = self._delivery_trouble() or "ok"
        try:
            self._ledger.check()
        except LedgerUnavailable as error:
            return JSONResponse({"status": "unavailable", "ledger": str(error), "delivery": delivery}, 503)
        return JSONResponse({"status": "ready", "ledger": "ok", "delivery": delivery})
