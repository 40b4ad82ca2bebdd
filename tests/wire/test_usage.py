from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.model import BUCKETS, Usage
from proxy.wire.usage import find, normalise

CHAT = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
INPUT = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        # OpenAI: the details lie within the totals.
        (CHAT, Usage(uncached_input=10, text_output=5)),
        (
            {
                **CHAT,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 3, "cache_write_tokens": 2},
                "completion_tokens_details": {
                    "reasoning_tokens": 2,
                    "audio_tokens": 1,
                    "accepted_prediction_tokens": 1,
                    "rejected_prediction_tokens": 1,
                },
            },
            Usage(1, 4, 2, 3, text_output=2, reasoning=2, audio_output=1),
        ),
        (
            {
                **INPUT,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens_details": {"reasoning_tokens": 5},
            },
            Usage(6, 4, reasoning=5),
        ),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7)),
        ({"total_tokens": 7}, Usage(7)),
        ({"prompt_tokens": 7, "completion_tokens": 2}, Usage(7, text_output=2)),
        ({"completion_tokens": 2, "total_tokens": 9}, Usage(7, text_output=2)),
        # The other spellings.
        ({**CHAT, "prompt_token_details": {"cached_tokens": 4}}, Usage(6, 4, text_output=5)),
        ({**INPUT, "input_token_details": {"cached_tokens": 4}}, Usage(6, 4, text_output=5)),
        (
            {**CHAT, "prompt_tokens_details": {}, "input_tokens_details": {"cached_tokens": 4}},
            Usage(6, 4, text_output=5),
        ),
        ({**CHAT, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}, Usage(6, 4, text_output=5)),
        ({**CHAT, "cached_tokens": 4}, Usage(6, 4, text_output=5)),
        ({**CHAT, "num_cached_tokens": 4}, Usage(6, 4, text_output=5)),
        ({**CHAT, "cache_read_input_tokens": 4}, Usage(6, 4, text_output=5)),
        ({**CHAT, "cache_creation_input_tokens": 4}, Usage(6, 0, 4, text_output=5)),
        ({**CHAT, "cache_write_tokens": 4}, Usage(6, 0, 4, text_output=5)),
        ({**CHAT, "reasoning_tokens": 4}, Usage(10, text_output=1, reasoning=4)),
        # Nulls and what is no count.
        ({**CHAT, "prompt_tokens_details": None, "completion_tokens_details": None}, Usage(10, text_output=5)),
        ({**CHAT, "prompt_tokens_details": {"cached_tokens": None}}, Usage(10, text_output=5)),
        ({**CHAT, "cached_tokens": None, "num_cached_tokens": 4}, Usage(6, 4, text_output=5)),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.0, "total_tokens": 15.0}, Usage(10, text_output=5)),
        ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": 15}, Usage(10, text_output=5)),
        ({"prompt_tokens": 10, "completion_tokens": -5, "total_tokens": 15}, Usage(10, text_output=5)),
        ({"prompt_tokens": 10, "completion_tokens": 4.5, "total_tokens": None}, Usage(10)),
        ({"prompt_tokens": True, "completion_tokens": 10**30, "total_tokens": 3}, Usage(3)),
        ({**CHAT, "cost": {"total": 1}, "total_cost": "0.1"}, Usage(10, text_output=5)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
        # More details than there are tokens (Azure's grok): the totals hold.
        ({**CHAT, "prompt_tokens_details": {"cached_tokens": 161}}, Usage(0, 10, text_output=5)),
        ({**CHAT, "completion_tokens_details": {"reasoning_tokens": 11}}, Usage(10, reasoning=5)),
        # A total that the parts do not explain.
        (
            {**CHAT, "total_tokens": 115, "completion_tokens_details": {"reasoning_tokens": 100}},
            Usage(10, text_output=5, reasoning=100),
        ),
        ({**CHAT, "total_tokens": 115}, Usage(10, text_output=5, reasoning=100)),
        ({**CHAT, "total_tokens": 115, "prompt_audio_seconds": 3}, Usage(10, audio_input=100, text_output=5)),
        (
            {**CHAT, "total_tokens": 115, "prompt_tokens_details": {"audio_tokens": 100}},
            Usage(10, audio_input=100, text_output=5),
        ),
        ({**CHAT, "total_tokens": 3}, Usage(10, text_output=5)),
        # Anthropic's own shape: the cache lies beside the input.
        (
            {
                "input_tokens": 10,
                "output_tokens": 5,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
            },
            Usage(10, 100, 20, text_output=5),
        ),
        # Not tokens, or decoys.
        ({"seconds": 3, "type": "duration"}, None),
        ({"characters": 30}, None),
        ({"cost_in_usd_ticks": 5}, None),
        ({}, None),
        ({**CHAT, "context_details": {"input_tokens": 999}}, Usage(10, text_output=5)),
    ],
)
def test_every_shape_is_read_into_disjoint_buckets(raw: dict[str, Any], usage: Usage | None) -> None:
    assert normalise(raw) == usage


