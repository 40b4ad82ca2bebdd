"""The reshaping of answers, whatever the upstream sends and wherever it is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from proxy.agent.answer import PlainAnswer, StreamedAnswer
from proxy.errors import BadAnswer

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
SSE = [(b"content-type", b"text/event-stream")]


class Client:
    """Collects what it is sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


def chunk(text: str) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"model": "m-1", "choices": [{"delta": {"content": text}}]})


async def stream(parts: list[bytes]) -> Client:
    client = Client()
    answer = StreamedAnswer(client.send, "req_1")
    await answer.start(200, SSE)
    for part in parts:
        await answer.data(part)
    await answer.finish(answer.last(b""))
    return client


def events(body: bytes) -> list[Any]:
    return [orjson.loads(event.removeprefix(b"data: ")) for event in body.strip().split(b"\n\n")]


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
async def test_any_cut_of_a_stream_gives_the_same_deltas(cuts: list[int]) -> None:
    body = chunk("Hel") + b": ping\n\n" + chunk("lo") + b'data: {"choices":[],"usage":%b}\n\n' % orjson.dumps(USAGE)
    body += b"data: [DONE]\n\n"
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    client = await stream([body[a:b] for a, b in pairwise(edges)])
    assert events(client.body) == [
        {"delta": "Hel"},
        {"delta": "lo"},
        {"content": "Hello", "model": "m-1", "usage": USAGE},
    ]


async def test_an_error_in_mid_stream_is_shown() -> None:
    client = await stream([chunk("Hel"), b'data: {"error":{"message":"overloaded"}}\n\n'])
    assert {"error": {"message": "overloaded"}} in events(client.body)


async def test_a_stream_without_usage_says_null_and_not_zero() -> None:
    client = await stream([chunk("Hello")])
    assert events(client.body)[-1] == {"content": "Hello", "model": "m-1", "usage": None}


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":null}]}'])
async def test_what_is_no_completion_is_the_upstreams_fault(body: bytes) -> None:
    answer = PlainAnswer(Client().send, "req_1")
    await answer.start(200, [])
    await answer.data(body[:1])
    with pytest.raises(BadAnswer):
        answer.last(body[1:])
    assert not answer.started  # the refusal can still be sent


async def test_an_upstreams_error_goes_on_as_it_came() -> None:
    client = Client()
    answer = PlainAnswer(client.send, "req_1")
    await answer.start(429, [(b"content-type", b"application/json"), (b"retry-after", b"7")])
    await answer.finish(answer.last(b'{"error":{}}'))
    assert (client.status, client.body) == (429, b'{"error":{}}')
    assert (b"retry-after", b"7") in client.messages[0]["headers"]


async def test_a_stream_that_was_asked_for_and_did_not_come_is_refused_before_the_head() -> None:
    answer = StreamedAnswer(Client().send, "req_1")
    with pytest.raises(BadAnswer):
        await answer.start(200, [(b"content-type", b"application/json")])
    assert not answer.started
