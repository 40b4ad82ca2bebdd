from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.instants import iso, iso_short, month_of, parse_expiry, parse_instant, parse_span

NOW_MS = 1_776_076_200_123  # 2026-04-13T10:30:00.123Z


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("2026-04-13", "2026-04-13T00:00:00.000Z"),
        ("2026-04-13T10:30:00Z", "2026-04-13T10:30:00.000Z"),
        ("2026-04-13t10:30:00.1239z", "2026-04-13T10:30:00.123Z"),
        ("2026-04-13 10:30:00+02:00", "2026-04-13T08:30:00.000Z"),
        ("1970-01-01T00:00:00+01:00", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_instants_are_dates_or_rfc_3339(words: str, written: str) -> None:
    assert iso(parse_instant(words)) == written


@pytest.mark.parametrize(
    "words",
    [
        *("", "now", "2026", "20260413", "2026-W16", "２０２６-04-13"),
        *("2026-04-31", "2026-04-13T10:30:00", "2026-04-13T25:00:00Z", "2026-04-13T10:30:60Z"),
        *("1969-12-31", "9999-12-31", "0001-01-01T00:00:00+23:59"),
    ],
)
def test_anything_else_is_refused_with_its_own_words(words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(repr(words))}: "):
        parse_instant(words)


@given(st.integers(0, 253_000_000_000_000))
def test_what_is_written_is_read_back(ms: int) -> None:
    assert parse_instant(iso(ms)) == ms
    assert parse_instant(iso_short(ms)) == ms - ms % 1_000


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


@pytest.mark.parametrize(
    ("instant", "first", "following"),
    [
        ("2026-04-13T10:30:00Z", "2026-04-01", "2026-05-01"),
        ("2026-04-01", "2026-04-01", "2026-05-01"),
        ("2026-12-31T23:59:59.999Z", "2026-12-01", "2027-01-01"),
        ("2028-02-29", "2028-02-01", "2028-03-01"),
    ],
)
def test_the_month_of_an_instant(instant: str, first: str, following: str) -> None:
    assert month_of(parse_instant(instant)) == (parse_instant(first), parse_instant(following))
