"""A thousand mixed calls by three tenants, fifty at a time: every one becomes one event, and the sums are exact."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
from starlette.types import Message, Receive, Scope, Send

from proxy.model import Outcome, UsageSource
from proxy.store.usage import Group
from proxy.upstream.sandbox import create_sandbox
from tests.delivery.receiver import Answer, Receiver
from tests.running import Running, serve, tollgate, wait_until

CALLS = 1_000
IN_FLIGHT = 50
TENANTS = ("user-001", "user-002", "user-003")
CHAT_MODELS = ("gpt-4o-mini", "gpt-4o")

Call = Callable[[openai.AsyncOpenAI, int], Awaitable[object]]


class Bookkeeper:
    """The sandbox, with a look at what it reports: tokens by model, read by other means than the proxy's."""

    def __init__(self) -> None:
        self._app = create_sandbox()
        self.tokens: Counter[str] = Counter()
        self.answers = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def note(message: Message) -> None:
            body.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, note)
        if scope["type"] == "http":
            model = re.search(rb'"model":"([^"]+)"', body)
            total = re.findall(rb'"total_tokens":(\d+)', body)
            assert model is not None
            self.tokens[model.group(1).decode()] += int(total[-1])
            self.answers += 1


async def drain(stream: Any) -> None:
    async for _ in stream:
        pass


def messages(number: int) -> Any:
    return [{"role": "user", "content": f"Question {number} " + "word " * (number % 17)}]


async def chat(client: openai.AsyncOpenAI, number: int) -> None:
    await client.chat.completions.create(model=CHAT_MODELS[number % 2], messages=messages(number), n=1 + number % 2)


async def chat_stream(client: openai.AsyncOpenAI, number: int) -> None:
    options: dict[str, Any] = [{}, {"include_usage": True}, {"include_usage": False}][number % 3]
    model = CHAT_MODELS[number % 2]
    given: dict[str, Any] = {"stream_options": options} if options else {}
    await drain(await client.chat.completions.create(model=model, messages=messages(number), stream=True, **given))


async def response(client: openai.AsyncOpenAI, number: int) -> None:
    await client.responses.create(model="gpt-4.1-mini", input=f"Question {number}")


async def response_stream(client: openai.AsyncOpenAI, number: int) -> None:
    await drain(await client.responses.create(model="gpt-4.1-mini", input=f"Question {number}", stream=True))


async def embedding(client: openai.AsyncOpenAI, number: int) -> None:
    await client.embeddings.create(model="text-embedding-3-small", input=[f"Text {number}"] * (1 + number % 3))


async def completion_stream(client: openai.AsyncOpenAI, number: int) -> None:
    model = "gpt-3.5-turbo-instruct"
    await drain(await client.completions.create(model=model, prompt=f"Once {number}", stream=True))


KINDS: tuple[Call, ...] = (chat, chat_stream, chat_stream, response, response_stream, embedding, completion_stream)


async def call_all(server: Running) -> Counter[str]:
    """Makes the calls; returns how many each tenant made."""
    made: Counter[str] = Counter()
    places = asyncio.Semaphore(IN_FLIGHT)
    clients = {
        tenant: openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key(tenant), max_retries=0)
        for tenant in TENANTS
    }

    async def one(number: int) -> None:
        tenant = TENANTS[number * number % 7 % 3]
        async with places:
            await KINDS[number % len(KINDS)](clients[tenant], number)
        made[tenant] += 1

    await asyncio.gather(*[one(number) for number in range(CALLS)])
    for client in clients.values():
        await client.close()
    return made


async def test_a_thousand_calls_are_a_thousand_events_and_the_receiver_gets_each_once(tmp_path: Path) -> None:
    upstream = Bookkeeper()
    every_third_fails = iter(range(10**6))
    with (
        Receiver(judge=lambda _: Answer(500 if next(every_third_fails) % 3 == 2 else 202), validate=True) as receiver,
        socket.create_server(("127.0.0.1", 0), backlog=2048) as listener,
        serve(upstream, listener),
        tollgate(
            tmp_path,
            OPENAI_API_KEY="sk-x",
            OPENAI_BASE_URL=f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
            KONNECT_API_URL=receiver.base_url,
            KONNECT_TOKEN="kpat_x",
            TOLLGATE_SINK__RETRY_MAX_S="0.05",
        ) as server,
    ):
        made = await call_all(server)
        settlements = server.settlements(CALLS)
        assert len(settlements) == upstream.answers == CALLS
        assert Counter(one.subject for one in settlements) == made
        assert {(one.outcome, one.usage_source) for one in settlements} == {(Outcome.COMPLETED, UsageSource.REPORTED)}
        assert all(one.usage.total_tokens > 0 for one in settlements)

        in_ledger: Counter[str] = Counter()
        in_rollups: Counter[str] = Counter()
        for one in settlements:
            in_ledger[one.model] += one.usage.total_tokens
        for line in server.usage(Group.MODEL):
            in_rollups[line.values[0]] += line.usage.total_tokens
        assert in_ledger == in_rollups == upstream.tokens

        wait_until(lambda: server.pending() == 0, seconds=30)
        received: Counter[tuple[str, str]] = Counter()
        for event in receiver.accepted:
            received[event["subject"], event["data"]["model"]] += event["data"]["total_tokens"]
        expected: Counter[tuple[str, str]] = Counter()
        for one in settlements:
            expected[one.subject, one.model] += one.usage.total_tokens
        assert received == expected
        assert sorted(receiver.accepted_ids) == sorted(one.id for one in settlements)
        assert {batch.headers["authorization"] for batch in receiver.received} == {"Bearer kpat_x"}


def test_each_agent_call_is_one_event_too(tmp_path: Path) -> None:
    with Receiver(validate=True) as receiver, tollgate(tmp_path, KONNECT_API_URL=receiver.base_url) as server:
        headers = {"x-api-key": server.key()}
        httpx.post(f"{server.url}/api/generate", json={"prompt": "Hello"}, headers=headers)
        httpx.post(f"{server.url}/api/summarize", content=orjson.dumps({"text": "Hello"}), headers=headers)
        wait_until(lambda: len(receiver.accepted) == 2)
        assert [event["data"]["endpoint"] for event in receiver.accepted] == ["/api/generate", "/api/summarize"]
