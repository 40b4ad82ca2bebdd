from __future__ import annotations

from typing import Any

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from proxy.upstream.sandbox.fields import Refusal
from proxy.upstream.sandbox.responses import responses
from proxy.upstream.sandbox.text import count

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


class Place(BaseModel):
    name: str
    population: int


def test_a_plain_response_has_a_text_and_its_usage(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o-mini", input="Hello there")
    assert answer.status == "completed"
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.output_text.startswith('You said: "Hello there".')
    assert answer.usage is not None
    assert answer.usage.input_tokens == 3 + 4 + count("Hello there")
    assert answer.usage.output_tokens == count(answer.output_text)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


def test_the_sdks_own_model_finds_nothing_wrong_with_a_response(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="Hello", instructions="Be kind.", metadata={"a": "b"})
    type(answer).model_validate(answer.to_dict(mode="json"))
    assert (answer.instructions, answer.metadata) == ("Be kind.", {"a": "b"})


def test_items_and_instructions_count_as_messages(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="gpt-4o",
        instructions="Be kind.",
        input=[
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
        ],
    )
    assert answer.output_text.startswith('You said: "three"')
    assert answer.usage is not None
    assert answer.usage.input_tokens == 3 + 4 * 4 + count("Be kind.") + 3


def test_a_stream_sends_openais_events_in_order_and_numbered(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="gpt-4o", input="Hello")
    events = list(client.responses.create(model="gpt-4o", input="Hello", stream=True))
    assert plain.usage is not None
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * plain.usage.output_tokens,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == plain.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.usage, last.response.output_text) == (plain.usage, plain.output_text)
    for event in events:
        type(event).model_validate(event.to_dict(mode="json"))


def test_each_event_is_named_and_there_is_no_done_marker() -> None:
    events = responses({"model": "gpt-4o", "input": "Hello", "stream": True})
    assert not isinstance(events, dict)
    for event in events:
        name, data, *rest = event.split(b"\n")
        assert name == b"event: " + orjson.loads(data.removeprefix(b"data: "))["type"].encode()
        assert rest == [b"", b""]


async def test_the_sdks_stream_helper_follows_a_stream_to_its_end(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.responses.stream(model="gpt-4o", input="Hello") as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert types[-1] == "response.completed"
    assert final.output_text.startswith('You said: "Hello".')


def test_parse_gives_an_instance_of_the_model_that_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.responses.parse(model="gpt-4o", input="Hello", text_format=Place)
    assert answer.output_parsed == Place(name="sandbox", population=1)
    with client.responses.stream(model="gpt-4o", input="Hello", text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(name="sandbox", population=1)


def test_json_mode_gives_an_object(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="Hello", text={"format": {"type": "json_object"}})
    assert list(orjson.loads(answer.output_text)) == ["answer"]


def test_the_token_limit_leaves_the_response_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4o", input="Hello", max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "You said:")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3
    *_, last = client.responses.create(model="gpt-4o", input="Hello", max_output_tokens=3, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.usage == answer.usage


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_forced_function_is_called_plain_and_streamed(client: openai.OpenAI, choice: Any) -> None:
    answer = client.responses.create(model="gpt-4o", input="Hello", tools=[WEATHER], tool_choice=choice)
    [call] = answer.output
    assert call.type == "function_call"
    assert (call.name, call.arguments, call.status) == ("weather", '{"city":"sandbox"}', "completed")
    events = list(
        client.responses.create(model="gpt-4o", input="Hello", tools=[WEATHER], tool_choice=choice, stream=True)
    )
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    assert answer.usage is not None
    assert len(deltas) == answer.usage.output_tokens
    assert [event.type for event in events if "delta" not in event.type] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    with client.responses.stream(model="gpt-4o", input="Hello", tools=[WEATHER], tool_choice=choice) as stream:
        [item] = stream.get_final_response().output
    assert item.type == "function_call"
    assert item.parsed_arguments == {"city": "sandbox"}


def test_after_the_tool_has_answered_the_model_speaks(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="gpt-4o",
        input=[
            {"role": "user", "content": "Hello"},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "20 degrees"},
        ],
        tools=[WEATHER],
        tool_choice="required",
    )
    assert answer.output_text.startswith('You said: "Hello"')


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "empty_array"),
        ({"input": 3}, "input", "invalid_type"),
        ({"model": None}, "model", None),
        ({"stream_options": {}}, "stream_options", None),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
            "unknown_parameter",
        ),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_named(change: dict[str, Any], param: str, code: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        responses({"model": "gpt-4o", "input": "Hello", **change})
    assert (caught.value.param, caught.value.code) == (param, code)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ["instructions", "stream", "stream_options", "tools", "tool_choice", "text", "max_output_tokens", "metadata"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_FIELDS), _ANY), _ANY)
def test_no_body_makes_it_fail(fields: dict[str, Any], content: Any) -> None:
    try:
        answer = responses({"model": "gpt-4o", "input": [{"role": "user", "content": content}], **fields})
    except Refusal:
        return
    orjson.dumps(answer) if isinstance(answer, dict) else list(answer)
