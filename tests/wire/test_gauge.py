"""What a stream has delivered so far: never less than what it is billed for in the end."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.delivered import Delivered
from proxy.wire.gauge import Gauge
from proxy.wire.sse import Splitter, data_of
from proxy.wire.tokens import BY_BYTES, tokenizer_for
from tests import corpus

texts = st.text(max_size=12)


def chat(index: int, text: str) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}}]}


@given(st.lists(st.tuples(st.integers(0, 2), texts), max_size=30), st.sampled_from(["", "gpt-4o"]))
def test_it_never_tells_less_than_what_is_counted_in_the_end(deltas: list[tuple[int, str]], model: str) -> None:
    tokenizer = tokenizer_for(model) if model else BY_BYTES
    gauge = Gauge()
    for index, text in deltas:
        gauge.add(chat(index, text))
        assert gauge.tokens_at_most(tokenizer) >= gauge.tokens(tokenizer, model).completion_tokens
    assert gauge.weight == sum(len(text.encode(errors="surrogatepass")) for _, text in deltas)


def test_reasoning_that_comes_encrypted_weighs_what_it_counts() -> None:
    gauge = Gauge()
    gauge.add(chat(0, "Hello"))
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA" + "x" * 4000}
    gauge.add({"type": "response.output_item.done", "output_index": 1, "item": item})
    counted = gauge.tokens(BY_BYTES).completion_tokens
    assert counted > 100
    assert gauge.tokens_at_most(BY_BYTES) >= counted
    assert gauge.weight > 4 * 100


@corpus.needed
def test_of_all_recorded_streams_it_tells_no_less_and_hardly_more_than_counted() -> None:
    rounds = 0
    for one in corpus.exchanges():
        if not one.streamed or one.status != 200:
            continue
        gauge, plain = Gauge(), Delivered()
        splitter = Splitter(1 << 24)
        for raw, whole in [*splitter.feed(one.body), *splitter.flush()]:
            try:
                event = orjson.loads(data_of(raw)) if whole else None
            except orjson.JSONDecodeError:
                continue
            if isinstance(event, dict):
                gauge.add(event)
                plain.add(event)
        told = gauge.tokens_at_most(BY_BYTES)
        assert gauge.tokens(BY_BYTES) == plain.tokens(BY_BYTES), one.id
        counted = gauge.tokens(BY_BYTES).completion_tokens
        if told:  # what came as whole messages only weighs when it is counted
            assert told >= counted, one.id
            rounds += 1
    assert rounds > 100
