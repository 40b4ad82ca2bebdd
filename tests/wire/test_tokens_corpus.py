"""How far estimates are from what OpenAI reported, on its recorded traffic. `python -m tests.estimates` shows all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from statistics import median

import pytest

from proxy.wire.tokens import Tokenizer, tokenizer_for
from tests import corpus, estimates

needs_vocabularies = pytest.mark.skipif(
    importlib.util.find_spec("bpe_openai") is None, reason="the optional package bpe-openai is not installed"
)
VOCABULARY = pytest.param(tokenizer_for, 0.08, 0.05, 0.06, marks=needs_vocabularies, id="vocabulary")
BYTES = pytest.param(estimates.by_bytes, 0.18, 0.20, 0.15, id="bytes")


@corpus.needed
@pytest.mark.parametrize(("choose", "input_", "output", "total"), [VOCABULARY, BYTES])
def test_the_median_errors_are_within_what_was_measured(
    choose: Callable[[str], Tokenizer], input_: float, output: float, total: float
) -> None:
    found = [one for one in estimates.all_estimated(choose) if one.provider == "openai"]
    assert len(found) > 60
    assert median(estimates.errors(found, "prompt_tokens")) <= input_
    assert median(estimates.errors(found, "completion_tokens")) <= output
    assert median(estimates.errors(found, "total_tokens")) <= total


@corpus.needed
@needs_vocabularies
def test_a_plain_conversation_is_counted_almost_exactly() -> None:
    """Text alone, of models that were given nothing besides: what is off here is an error of the rules."""
    plain = {record["id"] for record in estimates.records() if is_plain(record["request"]["body"])}
    found = [one for one in estimates.all_estimated(tokenizer_for) if one.asked and one.id in plain]
    found = [one for one in found if one.provider in ("openai", "azure-openai") and one.model != "deepseek-v4-pro"]
    assert len(found) > 20
    for one in found:
        assert abs(one.estimate.prompt_tokens - one.reported.prompt_tokens) <= 1, one.id


def is_plain(body: dict[str, object]) -> bool:
    asked = body.get("messages", body.get("input"))
    items = asked if isinstance(asked, list) else []
    texts = all(isinstance(item, dict) and isinstance(item.get("content"), str) for item in items)
    return (
        bool(asked)
        and texts
        and not body.keys() & {"tools", "functions", "response_format", "text", "previous_response_id"}
    )
