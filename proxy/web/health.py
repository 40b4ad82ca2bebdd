"""`/healthz`: the process lives. `/readyz`: it can serve, which takes a ledger that can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse

from proxy.delivery.watch import Watch
from proxy.errors import LedgerUnavailable
from proxy.gateway.admit import LedgerHealth
from proxy.gateway.entitlements import Entitlements
from proxy.store.notifications import Counts


async def healthz(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


class WebhooksHealth(Protocol):
    """How webhooks stand (`proxy.webhooks.service.Webhooks`)."""

    @property
    def counts(self) -> Counts: ...

    @property
    def trouble(self) -> str: ...


class Readiness:
    """200 while new requests are served, else 503. Trouble with the sink or webhooks is told, and makes nobody wait.

    `delivery_trouble` tells it; None where there is no sink, as `webhooks` where there are none, and `entitlements`
    where nobody is asked for them.
    """

    def __init__(
        self,
        ledger: LedgerHealth,
        watch: Watch,
        delivery_trouble: Callable[[], str] | None,
        webhooks: WebhooksHealth | None = None,
        entitlements: Entitlements | None = None,
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._entitlements = entitlements
        self._delivery_trouble = delivery_trouble
        self._webhooks = webhooks

    async def readyz(self, _: Request) -> JSONResponse:
        try:
            self._ledger.check()
        except LedgerUnavailable as error:
            return JSONResponse({"status": "unavailable", "ledger": str(error), **self._others()}, 503)
        return JSONResponse({"status": "ready", "ledger": "ok", **self._others()})

    def _others(self) -> dict[str, Any]:
        told = {"delivery": self._delivery(), "webhooks": self._sent()}
        if self._entitlements is not None:
            trouble = self._entitlements.trouble
            told["entitlements"] = {"state": "failing" if trouble else "ok", "trouble": trouble}
        return told

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
        webhooks = self._webhooks
        if webhooks is None:
            return {"state": "off"}
        trouble, counts = webhooks.trouble, webhooks.counts
        state = "failing" if trouble else "ok"
        return {"state": state, "trouble": trouble, "pending": counts.pending, "dead": counts.dead}