NAMES = st.sampled_from(
    [
        *("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens"),
        *("prompt_tokens_details", "input_tokens_details", "completion_tokens_details", "output_token_details"),
        *("cached_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_write_tokens"),
        *("reasoning_tokens", "audio_tokens", "prompt_audio_seconds", "usage", "response", "x_groq", "choices"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.integers(0, 50)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4)
)
COUNTS = st.integers(0, 2**40)


@given(st.dictionaries(NAMES | st.text(max_size=3), JSON_VALUES, max_size=8))
def test_no_object_raises_and_no_bucket_is_negative(raw: dict[str, Any]) -> None:
    found = find(raw)
    assert found is None or isinstance(found[0], dict)
    for usage in (normalise(raw), normalise(found[0] if found else {})):
        assert usage is None or all(getattr(usage, bucket) >= 0 for bucket in BUCKETS)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=5), COUNTS, COUNTS, st.none() | COUNTS)
@example({}, 12, 2, 334)
def test_the_total_is_the_larger_of_the_reported_one_and_the_sum_of_its_parts(
    details: dict[str, Any], prompt: int, completion: int, total: int | None
) -> None:
    beside = {"cache_read_input_tokens", "cache_creation_input_tokens"}
    raw = {name: value for name, value in details.items() if name not in beside}
    usage = normalise({**raw, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total})
    assert usage is not None
    assert usage.total_tokens == max(total or 0, prompt + completion)
    assert usage.prompt_tokens >= prompt
    assert usage.completion_tokens >= completion
    assert sum(getattr(usage, bucket) for bucket in BUCKETS) == usage.total_tokens


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        ({"usage": CHAT}, "usage"),
        ({"type": "response.completed", "response": {"usage": CHAT}}, "response.usage"),
        ({"type": "response.incomplete", "response": {"usage": CHAT}, "usage": None}, "response.usage"),
        ({"x_groq": {"usage": CHAT}}, "x_groq.usage"),
        ({"usage": CHAT, "x_groq": {"usage": INPUT}}, "usage"),
        ({"usage": {}, "x_groq": {"usage": CHAT}}, "x_groq.usage"),
        ({"usage": None, "choices": [{"usage": CHAT}]}, "choices[].usage"),
        ({"choices": [{"usage": INPUT}, {"usage": CHAT}, {"delta": {}}, None]}, "choices[].usage"),
    ],
)
def test_usage_is_found_wherever_an_upstream_puts_it(answer: dict[str, Any], path: str) -> None:
    assert find(answer) == (CHAT, path)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"usage": None},
        {"usage": [CHAT]},
        {"usage": 5},
        {"response": None, "x_groq": "gsk", "choices": None},
        {"choices": {"usage": CHAT}},
        {"usage_breakdown": {"models": [{"usage": CHAT}]}},
        {"response": {"tool_usage": CHAT}},
        {"input_tokens": 5, "object": "response.input_tokens"},
    ],
)
def test_what_only_looks_like_usage_is_not_found(answer: dict[str, Any]) -> None:
    assert find(answer) is None
