from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.instants import HOUR_MS, Period, WrongPeriod, iso, iso_short, parse_expiry, parse_instant, parse_span
from proxy.limits import Calendar

NOW_MS = 1_776_076_200_123  # 2026-04-13T10:30:00.123Z
UTC = Calendar()
BERLIN = Calendar.of("Europe/Berlin")
KOLKATA = Calendar.of("Asia/Kolkata")
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "Africa/Cairo"]


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


def test_a_date_begins_with_the_calendars_midnight() -> None:
    assert iso_short(parse_instant("2026-04-13", BERLIN)) == "2026-04-12T22:00:00Z"
    assert iso_short(parse_instant("2026-12-13", BERLIN)) == "2026-12-12T23:00:00Z"
    assert iso_short(parse_instant("2026-04-13T00:00:00Z", BERLIN)) == "2026-04-13T00:00:00Z"
    assert parse_instant("1970-01-01", BERLIN) == 0


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (None, None, ("2026-04-01", "2026-05-01")),
        ("2026-02-03", None, ("2026-02-03", "2026-05-01")),
        (None, "2026-02-03", ("2026-02-01", "2026-02-03")),
        (None, "2026-03-01", ("2026-02-01", "2026-03-01")),
        # An hour belongs where it begins, so that periods that meet count each hour once.
        ("2026-04-13T10:30:00Z", "2026-04-13T11:30:00+00:00", ("2026-04-13T11:00:00Z", "2026-04-13T12:00:00Z")),
    ],
)
def test_a_period_is_made_of_whole_hours(begin: str | None, end: str | None, expected: tuple[str, str]) -> None:
    assert Period.of(begin, end, UTC, NOW_MS) == Period(parse_instant(expected[0]), parse_instant(expected[1]))


def test_the_default_is_the_calendars_month() -> None:
    period = Period.of(None, None, BERLIN, NOW_MS)
    assert (iso_short(period.from_ms), iso_short(period.to_ms)) == ("2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z")
    almost_may = parse_instant("2026-04-30T22:00:00Z")
    assert Period.of(None, None, BERLIN, almost_may - 1) == period
    assert Period.of(None, None, BERLIN, almost_may).from_ms == almost_may
    half = Period.of(None, None, KOLKATA, NOW_MS)
    assert (iso_short(half.from_ms), iso_short(half.to_ms)) == ("2026-03-31T19:00:00Z", "2026-04-30T19:00:00Z")


@pytest.mark.parametrize(
    ("begin", "end", "wrong"),
    [
        ("2026-05-01", "2026-04-01", "from"),
        ("2026-05-01", "2026-05-01", "from"),
        ("2026-04-13T10:10:00Z", "2026-04-13T10:20:00Z", "from"),
        ("x", None, "from"),
        ("", None, "from"),
        (None, "9999-12-31", "to"),
        (None, "1970-01-01", "from"),
    ],
)
def test_a_period_without_an_hour_and_a_date_that_is_none_are_refused(
    begin: str | None, end: str | None, wrong: str
) -> None:
    with pytest.raises(WrongPeriod) as refused:
        Period.of(begin, end, UTC, NOW_MS)
    assert refused.value.end == wrong


def test_the_days_are_the_calendars_also_where_clocks_change() -> None:
    spring = Period.of("2026-03-28", "2026-03-31", BERLIN, NOW_MS)
    assert [(day, (part.to_ms - part.from_ms) // HOUR_MS) for day, part in spring.days(BERLIN)] == [
        ("2026-03-28", 24),
        ("2026-03-29", 23),
        ("2026-03-30", 24),
    ]


def test_an_hour_that_two_days_share_is_the_ones_that_it_begins_in() -> None:
    days = dict(Period.of("2026-04-13", "2026-04-15", KOLKATA, NOW_MS).days(KOLKATA))
    assert [*days] == ["2026-04-13", "2026-04-14"]
    assert iso_short(days["2026-04-14"].from_ms) == "2026-04-13T19:00:00Z"  # half past midnight


@given(st.sampled_from(ZONES), st.integers(0, 500_000), st.integers(1, 2_000))
def test_the_days_are_the_period_cut_in_pieces(zone: str, hour: int, count: int) -> None:
    calendar = Calendar.of(zone)
    period = Period(hour * HOUR_MS, (hour + count) * HOUR_MS)
    days = [*period.days(calendar)]
    assert (days[0][1].from_ms, days[-1][1].to_ms) == (period.from_ms, period.to_ms)
    for (day, part), (following, after) in pairwise(days):
        assert part.to_ms == after.from_ms
        assert day < following
    for day, part in days:
        assert day == calendar.date_of(part.from_ms).isoformat() == calendar.date_of(part.to_ms - HOUR_MS).isoformat()


@pytest.mark.parametrize(
    ("first", "last", "left"), [(0, 9, (2, 5)), (3, 9, (3, 5)), (0, 3, (2, 4)), (5, 9, None), (0, 1, None)]
)
def test_a_period_can_be_narrowed_to_the_hours_that_are_used(
    first: int, last: int, left: tuple[int, int] | None
) -> None:
    found = Period(2 * HOUR_MS, 5 * HOUR_MS).within(first, last)
    assert (None if found is None else found.hours) == left


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
