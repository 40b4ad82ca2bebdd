"""`/healthz`: the process lives. `/readyz`: it can serve, which takes a ledger that can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxy.delivery.watch import Watch
from proxy.errors import LedgerUnavailable
from proxy.gateway.admit import LedgerHealth


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class Readiness:
    """200 while new requests are served, else 503. Trouble with the sink is told, and makes nobody wait.

    `delivery_trouble` tells it; None where there is no sink.
    """

    def __init__(self, ledger: LedgerHealth, watch: Watch, delivery_trouble: Callable[[], str] | None) -> None:
        self._ledger = ledger
        self._watch = watch
        self._delivery_trouble = delivery_trouble

    async def readyz(self, _: Request) -> JSONResponse:
        try:
            self._ledger.check()
        except LedgerUnavailable as error:
            return JSONResponse({"status": "unavailable", "ledger": str(error), "delivery": self._delivery()}, 503)
        return JSONResponse({"status": "ready", "ledger": "ok", "delivery": self._delivery()})

    def _delivery(self) -> dict[str, Any]:
        watch = self._watch
        trouble = "" if self._delivery_trouble is None else self._delivery_trouble()
        return {
            "state": "off" if self._delivery_trouble is None else "failing" if trouble else "ok",
            "trouble": trouble,
            "pending": watch.backlog.pending,
            "oldest_pending_age_s": watch.age_s,
            "dead": watch.backlog.dead,
            "warning": watch.warning,
        }
