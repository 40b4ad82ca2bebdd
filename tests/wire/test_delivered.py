from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import Usage
from proxy.wire import delivered as delivering
from proxy.wire.delivered import Delivered
from proxy.wire.tokens import ByBytes


class Letters:
    """A token per letter, so that a test can be counted by eye."""

    name = "letters"

    def count(self, text: str) -> int:
        return len(text)


def counted(*documents: dict[str, Any], model: str = "") -> tuple[int, int]:
    """The text and the reasoning of a stream of these, less what stands around each text (1) and each call (3)."""
    delivered = Delivered()
    for document in documents:
        delivered.add(document)
    usage = delivered.tokens(Letters(), model)
    assert usage == Usage(text_output=usage.text_output, reasoning=usage.reasoning)
    assert delivered.tokens(Letters(), model) == usage  # asked again
    return usage.text_output, usage.reasoning


def delta(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": None}]}


def message(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


def event(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **more}


def test_a_stream_is_counted_as_one_text() -> None:
    assert counted(delta(role="assistant", content=""), delta(content="abc"), delta(content="de"), delta()) == (6, 0)


def test_choices_are_kept_apart() -> None:
    delivered = Delivered()
    for index, text in [(0, "He"), (1, "Bon"), (0, "llo"), (1, "jour")]:
        delivered.add(delta(index, content=text))
    seen: list[str] = []

    class Noting(Letters):
        def count(self, text: str) -> int:
            seen.append(text)
            return 0

    delivered.tokens(Noting())
    assert seen == ["Hello", "Bonjour"]
    assert delivered.characters() == 12


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"reasoning_content": "abc"}, (0, 3)),
        ({"content": None, "reasoning": "abc"}, (0, 3)),
        ({"reasoning": "abc", "reasoning_content": "abc"}, (0, 3)),
        ({"reasoning": "abc", "reasoning_details": [{"type": "reasoning.text", "text": "abc"}]}, (0, 3)),
        ({"reasoning_details": [{"text": "ab"}, {"summary": "c"}, {"data": 5}, None]}, (0, 3)),
        ({"reasoning": "abc", "reasoning_details": [{"data": "x" * 62}]}, (0, 10)),  # a summary of what is encrypted
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "abc"}]}]}, (0, 3)),
        ({"content": [{"type": "text", "text": "abc"}, "x", {"type": "text"}]}, (4, 0)),
        ({"content": None, "refusal": "no"}, (3, 0)),
        ({"audio": {"data": "AAAA", "transcript": "abc"}}, (4, 0)),
        ({"function_call": {"name": "f", "arguments": "{}"}}, (6, 0)),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]}, (6, 0)),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}, (11, 0)),  # parsed, not text
        ({"tool_calls": [{"custom": {"name": "f", "input": "xy"}}]}, (6, 0)),
    ],
)
def test_what_the_model_wrote_counts_once_streamed_or_whole(given_: dict[str, Any], expected: tuple[int, int]) -> None:
    assert counted(delta(**given_)) == counted(message(**given_)) == expected


def test_the_parts_of_a_call_are_put_together() -> None:
    def part(**function: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": 1, "function": function}])

    first = delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{}"}}])
    # The name in every part, as some write it.
    assert counted(first, part(name="gg", arguments=""), part(name="gg", arguments="ab"), part(arguments="c")) == (
        14,
        0,
    )


def test_a_message_that_repeats_the_deltas_counts_once() -> None:
    both = {"choices": [{"index": 0, "delta": {"content": "b"}, "message": {"content": "ab"}}]}
    assert counted(delta(content="a"), both, message(content="ab")) == (3, 0)


def test_a_message_beside_an_empty_delta_counts() -> None:
    beside = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "message": {"content": "abc"}}]}
    assert counted(beside) == (4, 0)


def test_a_message_that_grows_counts_as_it_was_last() -> None:
    assert counted(message(content="a"), message(content="ab"), message(content="abc")) == (4, 0)


def test_completions_count_their_text() -> None:
    assert counted({"choices": [{"index": 0, "text": "ab"}]}, {"choices": [{"index": 0, "text": "c"}]}) == (4, 0)
    assert counted({"choices": [{"index": 0, "text": "ab", "delta": {"content": "ab"}}]}) == (3, 0)


ITEM = {"type": "message", "content": [{"type": "output_text", "text": "abc"}, {"type": "refusal", "refusal": "d"}]}
CALL = {"type": "function_call", "name": "f", "arguments": "{}"}
THOUGHT = {"type": "reasoning", "summary": [{"text": "su"}], "content": [{"type": "reasoning_text", "text": "think"}]}


def test_a_response_counts_its_output() -> None:
    assert counted({"object": "response", "output": [THOUGHT, ITEM, CALL]}) == (5 + 6, 5)


