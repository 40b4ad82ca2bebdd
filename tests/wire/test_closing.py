"""Recorded streams, stopped after any event: the official SDK takes each for an answer that has reached its limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import LengthFinishReasonError, omit
from openai._models import construct_type
from openai.lib.streaming.chat._completions import ChatCompletionStreamState
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from proxy.model import Usage
from proxy.wire.closing import Closing, closing_for
from proxy.wire.sse import Splitter, data_of
from tests import corpus

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USAGE = Usage(uncached_input=7, cached_input=2, text_output=20, reasoning=3)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def ending(endpoint: str, *, tells_usage: bool = False) -> Closing:
    closing = closing_for(endpoint, tells_usage=tells_usage)
    assert closing is not None
    return closing


def documents(raw: bytes) -> list[dict[str, Any]]:
    """The JSON events of a stream."""
    splitter = Splitter(1 << 24)
    found = []
    for event, whole in [*splitter.feed(raw), *splitter.flush()]:
        data = data_of(event)
        if whole and data.startswith(b"{"):
            found.append(orjson.loads(data))
    return found


def chunk_of(event: dict[str, Any]) -> ChatCompletionChunk:
    """As the SDK reads it, which checks nothing."""
    return cast(ChatCompletionChunk, construct_type(type_=ChatCompletionChunk, value=event))


def recorded(endpoint: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for one in corpus.exchanges():
        if one.streamed and one.status == 200 and one.endpoint == endpoint:
            yield one.id, documents(one.body)


def cuts(events: list[Any], count: int = 6) -> list[int]:
    """After how many events to stop: early, late, and in between."""
    return sorted({1, 2, len(events) - 1, *range(1, len(events), max(1, len(events) // count))})


@corpus.needed
@pytest.mark.parametrize("tells_usage", [False, True])
def test_each_recorded_chat_ends_by_its_length_wherever_it_is_cut(tells_usage: bool) -> None:
    closed = 0
    for name, events in recorded("chat/completions"):
        if not all(isinstance(one.get("choices"), list) for one in events):
            continue  # an error in the middle
        for cut in cuts(events):
            closing = ending(CHAT, tells_usage=tells_usage)
            seen = events[:cut]
            for one in seen:
                closing.note(one, 100)
            begun = {choice["index"] for one in seen for choice in one["choices"]}
            ended = {choice["index"] for one in seen for choice in one["choices"] if choice.get("finish_reason")}
            assert closing.is_open == bool(begun - ended), name
            raw = closing.events(USAGE)
            assert raw.endswith(b"data: [DONE]\n\n")
            more = documents(raw)
            finished = [choice for one in more for choice in one["choices"]]
            assert {choice["index"] for choice in finished} == begun - ended, name
            assert all(choice["finish_reason"] == "length" for choice in finished)
            repeated = ("id", "object", "created", "model", "system_fingerprint")
            last = [one for one in seen if one["choices"]][-1:]
            for one in more if last else []:
                assert {key: one.get(key) for key in repeated} == {key: last[0].get(key) for key in repeated}
            assert [one["usage"]["total_tokens"] for one in more if one.get("usage")] == [32] * tells_usage
            closed += len(finished)
    assert closed > 200


@corpus.needed
def test_the_sdk_puts_a_stopped_chat_together_with_its_calls() -> None:
    stopped = calls = 0
    for name, events in recorded("chat/completions"):
        if name.startswith(("openai", "azure", "groq", "vllm", "together", "deepseek")):
            for cut in cuts(events, 3):
                closing = ending(CHAT, tells_usage=True)
                state = ChatCompletionStreamState(input_tools=omit, response_format=omit)
                for one in events[:cut]:
                    closing.note(one, 100)
                    state.handle_chunk(chunk_of(one))
                if not closing.is_open:
                    continue
                for one in documents(closing.events(USAGE)):
                    state.handle_chunk(chunk_of(one))
                with pytest.raises(LengthFinishReasonError) as told:  # its word for every answer that is cut at a limit
                    state.get_final_completion()
                completion = told.value.completion
                assert completion.choices[0].finish_reason == "length", name
                assert completion.usage is not None
                assert completion.usage.total_tokens == 32
                stopped += 1
                calls += bool(completion.choices[0].message.tool_calls)
    assert stopped > 20
    assert calls


@corpus.needed
def test_recorded_completions_end_alike() -> None:
    for name, events in recorded("completions"):
        closing = ending(COMPLETIONS)
        closing.note(events[0], 100)
        (last,) = documents(closing.events(USAGE))
        made = Completion.model_validate(last)
        assert (made.id, made.object, made.choices[0].text, made.choices[0].finish_reason) == (
            *(events[0]["id"], "text_completion", ""),
            "length",
        ), name


def test_only_choices_that_have_begun_and_not_ended_are_finished() -> None:
    closing = ending(CHAT)
    for index, reason in ((0, None), (2, None), (1, None), (0, "stop"), (0, None)):
        closing.note({"id": "x", "choices": [{"index": index, "delta": {}, "finish_reason": reason}]}, 100)
    finished = [one["choices"][0]["index"] for one in documents(closing.events(USAGE))]
    assert sorted(finished) == [1, 2]


def test_nobody_knows_how_other_streams_end() -> None:
    assert closing_for("/v1/images/generations", tells_usage=False) is None


@given(st.sampled_from([CHAT, COMPLETIONS, "/v1/responses"]), st.lists(st.dictionaries(st.text(), json_values)))
def test_any_json_is_taken(endpoint: str, events: list[dict[str, Any]]) -> None:
    closing = ending(endpoint, tells_usage=True)
    names = ("choices", "type", "response", "output_index", "item", "part", "delta", "id", "model")
    for at, event in enumerate(events):
        shifted = {names[(at + number) % len(names)]: value for number, value in enumerate(event.values())}
        closing.note(event | shifted, 10)
    assert documents(closing.events(USAGE))
