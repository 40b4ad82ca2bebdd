"""The service tier that an answer names: prices differ by it."""

from __future__ import annotations

import orjson
import pytest

from proxy.gateway.meter import meter_for


def tier(content_type: bytes, *parts: bytes) -> str:
    meter = meter_for(content_type, None, hides_usage=False)
    for part in parts:
        meter.feed(part)
    meter.finish()
    return meter.reading().service_tier


def events(*documents: dict[str, object]) -> bytes:
    return b"".join(b"data: " + orjson.dumps(one) + b"\n\n" for one in documents)


def test_a_plain_answer_names_it() -> None:
    assert tier(b"application/json", b'{"id": "x", "service_tier": "flex", "usage": {"total_tokens": 3}}') == "flex"
    assert tier(b"application/json", b'{"id": "x", "service_tier": {"a": 1}}') == ""
    assert tier(b"application/json", b"{}") == ""


@pytest.mark.parametrize(
    ("documents", "named"),
    [
        ([{"service_tier": "priority", "choices": []}, {"choices": []}], "priority"),
        ([{"service_tier": "auto"}, {"service_tier": "default", "usage": {"total_tokens": 3}}], "default"),
        # The Responses API says at first what was asked for, and at the end what was given.
        (
            [
                {"type": "response.created", "response": {"service_tier": "auto"}},
                {"type": "response.completed", "response": {"service_tier": "flex", "usage": {"total_tokens": 3}}},
            ],
            "flex",
        ),
        ([{"choices": []}], ""),
    ],
)
def test_the_last_event_of_a_stream_that_names_it_counts(documents: list[dict[str, object]], named: str) -> None:
    assert tier(b"text/event-stream", events(*documents)) == named
