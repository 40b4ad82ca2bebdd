"""What webhooks say, each as a notification: `{"type", "timestamp", "data"}`, as Standard Webhooks has it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.instants import iso
from proxy.limits import shown
from proxy.model import Key, Limit, Notification, Topic, Window
from proxy.web.report import limit_json


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands in one of its windows, `[start_ms, end_ms)`. `tenant` is whose it is, or whose key's."""

    limit: Limit
    tenant: str
    start_ms: int
    end_ms: int
    used: int


def threshold_crossed(standing: Standing, percent: int, time_ms: int, now_ms: int) -> Notification:
    """So much of a limit is used. Told once for each window, percentage and value of the limit."""
    data = {"percent": percent, **_standing(standing)}
    about = [*_identity(standing), percent]
    return _notification(Topic.THRESHOLD_CROSSED, standing.tenant, about, data, time_ms, now_ms)


def limit_exhausted(standing: Standing, time_ms: int, now_ms: int) -> Notification:
    """A hard limit is used up, or a request did not fit what is left. Told once for each window and value."""
    return _notification(
        Topic.LIMIT_EXHAUSTED, standing.tenant, _identity(standing), _standing(standing), time_ms, now_ms
    )


def key_expiring(key: Key, now_ms: int) -> Notification:
    """Told once for each key and the instant that it expires at."""
    assert key.expires_ms is not None
    data = {"tenant": key.tenant_id, "key_id": key.id, "name": key.name, "expires_at": iso(key.expires_ms)}
    return _notification(Topic.KEY_EXPIRING, key.tenant_id, [key.id, key.expires_ms], data, now_ms, now_ms)


def backlog_late(pending: int, oldest_ms: int, late_s: int, words: str, now_ms: int) -> Notification:
    """Events have waited for over `late_s`. Told once for that and the event that has waited the longest."""
    data = {
        "pending": pending,
        "oldest_pending_at": iso(oldest_ms),
        "oldest_pending_age_s": max(0, now_ms - oldest_ms) // 1000,
        "late_after_s": late_s,
        "message": words,
    }
    return _notification(Topic.BACKLOG_LATE, "", [oldest_ms, late_s], data, now_ms, now_ms)


def invoice_told(
    topic: Topic, tenant: str, about: list[Any], data: dict[str, Any], time_ms: int, now_ms: int
) -> Notification:
    """What was told of an invoice (`proxy.payments.invoices`). `tenant` is empty where nobody knows whose it is."""
    return _notification(topic, tenant, about, {"tenant": tenant or None, **data}, time_ms, now_ms)


def trial(now_ms: int) -> Notification:
    """Sent on demand, and never noted."""
    data = {"message": "Tollgate's webhooks reach you."}
    return _notification(Topic.TEST, "", [now_ms], data, now_ms, now_ms)


def _notification(
    topic: Topic, tenant: str, about: list[Any], data: dict[str, Any], time_ms: int, now_ms: int
) -> Notification:
    """`time_ms` is when it happened, `now_ms` when it is noted."""
    body = {"type": topic, "timestamp": iso(time_ms), "data": data}
    return Notification(
        id=f"msg_{secrets.token_hex(12)}",
        topic=topic,
        subject=tenant,
        about=orjson.dumps([topic, *about]).decode(),
        body=orjson.dumps(body).decode(),
        time_ms=now_ms,
    )


def _identity(standing: Standing) -> list[Any]:
    """A limit of one value in one window. One that is raised, lowered or topped up is another."""
    counted = standing.limit.counted
    return [counted.scope, counted.owner, counted.name, standing.start_ms, standing.limit.value]


def _standing(standing: Standing) -> dict[str, Any]:
    """In the words of `GET /api/usage`."""
    limit, counted = standing.limit, standing.limit.counted
    renews = counted.window is not Window.TOTAL
    return {
        "tenant": standing.tenant,
        "key_id": counted.owner if counted.scope == "key" else None,
        **limit_json(limit),
        "used": shown(counted.unit, standing.used),
        "remaining": shown(counted.unit, max(0, limit.value - standing.used)),
        "began_at": iso(standing.start_ms) if renews else None,
        "renews_at": iso(standing.end_ms) if renews else None,
    }
