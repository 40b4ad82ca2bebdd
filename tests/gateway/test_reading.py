from __future__ import annotations

from typing import Any

import pytest

from proxy.gateway.reading import has_failed, reading_of, text_of, with_units
from proxy.model import NO_UNITS, NO_USAGE, Units, Usage, UsageSource
from proxy.wire.endpoints import ENDPOINTS

SPEECH = next(rule for rule in ENDPOINTS if rule.name == "/v1/audio/speech")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"model": "m"}, "m"),
        ({"response": {"model": "m"}}, "m"),
        ({"model": "m", "response": {"model": "n"}}, "m"),
        ({"model": "x" * 300}, "x" * 256),
        ({"model": "a\ud800"}, "a?"),
        ({"model": ["m"]}, ""),
        ({"response": "m"}, ""),
        ({}, ""),
    ],
)
def test_a_name_is_bounded_text(answer: dict[str, Any], text: str) -> None:
    assert text_of(answer, "model") == text


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ({"error": {"message": "no"}}, True),
        ({"type": "response.failed"}, True),
        ({"type": "error"}, True),
        ({"error": None, "type": "response.completed"}, False),
        ({}, False),
    ],
)
def test_an_answer_tells_that_it_failed(answer: dict[str, Any], failed: bool) -> None:
    assert has_failed(answer) is failed


def test_usage_that_stood_there_is_reported() -> None:
    assert reading_of((Usage(3), "usage"), "m", "r", "", failed=False).usage_source is UsageSource.REPORTED
    unread = reading_of(None, "m", "r", "", failed=False)
    assert (unread.usage, unread.usage_source, unread.understood) == (NO_USAGE, UsageSource.NONE, True)


def test_units_are_exact_and_so_count_as_reported() -> None:
    unread = reading_of(None, "m", "r", "", failed=False)
    spoken = with_units(unread, Units(characters=5), SPEECH)
    assert (spoken.units, spoken.usage_source) == (Units(characters=5), UsageSource.REPORTED)
    assert with_units(reading_of(None, "m", "r", "", failed=True), Units(characters=5), SPEECH).units is NO_UNITS


def test_what_was_spoken_is_no_text() -> None:
    reading = with_units(reading_of((Usage(3, text_output=4), "usage"), "m", "r", "", failed=False), NO_UNITS, SPEECH)
    assert reading.usage == Usage(3, audio_output=4)
