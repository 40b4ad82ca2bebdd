"""`/healthz`: the process lives. `/readyz`: it can serve, which takes a ledger that can be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxy.delivery.watch import Watch
from proxy.errors import LedgerUnavailable
from proxy.gateway.admit import LedgerHealth
from proxy.store.notifications import Counts


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class WebhooksHealth(Protocol):
    """How webhooks stand (`proxy.webhooks.service.Webhooks`)."""

    @property
    def counts(self) -> Counts: ...

    @property
    def trouble(self) -> str: ...


class Troubled(Protocol):
    """A part that can fail without keeping requests from being served."""

    @property
    def trouble(self) -> str: ...


class Readiness:
    """200 while new requests are served, else 503. Trouble with other parts is told, and makes nobody wait.

    `delivery_trouble` tells that of the sink. What is None is not in use: the sink, webhooks, entitlements, a file that
    declares tenants.
    """

    def __init__(
        self,
        ledger: LedgerHealth,
        watch: Watch,
        delivery_trouble: Callable[[], str] | None,
        *,
        webhooks: WebhooksHealth | None = None,
        entitlements: Troubled | None = None,
        declared: Troubled | None = None,
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._delivery_trouble = delivery_trouble
        self._webhooks = webhooks
        self._entitlements = entitlements
        self._declared = declared

    async def readyz(self, _: Request) -> JSONResponse:
        try:
            self._ledger.check()
        except LedgerUnavailable as error:
            return JSONResponse({"status": "unavailable", "ledger": str(error)} | self._parts(), 503)
        return JSONResponse({"status": "ready", "ledger": "ok"} | self._parts())

    def _parts(self) -> dict[str, Any]:
        return {
            "delivery": self._delivery(),
            "webhooks": self._sent(),
            "entitlements": _state(self._entitlements),
            "declaration": _state(self._declared),
        }

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

    def _sent(self) -> dict[str, Any]:
        counts = {} if self._webhooks is None else asdict(self._webhooks.counts)
        return _state(self._webhooks) | counts


def _state(part: Troubled | None) -> dict[str, Any]:
    trouble = "" if part is None else part.trouble
    return {"state": "off" if part is None else "failing" if trouble else "ok", "trouble": trouble}
