"""What a caller is told of its limits: the headers of each answer, and a refusal that says when to come back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from proxy.errors import Forbidden, Headers, InvalidRequest, ProxyError, QuotaExceeded, RateLimited
from proxy.gateway.counters import Counter
from proxy.limits import SLIDING_MS, told
from proxy.model import ENGINE, Limit, Unit, Window

#: Refused for a while; what is refused for longer is a quota, for which clients should not ask again.
_RATES = (Window.MINUTE, Window.HOUR)
_BUSY_RETRY_S = 1
_RATE_HEADERS = {
    unit: tuple(f"x-ratelimit-{name}-{unit}".encode() for name in ("limit", "remaining", "reset")) for unit in Unit
}


def refusal(limit: Limit, counter: Counter, needed: int, now_ms: int) -> ProxyError:
    """The error for a request that needs more than what is left, or than what others have not reserved."""
    counted = limit.counted
    unit = counted.unit
    what = words_of(limit)
    if unit is Unit.INFLIGHT:
        message = f"You have {counter.reserved} requests in flight, and may have {limit.value} ({limit.origin})."
        return RateLimited(f"{message} Try again when one has ended.", "requests", retry_after_s=_BUSY_RETRY_S)
    left = max(0, limit.value - counter.used)
    if counted.scope == ENGINE and needed > left:
        message = f"Your plan's {limit.origin} has {left:,} tokens left, and this request needs {needed:,}."
        return QuotaExceeded(f"{message} Ask for less, such as a smaller max_tokens, or wait for its next period.")
    used = f"left {told(unit, left)}"
    if counted.scope != ENGINE:
        used = f"used {told(unit, counter.used)}, {used}"
    if needed <= left:
        message = f"Limit {what}: {used}, of which requests in flight have reserved {told(unit, counter.reserved)}."
        message += f" This request needs {told(unit, needed)}. Try again soon."
        return RateLimited(message, str(unit), retry_after_s=_BUSY_RETRY_S)
    free_at_ms = counter.free_at_ms(needed, limit.value, now_ms)
    message = f"You have reached your limit {what}: {used}, and this request needs {told(unit, needed)}."
    if needed > limit.value:
        return QuotaExceeded(f"{message} It is more than the whole limit: ask for less, such as a smaller max_tokens.")
    if counted.window in _RATES:
        retry_after_s = max(1, math.ceil((free_at_ms - now_ms) / 1000))
        return RateLimited(f"{message} Try again in {retry_after_s} s.", str(unit), retry_after_s=retry_after_s)
    if counted.window is Window.TOTAL:
        return QuotaExceeded(f"{message} It does not renew by itself: ask whoever runs this service for more.")
    return QuotaExceeded(f"{message} It renews at {_instant(free_at_ms)}.")


def words_of(limit: Limit) -> str:
    """A limit as people are told of it."""
    if limit.counted.scope == ENGINE:
        return limit.origin
    return f"{limit.counted.name} of {told(limit.counted.unit, limit.value)} ({limit.origin})"


def too_large(limit: Limit, asked: int) -> InvalidRequest:
    """The error for a request that asks for more output than one request may."""
    message = f"max_tokens is too large: {asked}. You may ask for at most {limit.value} ({limit.origin})."
    return InvalidRequest(message, param="max_tokens", code="max_tokens_too_large")


def not_priced(limit: Limit, model: str) -> Forbidden:
    """The error for a model whose price nobody knows, where money is limited: it could be spent without end."""
    message = f"The model '{model}' has no price here, and what you may spend is limited by {limit.counted.name}"
    message += f" ({limit.origin}). Use another model, or ask whoever runs this service to give it a price."
    return Forbidden(message, param="model", code="model_not_priced")


def rate_headers(rates: Iterable[tuple[Limit, Counter]], now_ms: int) -> Headers:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, of the limit by the minute that leaves least."""
    headers: Headers = []
    tightest: dict[Unit, tuple[int, Limit, Counter]] = {}
    for limit, counter in rates:
        left = max(0, limit.value - counter.used - counter.reserved)
        known = tightest.get(limit.counted.unit)
        if known is None or left < known[0]:
            tightest[limit.counted.unit] = (left, limit, counter)
    for unit, (left, limit, counter) in tightest.items():
        reset_ms = max(0, counter.last_ms + SLIDING_MS - now_ms) if left < limit.value else 0
        of_limit, of_left, of_reset = _RATE_HEADERS[unit]
        headers += (of_limit, b"%d" % limit.value), (of_left, b"%d" % left), (of_reset, _span(reset_ms).encode())
    return headers


def _span(ms: int) -> str:
    """As OpenAI writes it: `120ms`, `1s`, `1m2s`."""
    if ms < 1000:
        return f"{ms}ms" if ms else "0s"
    minutes, seconds = divmod(math.ceil(ms / 1000), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
