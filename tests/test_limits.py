from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.limits import KINDS, SLIDING_MS, VALUE_MAX, Calendar, Written, amount_of, check_filters, counts, matches
from proxy.model import Counted, Unit, Usage, Window
from proxy.money import PICO, PICO_MAX

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str, zone: object = UTC) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)  # type: ignore[arg-type] # a zone


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("tokens/month=10000", Written(Unit.TOKENS, Window.MONTH, 10_000)),
        ("requests/minute=60", Written(Unit.REQUESTS, Window.MINUTE, 60)),
        (" tokens/total=1_000_000 ", Written(Unit.TOKENS, Window.TOTAL, 1_000_000)),
        ("tokens/period=0", Written(Unit.TOKENS, Window.PERIOD, 0)),
        ("inflight=5", Written(Unit.INFLIGHT, Window.TOTAL, 5)),
        ("inflight/total=5", Written(Unit.INFLIGHT, Window.TOTAL, 5)),
        ("max_tokens=4096", Written(Unit.MAX_TOKENS, Window.TOTAL, 4_096)),
        ("usd/day=5", Written(Unit.USD, Window.DAY, 5 * PICO)),
        ("usd/month=1_000.50", Written(Unit.USD, Window.MONTH, 1_000_500_000_000_000)),
        ("usd/minute=0.000000000001", Written(Unit.USD, Window.MINUTE, 1)),
        ("usd/total=1.1000000000000000000", Written(Unit.USD, Window.TOTAL, 1_100_000_000_000)),
    ],
)
def test_a_limit_is_read_as_it_is_written(text: str, written: Written) -> None:
    assert Written.parse(text) == written


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write a limit as UNIT/WINDOW=VALUE"),
        ("tokens/month", "write a limit as"),
        ("tokens/month=-1", "write a limit as"),
        ("tokens/month=1e6", "write a limit as"),
        ("tokens/month=1.5", "tokens are whole"),
        ("usd/month=1.5e3", "write a limit as"),
        ("usd/month=1.", "write a limit as"),
        ("usd/month=-1", "write a limit as"),
        ("usd/month=0.0000000000001", "dollars have at most 12 places after the point"),
        ("usd/month=9223373", "at most 9223372$"),
        ("usd=5", "say in which window, such as usd/month"),
        ("tokens=5", "say in which window"),
        ("tokens/week=5", "'week' is no window; use minute, hour"),
        ("words/day=5", "'words' is no unit; use requests, tokens"),
        ("inflight/day=5", "inflight has no window; write inflight=5"),
        (f"tokens/day={VALUE_MAX + 1}", "at most"),
        ("tokens/day=" + "9" * 5_000, "write a limit as"),
    ],
)
def test_what_is_no_limit_is_told_with_the_fix(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Written.parse(text)


@given(st.text(max_size=30))
def test_no_text_breaks_it(text: str) -> None:
    try:
        written = Written.parse(text)
    except ValueError:
        return
    assert 0 <= written.value <= (PICO_MAX if written.unit is Unit.USD else VALUE_MAX)


def test_kinds_are_of_tokens_alone() -> None:
    for kind in KINDS:
        check_filters(Unit.TOKENS, "gpt-4o*", kind)
    with pytest.raises(ValueError, match="'thoughts' is no kind of tokens; use input"):
        check_filters(Unit.TOKENS, "", "thoughts")
    with pytest.raises(ValueError, match="requests has no kinds"):
        check_filters(Unit.REQUESTS, "", "input")
    with pytest.raises(ValueError, match="printable"):
        check_filters(Unit.TOKENS, "a\nb", "")


@pytest.mark.parametrize(
    ("pattern", "model", "meant"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("*", "", True),
        ("gpt-4o", "GPT-4o", False),
        ("[", "[", True),
    ],
)
def test_a_pattern_means_a_model_by_its_name_with_or_without_its_date(pattern: str, model: str, meant: bool) -> None:
    assert matches(pattern, model) is meant
    assert counts(Counted("tenant", "a", Unit.TOKENS, Window.DAY, pattern), model) is meant


def test_a_settled_request_adds_what_its_kind_has() -> None:
    usage = Usage(uncached_input=1, cached_input=2, cache_write=4, audio_input=8, text_output=16, reasoning=32)

    def amount(kind: str) -> int:
        return amount_of(Counted("tenant", "a", Unit.TOKENS, Window.DAY, kind=kind), usage, 7)

    assert (amount(""), amount("input"), amount("output"), amount("reasoning")) == (63, 15, 48, 32)
    assert amount_of(Counted("tenant", "a", Unit.REQUESTS, Window.DAY), usage, 7) == 1
    assert amount_of(Counted("tenant", "a", Unit.USD, Window.DAY), usage, 7) == 7


@pytest.mark.parametrize(
    ("window", "now", "start", "end"),
    [
        (Window.HOUR, "2026-11-25T21:17:05", "2026-11-25T21:00:00", "2026-11-25T22:00:00"),
        (Window.DAY, "2026-11-25T21:17:05", "2026-11-25T00:00:00", "2026-11-26T00:00:00"),
        (Window.DAY, "2026-11-25T00:00:00", "2026-11-25T00:00:00", "2026-11-26T00:00:00"),
        (Window.MONTH, "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        (Window.MONTH, "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_a_window_begins_and_ends_where_people_say(window: Window, now: str, start: str, end: str) -> None:
    assert Calendar().bounds(window, ms(now)) == (ms(start), ms(end))
    if window is not Window.HOUR:
        assert Calendar(BERLIN).bounds(window, ms(now, BERLIN)) == (ms(start, BERLIN), ms(end, BERLIN))


def test_the_day_on_which_clocks_are_changed_is_longer_or_shorter() -> None:
    calendar = Calendar(BERLIN)
    spring = calendar.bounds(Window.DAY, ms("2026-03-29T12:00:00", BERLIN))
    autumn = calendar.bounds(Window.DAY, ms("2026-10-25T12:00:00", BERLIN))
    assert [(end - start) / 3_600_000 for start, end in (spring, autumn)] == [23, 25]


@pytest.mark.parametrize(
    ("anchor", "now", "start", "end"),
    [
        ("2026-01-15T00:00:00", "2026-11-25T21:17:00", "2026-11-15T00:00:00", "2026-12-15T00:00:00"),
        ("2026-01-15T00:00:00", "2026-11-14T23:59:59", "2026-10-15T00:00:00", "2026-11-15T00:00:00"),
        ("2026-01-31T08:30:00", "2026-02-28T08:29:59", "2026-01-31T08:30:00", "2026-02-28T08:30:00"),
        ("2026-01-31T08:30:00", "2026-03-01T00:00:00", "2026-02-28T08:30:00", "2026-03-31T08:30:00"),
        ("2026-06-10T00:00:00", "2026-06-01T00:00:00", "2026-05-10T00:00:00", "2026-06-10T00:00:00"),
    ],
)
def test_a_period_begins_on_the_tenants_own_day(anchor: str, now: str, start: str, end: str) -> None:
    assert Calendar().bounds(Window.PERIOD, ms(now), ms(anchor)) == (ms(start), ms(end))


instants = st.integers(0, 4_000_000_000_000)


@given(st.sampled_from([Window.HOUR, Window.DAY, Window.MONTH, Window.PERIOD]), instants, instants, st.booleans())
def test_windows_follow_each_other_without_a_gap(window: Window, now_ms: int, anchor_ms: int, berlin: bool) -> None:
    calendar = Calendar(BERLIN) if berlin else Calendar()
    start_ms, end_ms = calendar.bounds(window, now_ms, anchor_ms)
    assert start_ms <= now_ms < end_ms
    assert calendar.bounds(window, start_ms, anchor_ms) == (start_ms, end_ms)
    assert calendar.bounds(window, end_ms - 1, anchor_ms) == (start_ms, end_ms)
    assert calendar.bounds(window, end_ms, anchor_ms)[0] == end_ms


def test_ever_is_always_and_a_minute_slides() -> None:
    assert Calendar().bounds(Window.TOTAL, 5)[0] == 0
    assert Calendar().bounds(Window.MINUTE, 100_000) == (100_000 - SLIDING_MS, 100_000)


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../etc/passwd", "a\0b"])
def test_a_time_zone_that_is_none_is_told(name: str) -> None:
    with pytest.raises(ValueError, match="is no time zone"):
        Calendar.of(name)
