"""The event is what receivers take: checked against the document that OpenMeter checks requests with."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery.cloudevents import MEDIA_TYPE_BATCH, events_of
from proxy.model import NO_USAGE, Cost, CostState, Outcome, Settlement, Usage, UsageSource
from tests.delivery.contract import EXCERPT, faults, load
from tests.delivery.ledger import event_of, settlement

#: What the server's own validator wants of a time, offset included.
RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")

texts = st.text(st.characters(codec="utf-8"), max_size=40)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
counts = st.integers(0, 2**53)
usages = st.builds(Usage, *[counts] * 7)
settlements = st.builds(
    Settlement,
    id=names,
    subject=names,
    key_id=texts,
    time_ms=st.integers(0, 253_402_300_799_999),  # the year 9999
    endpoint=texts,
    requested_model=texts,
    model=texts,
    provider=texts,
    streamed=st.booleans(),
    status=st.integers(100, 599),
    outcome=st.sampled_from(Outcome),
    usage=usages,
    usage_source=st.sampled_from(UsageSource),
    duration_ms=counts,
    ttft_ms=counts,
)


@given(settlements)
def test_the_event_of_any_settlement_is_taken(one: Settlement) -> None:
    event = event_of(one, "tollgate")
    sent = orjson.loads(orjson.dumps([event]))
    assert sent == [event]
    assert faults(sent) == []
    assert RFC3339.fullmatch(event["time"])
    data = event["data"]
    assert data["prompt_tokens"] + data["completion_tokens"] == data["total_tokens"]
    assert set(event) == set(event_of(settlement(), "x"))
    assert set(data) == set(event_of(settlement(), "x")["data"])
    assert None not in (*event.values(), *data.values())


def test_the_event_is_the_one_that_the_design_shows() -> None:
    one = replace(
        settlement(),
        id="req-1",
        time_ms=1_776_076_200_123,
        streamed=True,
        usage=Usage(uncached_input=52, text_output=195),
        cost=Cost(124_800_000, CostState.PRICED),
    )
    assert orjson.dumps(event_of(one, "tollgate")) == (
        b'{"specversion":"1.0","id":"req-1","source":"tollgate","type":"llm_token_usage","subject":"user-001",'
        b'"time":"2026-04-13T10:30:00.123Z","datacontenttype":"application/json",'
        b'"data":{"total_tokens":247,"prompt_tokens":52,"completion_tokens":195,"model":"gpt-4o-mini-2024-07-18",'
        b'"endpoint":"/v1/chat/completions","requested_model":"gpt-4o-mini","provider":"openai","cached_tokens":0,'
        b'"reasoning_tokens":0,"streamed":true,"status":200,"outcome":"completed","usage_source":"reported",'
        b'"duration_ms":812,"ttft_ms":190,"request_id":"req-1","upstream":"","model_family":"gpt-4o-mini",'
        b'"estimator":"","on_disconnect":"","over_limit":"","images":0,"audio_ms":0,"characters":0,'
        b'"cost_usd":"0.0001248","cost_state":"priced","service_tier":""}}'
    )


def test_buckets_become_the_totals_that_providers_report() -> None:
    usage = Usage(
        uncached_input=1,
        cached_input=10,
        cache_write=100,
        audio_input=1_000,
        text_output=2,
        reasoning=20,
        audio_output=200,
    )
    data = event_of(replace(settlement(), usage=usage), "tollgate")["data"]
    assert data["prompt_tokens"] == 1_111
    assert data["completion_tokens"] == 222
    assert data["total_tokens"] == 1_333
    assert data["cached_tokens"] == 10
    assert data["reasoning_tokens"] == 20


@pytest.mark.parametrize("profile", ["kong.llm_request", "prompt"])
@given(one=settlements)
def test_in_the_other_profiles_there_is_an_event_for_each_kind_of_token_and_their_sum_is_the_total(
    profile: str, one: Settlement
) -> None:
    events = events_of(one, "tollgate", profile)
    assert faults(orjson.loads(orjson.dumps(events))) == []
    assert {event["type"] for event in events} <= {profile}
    assert sum(int(event["data"]["tokens"]) for event in events) == one.usage.total_tokens
    assert all(event["data"]["tokens"] != "0" for event in events)
    kinds = [event["data"]["type"] for event in events]
    assert [event["id"] for event in events] == [f"{one.id}:{kind}" for kind in kinds]
    assert set(kinds) <= {"input", "cache_read", "cache_write", "output", "reasoning"}


def test_without_an_answer_the_model_is_what_was_asked_for() -> None:
    data = event_of(replace(settlement(), model="", usage=NO_USAGE), "tollgate")["data"]
    assert data["model"] == data["requested_model"] == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("time_ms", "time"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_776_076_200_001, "2026-04-13T10:30:00.001Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_no_millisecond_is_rounded_away(time_ms: int, time: str) -> None:
    assert event_of(replace(settlement(), time_ms=time_ms), "tollgate")["time"] == time


def test_the_check_refuses_what_receivers_refuse() -> None:
    event = event_of(settlement(), "tollgate")
    assert faults([event]) == []
    assert faults([event, {**event, "traceparent": "00-1-2-03"}]), "an extension attribute"
    assert faults([{**event, "data": {**event["data"], "ttft_ms": None}}]), "a null directly under data"
    assert faults([{**event, "subject": ""}]), "no subject"
    assert faults([{**event, "datacontenttype": "application/json; charset=utf-8"}])
    assert faults({"events": [event]}), "no array"


def test_names_that_meters_and_receivers_know() -> None:
    assert event_of(settlement(), "tollgate")["type"] == "llm_token_usage"
    assert MEDIA_TYPE_BATCH == "application/cloudevents-batch+json"


@pytest.mark.skipif("OPENMETER_V3_YAML" not in os.environ, reason="OPENMETER_V3_YAML does not name the document")
def test_the_excerpt_says_what_the_whole_document_says() -> None:
    excerpt, whole = load(EXCERPT), load(Path(os.environ["OPENMETER_V3_YAML"]))
    path = "/openmeter/events"
    assert excerpt["paths"][path]["post"]["requestBody"] == whole["paths"][path]["post"]["requestBody"]
    for name, schema in excerpt["components"]["schemas"].items():
        assert schema == whole["components"]["schemas"][name]
