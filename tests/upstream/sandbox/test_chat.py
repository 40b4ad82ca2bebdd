from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from proxy.upstream.sandbox.chat import chat
from proxy.upstream.sandbox.fields import Refusal
from proxy.upstream.sandbox.text import count

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city", "unit"],
        },
    },
}


class Step(BaseModel):
    explanation: str
    ok: bool


class Plan(BaseModel):
    steps: list[Step]
    effort: float
    count: int
    next: Plan | None


def _text(chunks: Iterable[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_a_plain_answer_quotes_the_user_and_counts_its_own_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    text = answer.choices[0].message.content
    assert text is not None
    assert text.startswith('You said: "Hello there".')
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-4o-mini-2024-07-18"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 4 + count("Hello there")
    assert answer.usage.completion_tokens == count(text)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_same_request_gets_the_same_text_and_usage_under_another_id(client: openai.OpenAI) -> None:
    one, two = (client.chat.completions.create(model="gpt-4o", messages=HELLO) for _ in range(2))
    assert (one.choices, one.usage) == (two.choices, two.usage)
    assert one.id != two.id


def test_the_sdks_own_models_find_nothing_wrong_with_an_answer_or_a_chunk(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    type(answer).model_validate(answer.to_dict(mode="json"))
    for chunk in client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True):
        type(chunk).model_validate(chunk.to_dict(mode="json"))


def test_an_unknown_model_answers_under_its_own_name(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="my/model", messages=HELLO).model == "my/model"


def test_a_stream_gives_a_role_then_one_chunk_per_token_then_an_end_and_no_usage(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    first, *middle, last = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert _text(chunks) == plain.choices[0].message.content
    assert plain.usage is not None
    assert len(middle) == plain.usage.completion_tokens
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].delta.content is None
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_asked_for_its_usage_ends_with_that_of_the_plain_answer(
    async_client: openai.AsyncOpenAI,
) -> None:
    plain = await async_client.chat.completions.create(model="gpt-4o", messages=HELLO)
    stream = await async_client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage == plain.usage
    assert _text(chunks) == plain.choices[0].message.content


def test_a_chunk_has_exactly_openais_fields() -> None:
    events = chat({"model": "gpt-4o", "messages": HELLO, "stream": True})
    assert not isinstance(events, dict)
    first, *_, done = events
    chunk = orjson.loads(first.removeprefix(b"data: "))
    assert list(chunk) == ["id", "object", "created", "model", "service_tier", "system_fingerprint", "choices"]
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "", "refusal": None},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert done == b"data: [DONE]\n\n"


def test_n_choices_are_given_and_all_counted(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    two = client.chat.completions.create(model="gpt-4o", messages=HELLO, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert one.usage is not None
    assert two.usage is not None
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, n=2, stream=True))
    assert _text(chunks, 0) == _text(chunks, 1) == one.choices[0].message.content


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_cuts_the_answer(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, extra_body={field: 3})
    assert answer.choices[0].message.content == "You said:"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_answer_ends_before_a_stop_word(client: openai.OpenAI) -> None:
    for stop in (" This", [" This"]):
        answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, stop=stop, temperature=0.1)
        assert answer.choices[0].message.content == 'You said: "Hello there".'
        assert answer.choices[0].finish_reason == "stop"


def test_an_image_counts_a_fixed_number_of_tokens(client: openai.OpenAI) -> None:
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": [{"type": "text", "text": "Hello there"}, image]}]
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + 4 + count("Hello there") + 85


@pytest.mark.parametrize(
    ("choice", "finish"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "weather"}}, "stop")],
)
def test_a_forced_function_is_called_plain_and_streamed(client: openai.OpenAI, choice: Any, finish: str) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER], tool_choice=choice)
    assert answer.choices[0].finish_reason == finish
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.tool_calls is not None
    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "weather"
    assert orjson.loads(call.function.arguments) == {"city": "sandbox", "unit": "celsius"}

    first, *middle, last = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, tools=[WEATHER], tool_choice=choice, stream=True
    )
    assert first.choices[0].delta.tool_calls is not None
    opening = first.choices[0].delta.tool_calls[0]
    assert opening.id is not None
    assert opening.function is not None
    assert (opening.type, opening.function.name, opening.function.arguments) == ("function", "weather", "")
    calls = [(chunk.choices[0].delta.tool_calls or [])[0].function for chunk in middle]
    assert "".join(part.arguments or "" for part in calls if part) == call.function.arguments
    assert last.choices[0].finish_reason == finish
    assert answer.usage is not None
    assert len(calls) == answer.usage.completion_tokens


def test_tools_that_are_not_forced_are_not_called_but_counted(client: openai.OpenAI) -> None:
    without = client.chat.completions.create(model="gpt-4o", messages=HELLO)
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER])
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage is not None
    assert without.usage is not None
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


def test_after_the_tool_has_answered_the_model_speaks(client: openai.OpenAI) -> None:
    call: Any = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[ChatCompletionMessageParam] = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "20 degrees"},
    ]
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER], tool_choice="required")
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.choices[0].message.content or "").startswith('You said: "Hello there"')


def test_parse_gives_an_instance_of_the_model_that_was_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Plan)
    plan = answer.choices[0].message.parsed
    assert plan == Plan(
        steps=[Step(explanation="sandbox", ok=True)], effort=1.5, count=1, next=plan.next if plan else None
    )


async def test_the_sdks_stream_helper_parses_too(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.chat.completions.stream(model="gpt-4o", messages=HELLO, response_format=Step) as stream:
        async for _ in stream:
            pass
        completion = await stream.get_final_completion()
    assert completion.choices[0].message.parsed == Step(explanation="sandbox", ok=True)


def test_json_mode_gives_an_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, response_format={"type": "json_object"})
    assert list(orjson.loads(answer.choices[0].message.content or "")) == ["answer"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"model": None}, "model"),
        ({"n": 0}, "n"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": 3}, "tools"),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        chat({"model": "gpt-4o", "messages": HELLO, **change})
    assert (caught.value.param, caught.value.status) == (param, 400)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = ["n", "stop", "stream", "stream_options", "tools", "tool_choice", "response_format", "max_tokens"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_FIELDS), _ANY), _ANY, st.booleans())
def test_no_body_makes_it_fail(fields: dict[str, Any], content: Any, call: bool) -> None:
    message = {"role": "user", "content": content, "tool_calls": content if call else None}
    try:
        answer = chat({"model": "gpt-4o", "messages": [message], **fields})
    except Refusal:
        return
    orjson.dumps(answer) if isinstance(answer, dict) else list(answer)
