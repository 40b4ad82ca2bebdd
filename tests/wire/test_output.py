from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.output import Output, limit_field, output_of

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("endpoint", "body", "output"),
    [
        (CHAT, {}, Output(None)),
        (CHAT, {"max_tokens": 50}, Output(50)),
        (CHAT, {"max_completion_tokens": 0}, Output(0)),
        (CHAT, {"max_completion_tokens": 20, "max_tokens": 50, "n": 3}, Output(50, 3)),
        (CHAT, {"max_tokens": None, "n": None}, Output(None)),
        (COMPLETIONS, {"prompt": "a"}, Output(16)),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "best_of": 5, "max_tokens": 7}, Output(7, 10)),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, Output(16, 1)),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, Output(16, 2)),
        (RESPONSES, {"max_output_tokens": 99, "max_tokens": 5, "n": 4}, Output(99)),
        ("/v1/embeddings", {"max_tokens": 5}, Output(0)),
    ],
)
def test_a_request_allows_so_much_output(endpoint: str, body: dict[str, Any], output: Output) -> None:
    assert output_of(endpoint, body) == output


def test_the_field_of_a_maximum_is_the_endpoints() -> None:
    assert limit_field(CHAT, "max_completion_tokens") == "max_completion_tokens"
    assert limit_field(RESPONSES, "max_completion_tokens") == "max_output_tokens"


@pytest.mark.parametrize("value", [-1, True, "5", 1.5, [], {}])
def test_what_is_no_count_is_none(value: object) -> None:
    assert output_of(CHAT, {"max_tokens": value, "n": value}) == Output(None)


@given(
    st.sampled_from([CHAT, COMPLETIONS, RESPONSES, "/v1/x"]),
    st.dictionaries(st.text(max_size=9), st.text() | st.integers()),
)
def test_no_body_breaks_it(endpoint: str, body: dict[str, Any]) -> None:
    assert output_of(endpoint, body).choices >= 1