def test_a_responses_stream_counts_its_deltas_and_not_what_repeats_them() -> None:
    stream = [
        event("created", response={"output": []}),
        event("output_item.added", output_index=0, item={"type": "message", "content": []}),
        event("output_text.delta", output_index=0, content_index=0, delta="ab"),
        event("output_text.delta", output_index=0, content_index=0, delta="c"),
        event("output_text.done", output_index=0, text="abc"),
        event("refusal.delta", output_index=0, delta="d"),
        event("content_part.done", output_index=0, part={"type": "output_text", "text": "abc"}),
        event("output_item.done", output_index=0, item=ITEM),
        event("output_item.added", output_index=1, item={"type": "function_call", "name": "f", "arguments": ""}),
        event("function_call_arguments.delta", output_index=1, delta="{}"),
        event("function_call_arguments.done", output_index=1, arguments="{}"),
        event("output_item.done", output_index=1, item=CALL),
        event("completed", response={"output": [ITEM, CALL]}),
    ]
    assert counted(*stream) == (5 + 6, 0)
    assert counted(*stream[:3]) == (3, 0)  # cut off


def test_an_item_without_deltas_counts_when_it_is_done() -> None:
    added = event("output_item.added", output_index=0, item=CALL)
    done = event("output_item.done", output_index=0, item=CALL)
    assert counted(added, done, event("completed", response={"output": [CALL]})) == (6, 0)
    assert counted(event("output_text.delta", output_index=1, delta="abc"), done) == (4 + 6, 0)


def test_a_stream_of_nothing_but_its_end_counts_that() -> None:
    assert counted(event("created", response={}), event("completed", response={"output": [ITEM, CALL]})) == (11, 0)


def test_a_summary_counts_only_where_the_reasoning_itself_was_not_delivered() -> None:
    summary = event("reasoning_summary_text.delta", output_index=0, delta="su")
    assert counted(summary) == (0, 2)
    assert counted(event("reasoning_text.delta", output_index=0, delta="think"), summary) == (0, 5)


def test_encrypted_reasoning_counts_by_its_length() -> None:
    done = event("output_item.done", output_index=0, item={"type": "reasoning", "encrypted_content": "x" * 620})
    summary = event("reasoning_summary_text.delta", output_index=0, delta="su")
    assert counted(summary, done) == counted(done) == (0, 100)
    assert counted({"output": [{"type": "reasoning", "summary": [], "encrypted_content": "x" * 620}]}) == (0, 100)


def test_audio_and_images_are_no_text() -> None:
    image = {"type": "image_generation_call", "result": "AAAA"}
    assert counted(event("audio.delta", delta="AAAA"), event("output_item.done", output_index=0, item=image)) == (0, 0)


@pytest.mark.parametrize(
    ("model", "text", "call"), [("gpt-4o", 1, 3), ("openai/gpt-5-mini", 9, 11), ("gpt-5.2", 4, 11), ("", 1, 3)]
)
def test_what_a_model_writes_around_its_text_counts(model: str, text: int, call: int) -> None:
    assert counted(delta(content="abc"), model=model) == (3 + text, 0)
    assert counted(message(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), model=model) == (3 + call, 0)


def test_no_number_of_choices_makes_it_grow_beyond_its_text() -> None:
    delivered = Delivered()
    for index in range(10_000):
        delivered.add(delta(index, content="abc", tool_calls=[{"index": 5, "function": {"arguments": "de"}}]))
    assert delivered.characters() == 50_000
    assert len(delivered._buffers) <= 4096 + 2


def test_nothing_delivered_counts_nothing() -> None:
    assert counted() == counted({"error": {"message": "no"}}) == counted({"choices": []}, {"usage": None}) == (0, 0)


NAMES = st.sampled_from(
    [
        *("choices", "delta", "message", "content", "reasoning", "reasoning_content", "reasoning_details", "refusal"),
        *("tool_calls", "function", "function_call", "name", "arguments", "index", "text", "type", "output", "item"),
        *("response", "output_index", "summary", "encrypted_content", "audio", "transcript", "thinking", "data"),
    ]
)
KINDS = st.sampled_from(["response.output_text.delta", "response.output_item.done", "response.output_item.added"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | KINDS | st.just(2**70)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5))


@given(st.lists(st.dictionaries(NAMES, JSON, max_size=5), max_size=4))
def test_no_document_raises(documents: list[dict[str, Any]]) -> None:
    delivered = Delivered()
    for document in documents:
        delivered.add(document)
    usage = delivered.tokens(ByBytes())
    assert usage.text_output >= 0
    assert usage.reasoning >= 0


@given(st.text(), st.data())
def test_a_text_counts_the_same_however_it_was_cut(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    if text:
        assert counted(delta(content=text[:cut]), delta(content=text[cut:])) == counted(message(content=text))


def test_a_text_without_end_is_counted_without_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "_CHARS_MAX", 1_000)
    delivered = Delivered()
    for index in range(20):
        delivered.add({"choices": [{"index": index % 2, "delta": {"content": "abcd" * 25}}]})
    assert delivered.characters() == 2_000
    assert sum(len(buffer.getvalue()) for buffer in delivered._buffers.values()) == 1_000
    assert delivered.tokens(ByBytes()).text_output == 2_000 // 4 + 2  # the ends of two texts


def test_choices_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "_BUFFERS_MAX", 8)
    delivered = Delivered()
    detail = {"type": "reasoning.encrypted", "data": "x" * 4_000}
    for index in range(100):
        delivered.add({"choices": [{"index": index, "message": {"content": "abcd"}}]})
        delivered.add({"choices": [{"index": index, "delta": {"reasoning_details": [detail]}}]})
    assert len(delivered._messages) == 8
    assert len(delivered._encrypted) == 9
