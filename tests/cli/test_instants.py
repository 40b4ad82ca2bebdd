from __future__ import annotations

import pytest

from proxy.cli.instants import iso, parse_expiry, parse_span

NOW_MS = 1_776_076_200_123  # 2026-04-13T10:30:00.123Z


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("0s", 0), ("45s", 45), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)],
)
def test_spans(words: str, seconds: int) -> None:
    assert parse_span(words) == seconds * 1_000


@pytest.mark.parametrize("words", ["", "d", "30", "30 d", "-1d", "1.5h", "1y", "٣d", "999999w", "9999999999s"])
def test_what_is_no_span_or_too_long_a_one_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"span of time|hundred years"):
        parse_span(words)


def test_an_expiry_is_a_span_from_now_or_an_instant_that_is_to_come() -> None:
    assert parse_expiry("1d", NOW_MS) == NOW_MS + 86_400_000
    assert iso(parse_expiry("2026-12-31T00:00:00Z", NOW_MS)) == "2026-12-31T00:00:00.000Z"
    for words in ("0s", "2026-04-13", "2026-04-13T10:30:00.123Z"):
        with pytest.raises(ValueError, match="has passed already"):
            parse_expiry(words, NOW_MS)
    with pytest.raises(ValueError, match="neither a span"):
        parse_expiry("soon", NOW_MS)
