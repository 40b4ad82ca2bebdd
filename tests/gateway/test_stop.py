"""A stream whose tenant runs out: seen by the client, the upstream and the ledger at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.gateway.quotas import _ESTIMATE_FACTOR
from proxy.model import Outcome, Unit, UsageSource
from proxy.store import limits as stored
from proxy.wire.tokens import tokenizer_for
from tests.delivery.ledger import event_of
from tests.gateway.test_forward import CHAT, all_closed, between
from tests.raw import RawClient, unchunked
from tests.running import Running, wait_until
from tests.scripted import Peer, Script, ScriptedUpstream
from tests.streams import ASK, ASK_STREAM, DONE, PLAIN, SSE_HEAD, USAGE_EVENT, chunk, event, text
from tests.test_limits_hold import counted, limit, spent_by

#: By the vocabulary and by its bytes: one token, and one and a quarter.
WORD = " word"
STOPS = {"TOLLGATE_LIMITS__STOP_STREAMS": "true", "TOLLGATE_LIMITS__OUTPUT_TOKENS": "64"}
MODEL = "gpt-4o-mini"
HEAD: dict[str, Any] = {"object": "chat.completion.chunk", "created": 1, "system_fingerprint": "fp"}
#: The input is reserved by its bytes, and billed by the vocabulary: so much less at most.
INPUT_OFF = 4


@contextmanager
def stopping(
    directory: Path, *scripts: Script, default: Script, **more: str
) -> Iterator[tuple[Running, ScriptedUpstream]]:
    with between(directory, *scripts, default=default, **(STOPS | more)) as both:
        yield both


def words(count: int, *, at_once: int = 1) -> Script:
    """A stream of so many words, some of them in each write."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(SSE_HEAD)
            for _ in range(count // at_once):
                peer.send(chunk(text(WORD, **HEAD) * at_once))
            end = {"index": 0, "delta": {}, "finish_reason": "stop"}
            last = event({"id": "chatcmpl-1", **HEAD, "choices": [end]})
            used = {"prompt_tokens": 9, "completion_tokens": count, "total_tokens": 9 + count}
            last += event({"id": "chatcmpl-1", **HEAD, "choices": [], "usage": used})
            peer.send(chunk(last + DONE) + chunk(b""))

    return script


def events(raw: bytes) -> list[dict[str, Any]]:
    """What a stream's client parses, which knows of no comments."""
    lines = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ")]
    assert lines[-1] == b"[DONE]"
    return [orjson.loads(line) for line in lines[:-1]]


def said(found: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for one in found for choice in one["choices"])


def tokens(content: str) -> int:
    """As it is billed: with what a model writes around its text."""
    return tokenizer_for(MODEL).count(content) + 1


def stream(server: Running, key: str, **more: Any) -> bytes:
    answer = httpx.post(server.url + CHAT, json=ASK_STREAM | more, headers={"x-api-key": key}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.content


def settled(server: Running, count: int = 1) -> None:
    """All that was reserved is given back, and the counters are the ledger."""
    assert len(server.settlements(count)) == count
    wait_until(lambda: all(not reserved for _, reserved in counted(server, "user-001")))
    assert {used for used, _ in counted(server, "user-001")} == {spent_by(server.app.database, "user-001")}


@pytest.mark.parametrize("at_once", [1, 1000])
def test_a_stream_ends_by_its_length_where_the_limit_does_and_what_was_delivered_is_billed(
    tmp_path: Path, at_once: int
) -> None:
    with stopping(tmp_path, default=words(1000, at_once=at_once)) as (server, upstream):
        key = server.key()
        limit(server.app.database, "tokens/total=300")
        raw = stream(server, key)
        assert b": stopped by tollgate, used up: tokens/total of 300 (tenant)\ndata: " in raw
        found = events(raw)
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        assert found[-1] == {**HEAD, "id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [last]}
        assert [one["choices"][0]["finish_reason"] for one in found[:-1]] == [None] * (len(found) - 1)
        one = server.settlement()
        assert (one.outcome, one.usage_source, one.status) == (Outcome.STOPPED, UsageSource.ESTIMATED, 200)
        assert one.usage.completion_tokens == tokens(said(found))
        assert 300 - INPUT_OFF <= one.usage.total_tokens <= 300 + tokens(WORD)
        settled(server)
        if at_once == 1:
            all_closed(upstream)
        refused = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": key})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_limit_in_money_stops_a_stream_where_its_money_does(tmp_path: Path) -> None:
    prices = '[[price]]\nmodel = "gpt-4o*"\ninput_per_million = "2"\noutput_per_million = "100"\n'
    (tmp_path / "prices.toml").write_text(prices)
    own = {"TOLLGATE_PRICES__FILE": str(tmp_path / "prices.toml")}
    with stopping(tmp_path, default=words(1000), **own) as (server, _):
        key = server.key()
        limit(server.app.database, "usd/total=0.03")
        raw = stream(server, key)
        assert b": stopped by tollgate, used up: usd/total of 0.03 (tenant)\ndata: " in raw
        found = events(raw)
        assert found[-1]["choices"][0]["finish_reason"] == "length"
        one = server.settlement()
        assert one.outcome is Outcome.STOPPED
        assert one.usage.completion_tokens == tokens(said(found))
        cost = Decimal(event_of(one, "tollgate")["data"]["cost_usd"])
        assert cost == (2 * one.usage.prompt_tokens + 100 * one.usage.completion_tokens) / Decimal(1_000_000)
        a_token = Decimal("0.0001")
        assert Decimal("0.03") - a_token <= cost <= Decimal("0.03") + tokens(WORD) * a_token
        refused = httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": key})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_client_that_asked_for_usage_is_told_what_is_billed(tmp_path: Path) -> None:
    with stopping(tmp_path, default=words(1000)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/month=200")
        found = events(stream(server, key, stream_options={"include_usage": True}))
        assert [one.get("usage") for one in found[:-1]] == [None] * (len(found) - 1)
        assert found[-1]["choices"] == []
        used = server.settlement().usage
        assert found[-1]["usage"]["total_tokens"] == used.total_tokens
        assert found[-1]["usage"]["completion_tokens"] == used.completion_tokens == tokens(said(found))


def test_a_stream_that_fits_is_never_stopped(tmp_path: Path) -> None:
    with stopping(tmp_path, default=words(500)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=100000")
        found = events(stream(server, key))
        assert found[-1]["choices"][0]["finish_reason"] == "stop"
        one = server.settlement()
        assert (one.outcome, one.usage_source) == (Outcome.COMPLETED, UsageSource.REPORTED)
        settled(server)


def test_the_sdk_reads_a_stopped_chat_and_a_stopped_response(tmp_path: Path) -> None:
    def respond(peer: Peer) -> None:
        response = {"id": "resp_1", "object": "response", "status": "in_progress", "output": [], "model": MODEL}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": []}
        opening: list[dict[str, Any]] = [
            {"type": "response.created", "response": response},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **at, "part": part},
        ]
        deltas: list[dict[str, Any]] = [
            {"type": "response.output_text.delta", **at, "delta": WORD, "logprobs": []}
        ] * 500
        peer.request()
        peer.send(SSE_HEAD)
        for number, one in enumerate([*opening, *deltas]):
            peer.send(chunk(event(one | {"sequence_number": number})))

    with stopping(tmp_path, words(1000), respond, default=words(1000)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=200")
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            with client.chat.completions.stream(model=MODEL, messages=ASK["messages"]) as chat:
                kinds = [one.type for one in chat]
            completion = chat.current_completion_snapshot
            assert completion.choices[0].finish_reason == "length"
            assert "content.done" in kinds
        key = server.key("user-002")
        limit(server.app.database, "tokens/total=200", tenant="user-002")
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client,
            client.responses.stream(model=MODEL, input="Hello") as told,
        ):
            got = list(told)
        assert [one.type for one in got[-4:]] == [
            *("response.output_text.done", "response.content_part.done"),
            *("response.output_item.done", "response.incomplete"),
        ]
        assert [one.sequence_number for one in got if hasattr(one, "sequence_number")] == list(range(len(got)))
        response = got[-1].response  # type: ignore[union-attr] # the last has one
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage is not None
        assert response.usage.output_tokens == tokens(response.output_text)
        assert [one.outcome for one in server.settlements(2)] == [Outcome.STOPPED] * 2


def test_many_streams_of_one_tenant_share_what_is_left_and_pass_it_by_an_event_each_at_most(tmp_path: Path) -> None:
    streams, left = 50, 4_000
    with stopping(tmp_path, default=words(500, at_once=5)) as (server, _):
        key = server.key()
        limit(server.app.database, f"tokens/total={left}")

        def ask(_: int) -> httpx.Response:
            return httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": key}, timeout=30)

        with ThreadPoolExecutor(streams) as clients:
            answers = list(clients.map(ask, range(streams)))
        found = [one.content for one in answers if one.is_success]
        assert len(found) > 5
        assert {one.status_code for one in answers} <= {200, 429}  # some come when nothing is left
        settled(server, len(found))
        used = spent_by(server.app.database, "user-001")
        assert left - streams * (INPUT_OFF + 1) <= used <= left + streams * tokens(WORD)
        stopped = [one for one in server.settlements() if one.outcome is Outcome.STOPPED]
        delivered = [tokens(said(events(raw))) for raw in found if b": stopped" in raw]
        assert sorted(delivered) == sorted(one.usage.completion_tokens for one in stopped)
        assert stopped


def test_a_top_up_in_the_middle_lets_a_stream_go_on(tmp_path: Path) -> None:
    topped_up = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text(WORD) * 20))
        peer.wait(topped_up)
        peer.send(chunk(text(WORD) * 300 + USAGE_EVENT + DONE) + chunk(b""))

    with stopping(tmp_path, script, default=script) as (server, _), RawClient(server.port) as client:
        key = server.key()
        with server.app.database.transaction() as connection:
            stored.top_up(connection, "user-001", Unit.TOKENS, 100, top_up_id="1", note="", now_ms=0)
        client.post(CHAT, key, ASK_STREAM)
        client.read_until(text(WORD))
        with server.app.database.transaction() as connection:
            stored.top_up(connection, "user-001", Unit.TOKENS, 1000, top_up_id="2", note="", now_ms=0)
        threading.Event().wait(0.6)  # what is known of a caller is half a second old at most
        topped_up.set()
        assert unchunked(client.read_until(b"0\r\n\r\n")).endswith(DONE)
        assert server.settlement().outcome is Outcome.COMPLETED


def test_a_stream_whose_client_has_left_is_stopped_as_well(tmp_path: Path) -> None:
    gone = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text(WORD)))
        peer.wait(gone)
        for _ in range(5000):
            peer.send(chunk(text(WORD)))
        peer.hold()

    with stopping(tmp_path, default=script) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=300")
        with RawClient(server.port) as client:
            client.post(CHAT, key, ASK_STREAM)
            client.read_until(text(WORD))
        wait_until(lambda: server.app.gateway.draining == 1)
        gone.set()
        one = server.settlement()
        assert (one.outcome, one.on_disconnect) == (Outcome.CLIENT_DISCONNECTED, "drain")
        assert 300 - INPUT_OFF <= one.usage.total_tokens <= 300 + tokens(WORD)
        settled(server)
        assert server.app.gateway.draining == 0


