from __future__ import annotations

import pytest

from proxy.errors import ProxyError, QuotaExceeded, RateLimited, error_answer
from proxy.gateway.counters import Counter
from proxy.gateway.refusal import rate_headers, refusal, too_large
from proxy.limits import Calendar
from proxy.model import Counted, Limit, Unit, Window
from tests.gateway.spending import Clock

NOW = Clock().now_ms  # 2026-04-13T10:30:00Z


def limited(window: Window, *, unit: Unit = Unit.TOKENS, used: int = 0, reserved: int = 0) -> tuple[Limit, Counter]:
    counted = Counted("tenant", "user-001", unit, window)
    counter = Counter(counted, Calendar(), NOW)
    counter.use(NOW, used)
    bucket = counter.bucket(NOW)
    assert bucket is not None
    bucket.reserved += reserved
    counter.reserved += reserved
    return Limit(counted, 1000, "plan starter"), counter


def told(window: Window, needed: int, *, unit: Unit = Unit.TOKENS, used: int = 0, reserved: int = 0) -> ProxyError:
    return refusal(*limited(window, unit=unit, used=used, reserved=reserved), needed, NOW)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        (Window.DAY, "It renews at 2026-04-14T00:00:00Z."),
        (Window.MONTH, "It renews at 2026-05-01T00:00:00Z."),
        (Window.TOTAL, "It does not renew by itself: ask whoever runs this service for more."),
    ],
)
def test_a_spent_quota_is_not_to_be_asked_for_again(window: Window, words: str) -> None:
    error = told(window, 50, used=960)
    assert isinstance(error, QuotaExceeded)
    assert str(error) == (
        f"You have reached your limit tokens/{window} of 1,000 (plan starter): used 960, left 40, and this request "
        f"needs 50. {words}"
    )
    status, headers, _ = error_answer(error)
    assert (status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert (b"x-should-retry", b"false") in headers
    assert b"retry-after" not in dict(headers)


@pytest.mark.parametrize(("window", "seconds"), [(Window.MINUTE, b"61"), (Window.HOUR, b"1800")])
def test_a_rate_says_when_to_come_back(window: Window, seconds: bytes) -> None:
    error = told(window, 50, used=960)
    assert isinstance(error, RateLimited)
    status, headers, _ = error_answer(error)
    assert (status, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")
    assert (b"retry-after", seconds) in headers
    assert str(error).endswith(f"Try again in {seconds.decode()} s.")


def test_what_others_have_only_reserved_is_worth_another_try() -> None:
    error = told(Window.TOTAL, 50, used=900, reserved=90)
    assert isinstance(error, RateLimited)
    assert (b"retry-after", b"1") in error.headers()
    assert "used 900, left 100, of which requests in flight have reserved 90" in str(error)


@pytest.mark.parametrize("window", [Window.MINUTE, Window.TOTAL])
def test_what_is_larger_than_the_whole_limit_is_never_to_be_had(window: Window) -> None:
    error = told(window, 1_001)
    assert isinstance(error, QuotaExceeded)
    assert "more than the whole limit" in str(error)


def test_places_in_flight_become_free_in_a_moment() -> None:
    error = told(Window.TOTAL, 1, unit=Unit.INFLIGHT, reserved=1_000)
    assert isinstance(error, RateLimited)
    assert str(error).startswith("You have 1000 requests in flight, and may have 1000 (plan starter).")


def test_more_output_than_one_request_may_ask_for_names_the_field() -> None:
    limit = Limit(Counted("tenant", "user-001", Unit.MAX_TOKENS, Window.TOTAL), 4096, "key")
    error = too_large(limit, 5000)
    assert (error.status, error.param, error.code) == (400, "max_tokens", "max_tokens_too_large")
    assert str(error) == "max_tokens is too large: 5000. You may ask for at most 4096 (key)."


def test_the_headers_tell_of_the_tightest_limit_of_each_unit() -> None:
    rates = [
        limited(Window.MINUTE, used=100),
        limited(Window.MINUTE, used=700, reserved=200),
        limited(Window.MINUTE, unit=Unit.REQUESTS),
    ]
    assert rate_headers(rates, NOW + 1_500) == [
        (b"x-ratelimit-limit-tokens", b"1000"),
        (b"x-ratelimit-remaining-tokens", b"100"),
        (b"x-ratelimit-reset-tokens", b"1m0s"),
        (b"x-ratelimit-limit-requests", b"1000"),
        (b"x-ratelimit-remaining-requests", b"1000"),
        (b"x-ratelimit-reset-requests", b"0s"),
    ]
