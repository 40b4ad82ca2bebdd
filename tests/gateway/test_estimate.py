"""Where the upstream reports nothing, the event says what was delivered, and that it was counted here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.model import Outcome, UsageSource
from proxy.wire.prompt import input_tokens
from proxy.wire.tokens import tokenizer_for
from tests.gateway.test_forward import CHAT, between, plain, streams
from tests.streams import ASK, ASK_STREAM, DONE, text

WORDS = "The quick brown fox jumps over the lazy dog."
MODEL = "gpt-4o-mini"


def answered(content: str, **more: object) -> bytes:
    return orjson.dumps({"model": MODEL, "choices": [{"index": 0, "message": {"content": content}}], **more})


@pytest.mark.parametrize("streamed", [False, True])
def test_input_and_output_are_counted_and_the_estimator_is_named(tmp_path: Path, streamed: bool) -> None:
    upstream_says = streams(text(WORDS[:20]) + text(WORDS[20:]) + DONE) if streamed else plain(answered(WORDS))
    asked: dict[str, Any] = ASK_STREAM if streamed else ASK
    with between(tmp_path, default=upstream_says) as (server, _):
        httpx.post(server.url + CHAT, json=asked, headers={"x-api-key": server.key()})
        event = server.settlement()
    tokenizer = tokenizer_for(MODEL)
    assert (event.outcome, event.usage_source) == (Outcome.COMPLETED, UsageSource.ESTIMATED)
    assert event.estimator == tokenizer.name
    assert event.usage.prompt_tokens == input_tokens(CHAT, asked, tokenizer)
    assert abs(event.usage.completion_tokens - tokenizer.count(WORDS)) <= 2


@pytest.mark.parametrize(
    "body",
    [
        b"<html>" + WORDS.encode() + b"</html>",
        b'{"error":{"message":"overloaded"}}',
    ],
)
def test_neither_what_is_not_understood_nor_an_error_is_estimated(tmp_path: Path, body: bytes) -> None:
    with between(tmp_path, default=plain(body)) as (server, _):
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        event = server.settlement()
    assert (event.usage_source, event.usage.total_tokens, event.estimator) == (UsageSource.NONE, 0, "")


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error"])
def test_an_error_answer_is_never_estimated_whatever_it_holds(tmp_path: Path, status: str) -> None:
    with between(tmp_path, default=plain(answered(WORDS), status=status)) as (server, _):
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert server.settlement().usage_source is UsageSource.NONE


def test_reported_usage_is_never_replaced(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    with between(tmp_path, default=plain(answered(WORDS, usage=usage))) as (server, _):
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        event = server.settlement()
    assert (event.usage_source, event.usage.total_tokens) == (UsageSource.REPORTED, 0)


def test_a_stream_that_ends_in_an_error_is_estimated_by_what_came_before(tmp_path: Path) -> None:
    stream = text(WORDS) + b'data: {"error":{"message":"overloaded"}}\n\n'
    with between(tmp_path, default=streams(stream)) as (server, _):
        httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": server.key()})
        event = server.settlement()
    assert (event.outcome, event.usage_source) == (Outcome.UPSTREAM_ERROR, UsageSource.ESTIMATED)
    assert event.usage.completion_tokens > 5
