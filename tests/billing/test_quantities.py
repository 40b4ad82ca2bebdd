"""A feature's quantity is what its meter makes of the events that are sent, however the ledger is asked for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.billing.catalog import Aggregation, Feature, Filter, Meter, Plan, Snapshot
from proxy.billing.durations import Duration
from proxy.billing.quantities import quantities
from proxy.delivery.cloudevents import events_of
from proxy.instants import HOUR_MS
from proxy.model import Settlement, Units, Usage, UsageSource
from proxy.store import metered
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.store.samples import TIME_MS, settlement

HOUR = TIME_MS // HOUR_MS * HOUR_MS
PLAN = Plan("plan", "Plan", "USD", Duration.parse("P1M"), ())
DIMENSIONS = {
    name: f"$.{name}"
    for name in ("model", "model_family", "endpoint", "usage_source", "provider", "streamed", "status", "type")
}


def meter(aggregation: str = "sum", value: str = "$.total_tokens", event_type: str = "llm_token_usage") -> Meter:
    return Meter("meter", "Meter", event_type, Aggregation(aggregation), value, DIMENSIONS)


def snapshot(*sold: tuple[Meter, Mapping[str, Filter]]) -> Snapshot:
    """With a feature for each, named by its number."""
    features = {str(at): Feature(str(at), "Feature", str(at), filters) for at, (_, filters) in enumerate(sold)}
    return Snapshot(PLAN, features, {str(at): one for at, (one, _) in enumerate(sold)})


@contextmanager
def ledger(*events: Settlement) -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tollgate.db")
        database.create()
        with database.transaction() as connection:
            record(connection, events)
        yield database


def quantity(
    events: Sequence[Settlement],
    of: Meter,
    filters: Mapping[str, Filter] | None = None,
    *,
    from_ms: int = HOUR,
    to_ms: int = HOUR + 3 * HOUR_MS,
) -> Decimal:
    with ledger(*events) as database, closing(database.connect()) as connection:
        return quantities(connection, "user-001", from_ms, to_ms, snapshot((of, filters or {})))["0"]


def eq(*values: str) -> Filter:
    return Filter("in" if len(values) > 1 else "eq", values)


def neq(*values: str) -> Filter:
    return Filter("nin" if len(values) > 1 else "neq", values)


SOME = [
    settlement("a", time_ms=HOUR, usage=Usage(uncached_input=40, cached_input=12, text_output=195)),
    settlement("b", time_ms=HOUR + 1, usage=Usage(uncached_input=1, reasoning=2), model="gpt-4o-2024-08-06"),
    settlement("c", time_ms=HOUR + HOUR_MS, usage=Usage(text_output=5), endpoint="/api/generate", streamed=False),
    settlement("d", time_ms=HOUR + HOUR_MS, usage=Usage(text_output=1000), subject="user-002"),
    settlement("e", time_ms=HOUR + 3 * HOUR_MS, usage=Usage(text_output=1000)),
    settlement("f", time_ms=HOUR - 1, usage=Usage(text_output=1000)),
]


@pytest.mark.parametrize(
    ("of", "filters", "value"),
    [
        (meter(), {}, 255),
        (meter(value="$.prompt_tokens"), {}, 53),
        (meter(value="$.completion_tokens"), {}, 202),
        (meter(value="$['cached_tokens']"), {}, 12),
        (meter("count", ""), {}, 3),
        (meter("count", ""), {"streamed": eq("true")}, 2),
        (meter("count", ""), {"status": eq("200"), "streamed": neq("true")}, 1),
        (meter(), {"model_family": eq("gpt-4o-mini")}, 252),
        (meter(), {"model": eq("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06")}, 255),
        (meter(), {"model": eq("gpt-4o-mini")}, 0),
        (meter(), {"model_family": neq("gpt-4o", "o1")}, 252),
        (meter(), {"endpoint": eq("/api/generate")}, 5),
        (meter(), {"endpoint": neq("/api/generate"), "model_family": eq("gpt-4o")}, 3),
        (meter("unique_count", "$.model_family"), {}, 2),
        (meter("unique_count", "$.model_family"), {"provider": eq("nobody")}, 0),
        (meter("latest", "$.total_tokens"), {}, 5),
        (meter("latest", "$.total_tokens"), {"endpoint": eq("nowhere")}, 0),
        (meter(value="$.tokens", event_type="prompt"), {}, 255),
        (meter(value="$.tokens", event_type="kong.llm_request"), {"type": eq("input")}, 41),
        (meter(value="$.tokens", event_type="kong.llm_request"), {"type": eq("output", "reasoning")}, 202),
        (meter("count", "", event_type="kong.llm_request"), {}, 6),
        (meter(value="$.model"), {}, 0),  # it is no number
    ],
)
def test_a_meter_counts_what_it_should(of: Meter, filters: dict[str, Filter], value: int) -> None:
    assert quantity(SOME, of, filters) == value


@pytest.mark.parametrize(
    ("from_ms", "to_ms", "value"),
    [
        (HOUR, HOUR + 1, 247),
        (HOUR + 1, HOUR + 2, 3),
        (HOUR + 1, HOUR + HOUR_MS, 3),
        (HOUR + 1, HOUR + HOUR_MS + 1, 8),
        (HOUR - 1, HOUR + HOUR_MS, 1250),
        (HOUR, HOUR + 3 * HOUR_MS + 1, 1255),
        (HOUR + 1, HOUR + 1, 0),
    ],
)
def test_the_first_instant_counts_and_the_last_does_not(from_ms: int, to_ms: int, value: int) -> None:
    assert quantity(SOME, meter(), from_ms=from_ms, to_ms=to_ms) == value


def test_events_count_from_an_instant_on() -> None:
    late = Meter("m", "M", "llm_token_usage", Aggregation.SUM, "$.total_tokens", {}, events_from_ms=HOUR + 1)
    assert quantity(SOME, late) == 8


def test_a_request_that_nobody_answered_is_of_the_model_that_was_asked_for() -> None:
    cut = settlement("x", time_ms=HOUR, model="", requested_model="gpt-4o", usage=Usage(uncached_input=7))
    assert quantity([cut, *SOME], meter(), {"model_family": eq("gpt-4o")}) == 10
    assert quantity([cut, *SOME], meter()) == 262


def test_sums_and_counts_of_whole_hours_read_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Iterator[Settlement]:
        raise AssertionError("an event was read")

    monkeypatch.setattr(metered, "events", refuse)
    assert quantity(SOME, meter(), {"model_family": eq("gpt-4o-mini"), "endpoint": neq("x")}) == 252
    assert quantity(SOME, meter("count", ""), {"usage_source": eq("reported")}) == 3
    with pytest.raises(AssertionError, match="an event was read"):
        quantity(SOME, meter(), {"streamed": eq("true")})


def test_requests_that_share_a_total_are_counted_one_by_one() -> None:
    events = [settlement(str(at), time_ms=HOUR + at) for at in range(5)]
    assert quantity(events, meter("count", "")) == 5
    assert quantity(events, meter()) == 5 * 247


def test_largest_sums_are_exact() -> None:
    most = 2**53
    events = [settlement(str(at), time_ms=HOUR + at, usage=Usage(most, most, most)) for at in range(4)]
    assert quantity(events, meter()) == 12 * most


#: Few of each, so that many share a rollup.
an_event = st.builds(
    lambda at, offset, model, asked, endpoint, usage, streamed, source, images: settlement(
        *(at,),
        time_ms=HOUR + offset,
        model=model,
        requested_model=asked,
        endpoint=endpoint,
        usage=usage,
        streamed=streamed,
        usage_source=source,
        units=Units(images),
    ),
    st.uuids().map(str),
    st.integers(0, 4 * HOUR_MS),
    st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "o1", ""]),
    st.sampled_from(["gpt-4o", "o1"]),
    st.sampled_from(["/v1/embeddings", "/api/generate"]),
    st.builds(Usage, *[st.integers(0, 9)] * 7),
    st.booleans(),
    st.sampled_from(UsageSource),
    st.integers(0, 3),
)
a_filter = st.builds(
    lambda operator, values: Filter(operator, tuple(values) if operator in ("in", "nin") else tuple(values)[:1]),
    st.sampled_from(["eq", "neq", "in", "nin"]),
    st.sets(st.sampled_from(["gpt-4o", "o1", "/api/generate", "reported", "true", "input", ""]), min_size=1),
)
folded = st.sampled_from(["sum", "latest", "unique_count"])
values = st.sampled_from(["$.total_tokens", "$.prompt_tokens", "$.images", "$.status"])
a_meter = st.one_of(
    st.builds(meter, folded, values),
    st.builds(meter, folded, st.just("$.tokens"), st.just("prompt")),
    st.builds(meter, st.just("count"), st.just(""), st.sampled_from(["llm_token_usage", "prompt"])),
)


def by_hand(events: Sequence[Settlement], of: Meter, filters: Mapping[str, Filter]) -> Decimal:
    """From the events as they are sent, with what the engine's documents say of each aggregation."""
    found: list[Any] = []
    for one in sorted(events, key=lambda one: one.time_ms):
        for event in events_of(one, "tollgate", of.event_type):
            data = event["data"]
            if all(part.passes(_text(data.get(name, ""))) for name, part in filters.items()):
                found.append(data.get(of.value_property.removeprefix("$.")) if of.value_property else 1)
    match of.aggregation:
        case Aggregation.UNIQUE_COUNT:
            return Decimal(len(set(map(str, found))))
        case Aggregation.LATEST:
            return Decimal(found[-1]) if found else Decimal(0)
    return sum(map(Decimal, found), Decimal(0))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(an_event, max_size=8, unique_by=(lambda one: one.id, lambda one: one.time_ms)),
    st.lists(
        st.tuples(a_meter, st.dictionaries(st.sampled_from([*DIMENSIONS]), a_filter, max_size=2)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 4 * HOUR_MS),
    st.integers(0, 4 * HOUR_MS),
)
def test_it_is_what_the_events_say(
    events: list[Settlement], sold: list[tuple[Meter, dict[str, Filter]]], one_end: int, other_end: int
) -> None:
    from_ms, to_ms = sorted((HOUR + one_end, HOUR + other_end))
    with ledger(*events) as database, closing(database.connect()) as connection:
        found = quantities(connection, "user-001", from_ms, to_ms, snapshot(*sold))
    inside = [one for one in events if from_ms <= one.time_ms < to_ms]
    assert found == {str(at): by_hand(inside, of, filters) for at, (of, filters) in enumerate(sold)}
