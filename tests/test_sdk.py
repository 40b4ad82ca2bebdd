"""The official OpenAI SDK, unchanged but for its base URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from proxy.model import Outcome, UsageSource
from tests.running import Running, tollgate

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Answer(BaseModel):
    text: str
    score: int


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with tollgate(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key(), max_retries=0) as client:
        yield client


def test_a_plain_call_is_answered_and_metered(server: Running, client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert completion.usage is not None
    event = server.settlement()
    assert (event.subject, event.endpoint) == ("user-001", "/v1/chat/completions")
    assert (event.requested_model, event.model) == ("gpt-4o-mini", "gpt-4o-mini-2024-07-18")
    assert (event.outcome, event.usage_source, event.status) == (Outcome.COMPLETED, UsageSource.REPORTED, 200)
    assert event.usage.prompt_tokens == completion.usage.prompt_tokens
    assert event.usage.completion_tokens == completion.usage.completion_tokens
    assert not event.streamed


def test_a_stream_is_metered_although_the_client_did_not_ask_for_usage(server: Running, client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    chunks: list[Any] = list(client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    plain, streamed = server.settlements(2)
    assert streamed.usage == plain.usage
    assert (streamed.outcome, streamed.streamed) == (Outcome.COMPLETED, True)
    assert streamed.ttft_ms >= 1


def test_a_client_that_asks_for_usage_gets_it(server: Running, client: openai.OpenAI) -> None:
    stream: Any = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream
    assert last.choices == []
    assert last.usage is not None
    assert server.settlement().usage.total_tokens == last.usage.total_tokens


def test_structured_output_is_parsed(server: Running, client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="gpt-4o-mini", messages=HELLO, response_format=Answer)
    assert isinstance(parsed.choices[0].message.parsed, Answer)
    assert server.settlement().usage_source is UsageSource.REPORTED


def test_a_forced_tool_is_called(server: Running, client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, tools=[WEATHER], tool_choice="required"
    )
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert server.settlement().outcome is Outcome.COMPLETED


def test_several_choices_come_through(server: Running, client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, n=2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.usage is not None
    assert server.settlement().usage.completion_tokens == completion.usage.completion_tokens


def test_the_raw_response_carries_the_upstreams_headers_once(server: Running, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.headers["x-tollgate-request-id"] == server.settlement().id
    for name in ("date", "server", "content-type", "content-length"):
        assert len(raw.headers.get_list(name)) <= 1


def test_responses_plain_and_streamed_are_metered(server: Running, client: openai.OpenAI) -> None:
    response = client.responses.create(model="gpt-4o-mini", input="Hello")
    events = list(client.responses.create(model="gpt-4o-mini", input="Hello", stream=True))
    assert events[-1].type == "response.completed"
    assert response.usage is not None
    assert {event.usage.total_tokens for event in server.settlements(2)} == {response.usage.total_tokens}


def test_embeddings_and_completions_are_metered(server: Running, client: openai.OpenAI) -> None:
    embedding = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    completion = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hello")
    assert len(embedding.data[0].embedding) == 1536
    assert completion.usage is not None
    first, second = server.settlements(2)
    assert (first.endpoint, first.usage.prompt_tokens) == ("/v1/embeddings", embedding.usage.prompt_tokens)
    assert (second.endpoint, second.usage.total_tokens) == ("/v1/completions", completion.usage.total_tokens)


def test_models_are_free(server: Running, client: openai.OpenAI) -> None:
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
    client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert [event.endpoint for event in server.settlements(1)] == ["/v1/chat/completions"]


def test_a_wrong_key_is_the_sdks_authentication_error(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="tg_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"


def test_an_upstreams_refusal_comes_through_and_bills_nothing(server: Running, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="gpt-4o-mini", messages=[])
    assert caught.value.param == "messages"
    event = server.settlement()
    assert (event.status, event.outcome, event.usage.total_tokens) == (400, Outcome.UPSTREAM_ERROR, 0)


async def test_the_asynchronous_client_plain_and_streamed(server: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key(), max_retries=0) as client:
        whole = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        stream: Any = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content
    assert [event.outcome for event in server.settlements(2)] == [Outcome.COMPLETED] * 2
