"""The meter on recorded traffic: the numbers, and what a client sees that did not ask for usage."""

from __future__ import annotations

import gzip
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
import pytest

from proxy.gateway.meter import meter_for
from proxy.gateway.reading import Reading
from proxy.model import UsageSource
from tests import corpus
from tests.corpus import Exchange

pytestmark = corpus.needed

#: Endpoints of which every recording must come out right. Beyond those that are served now, the generic reader gets
#: these right already; images, moderations, speech and token counting carry no token usage in the recordings.
ENDPOINTS = {
    *("chat/completions", "completions", "responses", "embeddings"),
    *("audio/transcriptions", "responses/compact", "responses/{id}", "threads/runs"),
}

#: Where the corpus' expectation contradicts itself, and what is read instead. Azure's grok counts cached tokens that
#: are not in the prompt (7 prompt, 161 cached, 8 in total), and one of OpenRouter's upstreams 11 reasoning tokens in
#: a completion of 10. The totals are what is charged, so the detail is cut to them.
MORE_DETAIL_THAN_TOKENS = {"azure-ai-foundry": 28, "openrouter": 1}


def measured() -> list[Exchange]:
    return [one for one in corpus.exchanges() if one.status == 200 and one.usage and one.endpoint in ENDPOINTS]


def read(one: Exchange, chunks: Iterable[bytes], coding: bytes | None = None) -> Reading:
    meter = meter_for(one.content_type, coding, hides_usage=False)
    for chunk in chunks:
        assert meter.feed(chunk) == chunk
    assert meter.finish() == b""
    return meter.reading()


def expected(usage: dict[str, Any]) -> dict[str, Any]:
    """What the rule in the corpus' README makes of an expected usage."""
    prompt = usage.get("prompt_tokens", usage.get("input_tokens")) or 0
    completion = usage.get("completion_tokens", usage.get("output_tokens")) or 0
    total = max(usage.get("total_tokens") or 0, prompt + completion)
    unexplained = total - prompt - completion
    reasoning = usage.get("reasoning_tokens")
    if usage.get("prompt_audio_seconds"):
        prompt += unexplained
    else:
        completion += unexplained
        reasoning = (reasoning or unexplained) if unexplained else reasoning
    numbers = {"prompt": prompt, "completion": completion, "total": total}
    if usage.get("cached_tokens") is not None:
        numbers["cached"] = min(usage["cached_tokens"], prompt)
    if reasoning is not None:
        numbers["reasoning"] = min(reasoning, completion)
    if usage.get("model") is not None:
        numbers["model"] = usage["model"]
    return numbers


def found(reading: Reading) -> dict[str, Any]:
    usage = reading.usage
    return {
        "prompt": usage.prompt_tokens,
        "completion": usage.completion_tokens,
        "total": usage.total_tokens,
        "cached": usage.cached_input,
        "reasoning": usage.reasoning,
        "model": reading.model,
    }


def whole(body: bytes) -> list[bytes]:
    return [body]


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def randomly(body: bytes) -> list[bytes]:
    chance, chunks, at = random.Random(len(body)), [], 0
    while at < len(body):
        size = chance.choice([1, 2, 3, 17, 100, 1460])
        chunks.append(body[at : at + size])
        at += size
    return chunks


@pytest.mark.parametrize("cut", [whole, bytewise, randomly])
def test_every_recorded_usage_is_read_as_reported(cut: Callable[[bytes], list[bytes]]) -> None:
    read_ones = measured()
    assert len(read_ones) > 700
    for one in read_ones:
        assert one.usage is not None
        if cut is bytewise and not one.streamed:
            continue  # a plain answer is only put together again
        wanted = expected(one.usage)
        reading = read(one, cut(one.body))
        assert {name: found(reading)[name] for name in wanted} == wanted, one.id
        counts_tokens = any(name.endswith("_tokens") for name in one.usage)
        assert reading.usage_source is (UsageSource.REPORTED if counts_tokens else UsageSource.NONE), one.id


@pytest.mark.parametrize(("coding", "encode"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
@pytest.mark.parametrize("cut", [whole, randomly])
def test_a_coded_answer_is_read_the_same(
    coding: bytes, encode: Callable[[bytes], bytes], cut: Callable[[bytes], list[bytes]]
) -> None:
    for one in measured():
        assert read(one, cut(encode(one.body)), coding) == read(one, [one.body]), one.id


def test_where_the_corpus_contradicts_itself_is_known() -> None:
    contradictions = dict.fromkeys(MORE_DETAIL_THAN_TOKENS, 0)
    for one in measured():
        assert one.usage is not None
        numbers = expected(one.usage)
        details = ((one.usage.get("cached_tokens"), "prompt"), (one.usage.get("reasoning_tokens"), "completion"))
        if any((count or 0) > numbers[name] for count, name in details):
            contradictions[one.id.partition("-chat")[0]] += 1
    assert contradictions == MORE_DETAIL_THAN_TOKENS


def test_an_answer_without_usage_is_not_billed() -> None:
    for one in corpus.exchanges():
        if one.status == 200 and one.usage is None:
            assert read(one, [one.body]).usage_source is UsageSource.NONE, one.id


def events(stream: bytes) -> Iterator[tuple[bytes, Any]]:
    """Each event with its data parsed, where that is JSON; only for the framing of the recordings."""
    for event in re.split(rb"(?<=\r\n\r\n)|(?<=\n\n)", stream):
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        try:
            yield event, orjson.loads(data)
        except orjson.JSONDecodeError:
            yield event, data


def reference_hidden(stream: bytes) -> bytes:
    """A stream as a client sees it that did not ask for usage; only for the spelling of the recordings."""
    shown = []
    for event, chunk in events(stream):
        usage = chunk.get("usage", 0) if isinstance(chunk, dict) else 0
        if usage is None:
            assert event.count(b'"usage"') == 1
            without, cuts = re.subn(rb', ?"usage": ?null', b"", event)
            assert cuts == 1
            del chunk["usage"]
            assert next(events(without))[1] == chunk
            shown.append(without)
        elif not (isinstance(usage, dict) and chunk.get("choices") == []):
            shown.append(event)
    return b"".join(shown)


@pytest.mark.parametrize("cut", [whole, randomly, bytewise])
def test_a_recorded_stream_is_shown_without_usage_chunks_and_otherwise_as_it_came(
    cut: Callable[[bytes], list[bytes]],
) -> None:
    changed = 0
    for one in corpus.exchanges():
        if not (one.streamed and one.status == 200 and one.endpoint in ("chat/completions", "completions")):
            continue
        meter = meter_for(one.content_type, None, hides_usage=True)
        shown = b"".join([meter.feed(chunk) for chunk in cut(one.body)]) + meter.finish()
        assert shown == reference_hidden(one.body), one.id
        assert meter.reading() == read(one, [one.body]), one.id
        changed += shown != one.body
    assert changed > 40


def test_the_last_event_of_a_recorded_stream_is_seen_when_it_is_whole_and_not_before() -> None:
    last = {"response.completed", "response.incomplete", "response.failed", "transcript.text.done"}
    for one in corpus.exchanges():
        if not one.streamed or one.status != 200:
            continue
        meter, said = meter_for(one.content_type, None, hides_usage=False), False
        for event, data in events(one.body):
            text = event.rstrip(b"\r\n")
            meter.feed(text)
            assert meter.last_event_seen is said, one.id
            meter.feed(event[len(text) :])
            said = said or data == b"[DONE]" or (isinstance(data, dict) and data.get("type") in last)
        meter.finish()
        assert meter.last_event_seen is said, one.id
