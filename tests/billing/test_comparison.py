"""One second of ledger and engine, compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.billing.comparison import LATE_MS, Absent, Compared, Kind, Tally, Terms, compare, remedy, request_of
from proxy.billing.stored import Stored
from proxy.delivery.cloudevents import events_of
from proxy.model import NO_USAGE, EventState, Settlement, Usage
from proxy.store.audit import Recorded
from tests.delivery.ledger import NOW_MS, event_of, settlement

ACCEPTED, PENDING, DEAD, DISCARDED = EventState.ACCEPTED, EventState.PENDING, EventState.DEAD, EventState.DISCARDED
TERMS = Terms("tollgate", "llm_token_usage", visible_ms=NOW_MS + 60_000)
KONG = replace(TERMS, profile="kong.llm_request")


def recorded(one: Settlement, state: EventState = ACCEPTED, delivered_ms: int | None = NOW_MS + 500) -> Recorded:
    return Recorded(one, state, delivered_ms if state is ACCEPTED else None)


def row(event: dict[str, Any], *complaints: str, **changes: Any) -> Stored:
    known: dict[str, Any] = {
        "id": event["id"],
        "source": event["source"],
        "type": event["type"],
        "subject": event["subject"],
        "time_s": (NOW_MS + 1) // 1000,
        "data": dict(event["data"]),
        "stored_ms": NOW_MS + 2_000,
        "complaints": complaints,
    }
    return Stored(**known | changes)


def compared(ours: list[Recorded], theirs: list[Stored], terms: Terms = TERMS) -> tuple[Compared, Tally]:
    tally = Tally()
    return compare(terms, ours, theirs, tally), tally


ONE = settlement(1)
EVENT = event_of(ONE, "tollgate")


def test_what_is_there_once_and_as_it_was_sent_is_no_finding() -> None:
    found, tally = compared([recorded(ONE)], [row(EVENT)])
    assert found == Compared([], [EVENT], [], [], unsure=False)
    assert (tally.requests, tally.due, tally.capture_rate) == (1, 1, Decimal("100.00"))
    assert tally.found == {ACCEPTED: 1}


def test_what_is_not_there_is_to_be_asked_for() -> None:
    found, tally = compared([recorded(ONE), recorded(settlement(2))], [row(EVENT)])
    assert found.absent == [Absent(recorded(settlement(2)), (event_of(settlement(2), "tollgate"),), whole=True)]
    assert (tally.due, tally.capture_rate) == (2, Decimal("50.00"))
    assert len(found.counted) == 2, "meters should have both"
    assert not found.unsure


def test_what_was_delivered_too_recently_is_counted_apart() -> None:
    late = recorded(ONE, delivered_ms=TERMS.visible_ms + 1)
    found, tally = compared([late], [])
    assert (found.absent, found.counted, found.unsure) == ([], [], True)
    assert (tally.too_recent, tally.due, tally.capture_rate) == (1, 0, None)
    found, tally = compared([late], [row(EVENT)])
    assert (found.counted, tally.too_recent, tally.capture_rate) == ([EVENT], 0, Decimal("100.00"))
    assert compared([recorded(ONE, delivered_ms=TERMS.visible_ms)], [])[0].absent, "on the edge it is visible"


@pytest.mark.parametrize("state", [PENDING, DEAD, DISCARDED])
def test_what_is_not_accepted_is_not_due_but_may_be_there(state: EventState) -> None:
    found, tally = compared([recorded(ONE, state)], [])
    assert (found.absent, found.counted, found.unsure) == ([], [], state is PENDING)
    assert (tally.recorded, tally.due) == ({state: 1}, 0)
    found, tally = compared([recorded(ONE, state)], [row(EVENT)])
    assert (found.counted, tally.found) == ([EVENT], {state: 1})


def test_an_event_that_is_there_twice_is_doubled() -> None:
    found, tally = compared([recorded(ONE)], [row(EVENT), row(EVENT), row(EVENT)])
    (finding,) = found.findings
    assert (finding.kind, finding.id, finding.words) == (Kind.DOUBLED, "req-0001", "stored 3 times")
    assert tally.found == {ACCEPTED: 1}


@pytest.mark.parametrize("after_ms", [LATE_MS, LATE_MS + 1, 5 * LATE_MS])
def test_an_event_is_late_when_it_was_stored_more_than_an_hour_after_its_time(after_ms: int) -> None:
    found, _ = compared([recorded(ONE)], [row(EVENT, stored_ms=ONE.time_ms + after_ms)])
    assert [finding.kind for finding in found.findings] == ([Kind.LATE] if after_ms > LATE_MS else [])


def test_the_copy_that_came_in_time_counts() -> None:
    found, _ = compared([recorded(ONE)], [row(EVENT, stored_ms=ONE.time_ms + 9 * LATE_MS), row(EVENT)])
    assert [finding.kind for finding in found.findings] == [Kind.DOUBLED]


def test_complaints_are_counted_by_their_words_once_for_each_event() -> None:
    meter, nobody = "no meter found for event type: llm_token_usage", "no customer found for event subject: user-001"
    two = settlement(2)
    theirs = [row(EVENT, meter, nobody), row(EVENT, meter, nobody), row(event_of(two, "tollgate"), nobody)]
    found, tally = compared([recorded(ONE), recorded(two)], theirs)
    assert tally.complaints == {meter: 1, nobody: 2}
    refused = [finding for finding in found.findings if finding.kind is Kind.REFUSED]
    assert [finding.words for finding in refused] == [f"{meter}; {nobody}", nobody]


def test_complaints_that_quote_values_do_not_fill_the_memory() -> None:
    tally = Tally()
    for number in range(5_000):
        tally.complain([f"event data value cannot be parsed as float64: {number}"])
    assert len(tally.complaints) <= 1_001
    assert tally.complaints.total() == 5_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": "user-002"}, "subject 'user-002', not 'user-001'"),
        ({"type": "prompt"}, "type 'prompt', not 'llm_token_usage'"),
        ({"data": EVENT["data"] | {"total_tokens": 246}}, "total_tokens 246, not 247"),
        ({"data": EVENT["data"] | {"prompt_tokens": None}}, "prompt_tokens None, not 52"),
        ({"data": EVENT["data"] | {"model": "gpt-4"}}, "model 'gpt-4', not 'gpt-4o-mini-2024-07-18'"),
        ({"data": {}}, "completion_tokens None, not 195; model None, not "),
        ({"time_s": NOW_MS // 1000 + 9}, "another time"),
    ],
)
def test_an_event_that_says_something_else_is_different(changes: dict[str, Any], words: str) -> None:
    (finding,) = compared([recorded(ONE)], [row(EVENT, **changes)])[0].findings
    assert finding.kind is Kind.DIFFERENT
    assert words in finding.words


@pytest.mark.parametrize("spelling", [247, 247.0, "247", "247.0", "2.47e2"])
def test_the_spelling_of_a_number_is_no_difference(spelling: object) -> None:
    assert not compared([recorded(ONE)], [row(EVENT, data=EVENT["data"] | {"total_tokens": spelling})])[0].findings


@pytest.mark.parametrize("spelling", ["", "many", "NaN", "Infinity", True, [247], None, 247.5])
def test_what_is_no_number_is_a_difference(spelling: object) -> None:
    found, _ = compared([recorded(ONE)], [row(EVENT, data=EVENT["data"] | {"total_tokens": spelling})])
    assert [finding.kind for finding in found.findings] == [Kind.DIFFERENT]


def test_keys_that_nothing_is_billed_by_may_differ_from_version_to_version() -> None:
    data = EVENT["data"] | {"ttft_ms": 1, "new": 1}
    del data["upstream"]
    assert not compared([recorded(ONE)], [row(EVENT, data=data)])[0].findings


def test_in_the_other_profiles_each_kind_of_token_is_an_event_of_its_own() -> None:
    events = events_of(ONE, "tollgate", KONG.profile)
    assert [event["id"] for event in events] == [
        "req-0001:input",
        "req-0001:cache_read",
        "req-0001:output",
        "req-0001:reasoning",
    ]
    found, tally = compared([recorded(ONE)], [row(event) for event in events], KONG)
    assert (found.findings, found.absent, tally.due) == ([], [], 4)
    found, tally = compared([recorded(ONE)], [row(events[1]), row(events[2])], KONG)
    assert found.absent == [Absent(recorded(ONE), (events[0], events[3]), whole=False)]
    assert tally.capture_rate == Decimal("50.00")
    assert compared([recorded(ONE)], [], KONG)[0].absent[0].whole
    nothing = replace(ONE, usage=NO_USAGE)
    found, tally = compared([recorded(nothing)], [], KONG)
    assert (found.absent, tally.requests, tally.due) == ([], 1, 0)


def test_what_the_ledger_does_not_have_is_a_stranger() -> None:
    stranger = row(EVENT | {"id": "req-x"})
    found, tally = compared([recorded(ONE)], [stranger, row(EVENT)])
    assert (found.strangers, found.findings) == ([stranger], [])
    assert tally.found == {ACCEPTED: 1}


def test_the_capture_rate_is_never_rounded_up_to_all() -> None:
    tally = Tally()
    assert tally.capture_rate is None
    tally.recorded[ACCEPTED], tally.found[ACCEPTED] = 1_000_000, 999_999
    assert str(tally.capture_rate) == "99.99"
    tally.recorded[ACCEPTED], tally.found[ACCEPTED] = 3, 0
    assert str(tally.capture_rate) == "0.00"


def test_each_complaint_of_openmeters_has_a_remedy() -> None:
    for profile, value in (("llm_token_usage", "$.total_tokens"), ("prompt", "$.tokens")):
        assert f"event type {profile}: aggregation sum, value_property {value}" in remedy(
            f"no meter found for event type: {profile}", profile
        )
        for words in (
            'event data is missing value property at "$.x"',
            "event data is null and missing value property",
            "event data value cannot be null",
            "event data value cannot be parsed as float64: x",
            "event data value property cannot be parsed",
        ):
            assert value in remedy(words, profile)
    assert "subject_keys" in remedy("no customer found for event subject: user-001", "prompt")
    assert remedy("something new", "prompt") == ""


@given(
    fates=st.lists(st.sampled_from(["there", "gone", "twice", "recent", "pending"]), max_size=40),
    strangers=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_every_event_is_counted_once_in_any_order(fates: list[str], strangers: int, order: Any) -> None:
    ours, theirs = [], []
    for number, fate in enumerate(fates):
        one = settlement(number, subject=f"user-{number % 3}")
        delivered_ms = TERMS.visible_ms + 1 if fate == "recent" else NOW_MS
        ours.append(recorded(one, PENDING if fate == "pending" else ACCEPTED, delivered_ms))
        theirs += [row(event_of(one, "tollgate"))] * {"there": 1, "twice": 2}.get(fate, 0)
    theirs += [row(EVENT | {"id": f"stranger-{number}"}) for number in range(strangers)]
    order.shuffle(theirs)
    found, tally = compared(ours, theirs)
    met = Counter(fates)
    assert tally.requests == tally.recorded.total() == len(fates)
    assert tally.found[ACCEPTED] == met["there"] + met["twice"]
    assert len(found.absent) == met["gone"]
    assert tally.too_recent == met["recent"]
    assert len(found.findings) == met["twice"]
    assert len(found.strangers) == strangers
    assert len(found.counted) == met["there"] + met["twice"] + met["gone"]
    assert tally.due == tally.found[ACCEPTED] + len(found.absent)


def test_a_request_is_known_by_its_events_ids() -> None:
    assert request_of("req_1") == request_of("req_1:input") == "req_1"


def test_large_numbers_are_compared_as_the_engine_can_keep_them() -> None:
    large = replace(ONE, usage=Usage(uncached_input=2**60 + 1))
    event = event_of(large, "tollgate")
    data = {key: float(value) if isinstance(value, int) else value for key, value in event["data"].items()}
    assert not compared([recorded(large)], [row(event, data=data)])[0].findings
