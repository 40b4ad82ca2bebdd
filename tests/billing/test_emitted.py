from __future__ import annotations

import pytest

from proxy.billing.emitted import EVENT_TYPES, data_keys, events, settlement_like
from proxy.model import Usage
from proxy.sections import SinkSettings


def test_there_is_a_type_for_each_profile() -> None:
    for event_type in EVENT_TYPES:
        assert SinkSettings(profile=event_type).profile == event_type
    with pytest.raises(ValueError, match=r"'llm_token_usage', 'kong\.llm_request' or 'prompt'"):
        SinkSettings(profile="other")


def test_what_is_in_an_event_s_data_is_known() -> None:
    assert {"total_tokens", "model_family", "images"} <= set(data_keys("llm_token_usage"))
    assert {"tokens", "type", "model"} <= set(data_keys("kong.llm_request"))


def test_a_request_is_told_in_the_events_of_each_type() -> None:
    one = settlement_like("acme", model="gpt-4o-2024-08-06", usage=Usage(uncached_input=3, text_output=4))
    (whole,) = events(one, "llm_token_usage")
    assert (whole["total_tokens"], whole["model_family"]) == (7, "gpt-4o")
    assert [(part["type"], part["tokens"]) for part in events(one, "prompt")] == [("input", "3"), ("output", "4")]
