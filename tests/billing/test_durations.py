from __future__ import annotations

import pytest

from proxy.billing.durations import Duration
from proxy.instants import parse_instant
from proxy.limits import Calendar

BERLIN = Calendar.of("Europe/Berlin")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("P1M", (1, 0, 0)),
        ("P1Y", (12, 0, 0)),
        ("P1Y2M3W4DT5H6M7S", (14, 25, 18367)),
        ("P14D", (0, 14, 0)),
        ("PT1H", (0, 0, 3600)),
    ],
)
def test_durations_are_read(words: str, parts: tuple[int, int, int]) -> None:
    one = Duration.parse(words)
    assert (one.months, one.days, one.seconds, one.iso) == (*parts, words)


@pytest.mark.parametrize(
    "words", ["", "P", "PT", "1M", "P1", "P1H", "P0D", "P-1M", "P1.5M", "p1m", "P1D1M", "P1MT", "P٣D"]
)
def test_what_is_no_duration_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="no duration in whole units"):
        Duration.parse(words)


@pytest.mark.parametrize(
    ("words", "begin", "count", "end"),
    [
        ("P1M", "2026-01-31T00:00:00+01:00", 1, "2026-02-28T00:00:00+01:00"),
        ("P1M", "2026-01-31T00:00:00+01:00", 2, "2026-03-31T00:00:00+02:00"),  # not the 28th; and summer time
        ("P1M", "2026-01-31T00:00:00+01:00", -2, "2025-11-30T00:00:00+01:00"),
        ("P1Y", "2024-02-29T12:00:00+01:00", 1, "2025-02-28T12:00:00+01:00"),
        ("P1D", "2026-03-28T12:00:00+01:00", 1, "2026-03-29T12:00:00+02:00"),  # 23 hours later
        ("PT24H", "2026-03-28T12:00:00+01:00", 1, "2026-03-29T13:00:00+02:00"),
    ],
)
def test_they_go_by_the_calendar(words: str, begin: str, count: int, end: str) -> None:
    assert Duration.parse(words).after(parse_instant(begin), BERLIN, count) == parse_instant(end)