def test_an_upstream_that_goes_on_is_not_listened_to(tmp_path: Path) -> None:
    def deaf(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD)
        try:
            while True:
                peer.send(chunk(text(WORD)))
        except OSError:
            peer.hold()

    with stopping(tmp_path, deaf, default=words(10)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=150")
        assert events(stream(server, key))[-1]["choices"][0]["finish_reason"] == "length"
        limit(server.app.database, "tokens/total=1000")
        assert server.settlement().outcome is Outcome.STOPPED
        wait_until(lambda: httpx.post(server.url + CHAT, json=ASK_STREAM, headers={"x-api-key": key}).is_success)


def test_usage_that_is_told_with_each_chunk_is_what_is_billed(tmp_path: Path) -> None:
    """And hidden reasoning, which no text shows, stops the stream where it is told."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD)
        for number in range(1, 400):
            used = {"prompt_tokens": 9, "completion_tokens": 10 * number, "total_tokens": 9 + 10 * number}
            peer.send(chunk(text(WORD, usage=used)))

    with stopping(tmp_path, default=script) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=500")
        found = events(stream(server, key, stream_options={"include_usage": True}))
        one = server.settlement()
        assert (one.outcome, one.usage_source) == (Outcome.STOPPED, UsageSource.REPORTED)
        assert 500 < one.usage.total_tokens <= 510
        assert found[-1]["usage"]["total_tokens"] == one.usage.total_tokens


def test_usage_of_an_earlier_chunk_is_not_what_is_billed(tmp_path: Path) -> None:
    begin = text(WORD, usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10})

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(begin + text(WORD) * 500))

    with stopping(tmp_path, default=script) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=200")
        stream(server, key)
        one = server.settlement()
        assert (one.outcome, one.usage_source) == (Outcome.STOPPED, UsageSource.ESTIMATED)
        assert one.usage.total_tokens >= 200


def test_a_stream_with_a_maximum_is_reserved_whole_and_stopped_only_far_beyond_it(tmp_path: Path) -> None:
    with stopping(tmp_path, words(90), default=words(1000)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=120")
        refused = httpx.post(server.url + CHAT, json=ASK_STREAM | {"max_tokens": 200}, headers={"x-api-key": key})
        assert refused.status_code == 429
        assert events(stream(server, key, max_tokens=80))[-1]["choices"][0]["finish_reason"] == "stop"
        other = server.key("user-002")
        limit(server.app.database, "tokens/total=120", tenant="user-002")
        found = events(stream(server, other, max_tokens=80))
        assert found[-1]["choices"][0]["finish_reason"] == "length"
        assert 80 * _ESTIMATE_FACTOR < tokens(said(found)) <= 80 * _ESTIMATE_FACTOR + tokens(WORD)


def test_a_plain_answer_is_never_stopped(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(PLAIN))
        peer.send(PLAIN)

    with stopping(tmp_path, default=script) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=100")
        answer = httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": key})
        assert answer.content == PLAIN
        assert server.settlement().outcome is Outcome.COMPLETED


def test_the_agent_s_stream_ends_with_its_whole_object(tmp_path: Path) -> None:
    with stopping(tmp_path, default=words(2000)) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/total=60")
        ask = {"prompt": "Hello", "stream": True, "max_tokens": 20}
        raw = httpx.post(f"{server.url}/api/generate", json=ask, headers={"x-api-key": key}).content
        last = orjson.loads(raw.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
        used = server.settlement().usage
        assert last["usage"]["total_tokens"] == used.total_tokens
        assert tokens(last["content"]) == used.completion_tokens


def test_without_the_setting_streams_go_on_and_are_asked_for_as_they_were(tmp_path: Path) -> None:
    with between(tmp_path, default=words(1000), TOLLGATE_LIMITS__OUTPUT_TOKENS="64") as (server, upstream):
        key = server.key()
        limit(server.app.database, "tokens/total=300")
        headers = {"x-api-key": key, "accept-encoding": "gzip"}
        httpx.post(f"{server.url}/v1/responses", json={"model": MODEL, "input": "x", "stream": True}, headers=headers)
        assert upstream.requests[-1].headers["accept-encoding"] == "gzip"
        other = server.key("user-002")
        limit(server.app.database, "tokens/total=300", tenant="user-002")
        assert events(stream(server, other))[-1]["choices"][0]["finish_reason"] == "stop"
