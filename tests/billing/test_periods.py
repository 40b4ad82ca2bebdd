"""When billing periods begin and end."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.catalog import Phase, Plan
from proxy.billing.durations import Duration
from proxy.billing.periods import BillingPeriod, Outside, Timeline
from proxy.instants import iso_short, parse_instant
from proxy.limits import Calendar
from proxy.model import Window
from proxy.store.subscriptions import Subscription

DAY_MS = 86_400_000
APRIL = "2026-04-01T00:00:00Z"


def timeline(
    *phases: str | None,
    cadence: str = "P1M",
    anchor: str = APRIL,
    start: str | None = None,
    end: str | None = None,
    zone: str = "UTC",
    pro_rating: bool = True,
) -> Timeline:
    """Of a plan whose phases last so long; of one that does not end, where none are given."""
    durations = [None if one is None else Duration.parse(one) for one in phases or (None,)]
    named = tuple(Phase(f"phase_{at}", "A phase", (), duration) for at, duration in enumerate(durations))
    plan = Plan("plan", "Plan", "USD", Duration.parse(cadence), named, pro_rating_enabled=pro_rating)
    end_ms = None if end is None else parse_instant(end)
    start_ms = parse_instant(start or anchor)
    return Timeline(Subscription(1, "acme", "plan", 1, zone, parse_instant(anchor), start_ms, end_ms), plan)


def told(one: BillingPeriod) -> tuple[str, str]:
    return iso_short(one.from_ms), iso_short(one.to_ms)


def at(line: Timeline, when: str) -> tuple[str, str]:
    return told(line.at(parse_instant(when)))


def test_a_period_begins_with_the_anchor_and_lasts_for_the_cadence() -> None:
    line = timeline(anchor="2026-04-10T09:30:15Z")
    assert at(line, "2026-04-10T09:30:15Z") == ("2026-04-10T09:30:15Z", "2026-05-10T09:30:15Z")
    assert at(line, "2026-05-10T09:30:14Z") == ("2026-04-10T09:30:15Z", "2026-05-10T09:30:15Z")
    assert at(line, "2026-05-10T09:30:15Z") == ("2026-05-10T09:30:15Z", "2026-06-10T09:30:15Z")


@pytest.mark.parametrize(
    ("when", "begins", "ends"),
    [
        ("2027-02-10", "2027-01-31T00:00:00Z", "2027-02-28T00:00:00Z"),
        ("2027-03-01", "2027-02-28T00:00:00Z", "2027-03-31T00:00:00Z"),
        ("2027-04-10", "2027-03-31T00:00:00Z", "2027-04-30T00:00:00Z"),
        ("2028-02-28", "2028-01-31T00:00:00Z", "2028-02-29T00:00:00Z"),
    ],
)
def test_an_anchor_on_the_31st_is_the_last_day_of_shorter_months_and_the_31st_again(
    when: str, begins: str, ends: str
) -> None:
    assert at(timeline(anchor="2026-10-31"), when) == (begins, ends)


def test_a_month_with_a_change_of_the_clock_begins_and_ends_at_midnight() -> None:
    line = timeline(anchor="2026-03-01T00:00:00+01:00", zone="Europe/Berlin")
    assert at(line, "2026-03-15") == ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z")
    assert at(line, "2026-10-15") == ("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z")
    assert line.at(parse_instant("2026-03-15")).share == 1


@pytest.mark.parametrize(
    ("cadence", "ends"),
    [
        ("P1W", "2026-04-08"),
        ("P4W", "2026-04-29"),
        ("P3M", "2026-07-01"),
        ("P12M", "2027-04-01"),
        ("P1Y", "2027-04-01"),
    ],
)
def test_cadences(cadence: str, ends: str) -> None:
    assert at(timeline(cadence=cadence), "2026-04-02") == (APRIL, f"{ends}T00:00:00Z")


def test_a_period_is_cut_where_the_subscription_begins_and_ends() -> None:
    line = timeline(start="2026-04-11", end="2026-05-16")
    first, last = line.at(parse_instant("2026-04-11")), line.at(parse_instant("2026-05-15"))
    assert told(first) == ("2026-04-11T00:00:00Z", "2026-05-01T00:00:00Z")
    assert told(last) == ("2026-05-01T00:00:00Z", "2026-05-16T00:00:00Z")
    assert (first.share, last.share) == (Fraction(20, 30), Fraction(15, 31))
    assert (first.is_first, last.is_first) == (True, False)
    for outside in ("2026-04-10T23:59:59Z", "2026-05-16"):
        with pytest.raises(Outside):
            line.at(parse_instant(outside))


def test_a_period_ends_with_its_phase() -> None:
    line = timeline("P14D", "P2M", None)
    trial, cut, paid = (line.at(parse_instant(when)) for when in ("2026-04-01", "2026-04-20", "2026-06-15"))
    assert told(trial) == (APRIL, "2026-04-15T00:00:00Z")
    assert told(cut) == ("2026-04-15T00:00:00Z", "2026-05-01T00:00:00Z")
    assert told(paid) == ("2026-06-15T00:00:00Z", "2026-07-01T00:00:00Z")
    assert [one.phase.key for one in (trial, cut, paid)] == ["phase_0", "phase_1", "phase_2"]
    assert [one.is_first for one in (trial, cut, paid)] == [True, True, True]
    assert line.at(parse_instant("2026-05-10")).is_first is False
    assert (trial.share, cut.share) == (Fraction(14, 30), Fraction(16, 30))


def test_a_trial_of_whole_periods_leaves_them_whole() -> None:
    line = timeline("P1M", None)
    assert [line.at(parse_instant(when)).share for when in ("2026-04-10", "2026-05-10")] == [1, 1]
    assert [line.at(parse_instant(when)).phase.key for when in ("2026-04-30", "2026-05-01")] == ["phase_0", "phase_1"]


def test_a_cut_period_counts_whole_where_nothing_is_pro_rated() -> None:
    assert timeline(start="2026-04-30", pro_rating=False).at(parse_instant("2026-04-30")).share == 1


def test_any_span_can_be_asked_for_within_a_phase() -> None:
    line = timeline("P2M", None)
    span = line.between(parse_instant("2026-04-16"), parse_instant("2026-05-16"))
    assert (told(span), span.share) == (
        ("2026-04-16T00:00:00Z", "2026-05-16T00:00:00Z"),
        Fraction(15, 30) + Fraction(15, 31),
    )
    with pytest.raises(Outside, match="its phase, changes within it"):
        line.between(parse_instant("2026-05-16"), parse_instant("2026-06-16"))
    with pytest.raises(Outside, match="no subscription then"):
        line.between(parse_instant("2026-03-16"), parse_instant("2026-04-16"))


def test_the_periods_that_begin_in_a_span() -> None:
    line = timeline(cadence="P1W", start="2026-04-10", end="2026-04-25")
    found = line.beginning_in(parse_instant("2026-04-01"), parse_instant("2026-05-01"))
    assert [told(one)[0][:10] for one in found] == ["2026-04-10", "2026-04-15", "2026-04-22"]
    assert line.beginning_in(parse_instant("2026-04-11"), parse_instant("2026-04-15")) == []
    assert line.beginning_in(parse_instant("2026-05-01"), parse_instant("2026-06-01")) == []


def test_a_subscription_that_ended_as_it_began_has_no_periods() -> None:
    line = timeline(end=APRIL)
    assert line.beginning_in(0, 2**50) == []
    with pytest.raises(Outside):
        line.at(parse_instant(APRIL))


seconds = st.integers(0, 4 * 365 * 86_400).map(lambda one: 1_750_000_000_000 + one * 1_000)


@given(
    st.sampled_from(["P1W", "P4W", "P1M", "P3M", "P1Y"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"]),
    seconds,
    seconds,
    st.lists(st.sampled_from(["P14D", "P1M", "PT36H"]), max_size=2),
)
def test_periods_meet_and_every_instant_lies_in_one(
    cadence: str, zone: str, anchor_ms: int, start_ms: int, phases: list[str]
) -> None:
    durations = [*map(Duration.parse, phases), None]
    named = tuple(Phase(f"phase_{at}", "A phase", (), duration) for at, duration in enumerate(durations))
    plan = Plan("plan", "Plan", "USD", Duration.parse(cadence), named)
    line = Timeline(Subscription(1, "acme", "plan", 1, zone, anchor_ms, start_ms, start_ms + 400 * DAY_MS), plan)
    ms, walked = start_ms, []
    while ms < start_ms + 400 * DAY_MS:
        one = line.at(ms)
        assert one.from_ms == ms
        assert line.at(one.to_ms - 1) == one
        assert 0 < one.share <= 1
        assert line.between(one.from_ms, one.to_ms) == one
        walked.append(one)
        ms = one.to_ms
    assert ms == start_ms + 400 * DAY_MS
    assert line.beginning_in(start_ms, ms) == walked


@given(st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia"]), seconds, seconds)
def test_a_monthly_period_is_the_one_that_limits_count_in(zone: str, anchor_ms: int, ms: int) -> None:
    """An entitlement for a billing period is held to by a limit by the `period`."""
    line = timeline(anchor=iso_short(anchor_ms), start="2000-01-01", zone=zone).at(ms)
    assert (line.from_ms, line.to_ms) == Calendar.of(zone).bounds(Window.PERIOD, ms, anchor_ms)
