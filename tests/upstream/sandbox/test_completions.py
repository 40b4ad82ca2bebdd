from __future__ import annotations

from typing import Any

import openai
import pytest

from proxy.upstream.sandbox.completions import completions
from proxy.upstream.sandbox.fields import Refusal
from proxy.upstream.sandbox.text import count

MODEL = "gpt-3.5-turbo-instruct"


def test_a_completion_is_sixteen_tokens_long_unless_more_are_asked_for(client: openai.OpenAI) -> None:
    short = client.completions.create(model=MODEL, prompt="Say hello")
    assert short.usage is not None
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 16)
    long = client.completions.create(model=MODEL, prompt="Say hello", max_tokens=500)
    assert long.usage is not None
    assert long.choices[0].finish_reason == "stop"
    assert long.usage.completion_tokens == count(long.choices[0].text)
    assert long.usage.prompt_tokens == count("Say hello")


@pytest.mark.parametrize(
    ("prompt", "choices", "tokens"),
    [("one", 1, 1), (["one", "two"], 2, 2), ([5, 6, 7], 1, 3), ([[5], [6, 7]], 2, 3), (None, 1, 1)],
)
def test_each_prompt_is_completed_and_counted_once(
    client: openai.OpenAI, prompt: Any, choices: int, tokens: int
) -> None:
    answer = client.completions.create(model=MODEL, prompt=prompt, n=2)
    assert [choice.index for choice in answer.choices] == list(range(2 * choices))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == tokens
    assert answer.usage.completion_tokens == 2 * choices * 16


def test_an_echo_comes_first_and_is_free(client: openai.OpenAI) -> None:
    plain = client.completions.create(model=MODEL, prompt="Say hello")
    echo = client.completions.create(model=MODEL, prompt="Say hello", echo=True)
    assert echo.choices[0].text == "Say hello" + plain.choices[0].text
    assert echo.usage == plain.usage
    chunks = list(client.completions.create(model=MODEL, prompt="Say hello", echo=True, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == echo.choices[0].text


async def test_a_stream_joins_to_the_plain_answer_and_ends_with_its_usage(async_client: openai.AsyncOpenAI) -> None:
    plain = await async_client.completions.create(model=MODEL, prompt=["one", "two"], n=2)
    stream = await async_client.completions.create(
        model=MODEL, prompt=["one", "two"], n=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    for choice in plain.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert parts[-1].finish_reason == choice.finish_reason
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks)
    assert (last.choices, last.usage) == ([], plain.usage)


def test_a_stream_that_is_not_asked_for_its_usage_has_none(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model=MODEL, prompt="one", stream=True))
    assert all("usage" not in chunk.model_fields_set and chunk.choices for chunk in chunks)


@pytest.mark.parametrize("prompt", [3, [None], {}, []])
def test_a_prompt_of_another_kind_is_refused(prompt: Any) -> None:
    with pytest.raises(Refusal) as caught:
        completions({"model": MODEL, "prompt": prompt})
    assert caught.value.param == "prompt"
