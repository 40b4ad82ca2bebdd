"""An event that is taken for one before it with another text: nothing that anybody sees may tell that it was."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gateway import meter as meter_module
from proxy.gateway.meter import StreamMeter
from proxy.gateway.reading import Reading
from proxy.model import Usage
from proxy.wire.coding import Identity
from proxy.wire.endpoints import CHAT_COMPLETIONS, ENDPOINTS, Endpoint
from proxy.wire.sse import Splitter
from proxy.wire.tokens import BY_BYTES
from tests import corpus


class Thorough(StreamMeter):
    """Parses every event."""

    _takes_alike = False


Seen = tuple[list[bytes], Reading, Usage, int, set[str]]


def seen(kind: type[StreamMeter], pieces: list[bytes], endpoint: Endpoint, *, hides: bool) -> Seen:
    """All that anybody sees of a meter, piece by piece."""
    ids: list[str] = []
    meter = kind(Identity(), endpoint, {}, hides_usage=hides, shown=ids)
    shown = []
    for piece in pieces:
        shown += [meter.feed(piece), b"last" if meter.last_event_seen else b""]
    shown.append(meter.finish())
    delivered = meter.delivered()
    return shown, meter.reading(), delivered.tokens(BY_BYTES), delivered.streamed(), set(ids)


TEXTS = st.sampled_from(
    [
        *("Hi", " there", "", "a\nb", 'say "it"', "é", "你好", "\\", "\u2028", "usage", '"usage":null', "[DONE]"),
        *("error", "event: error", "stop", "x" * 50, " ", "\ud800"),
    ]
)
DELTAS = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"role": "assistant", "content": text}),
    TEXTS.map(lambda text: {"content": None, "reasoning_content": text}),
    st.tuples(TEXTS, TEXTS).map(lambda both: {"content": both[0], "reasoning": both[1]}),
    st.tuples(TEXTS, TEXTS).map(lambda both: {"content": both[0], "refusal": both[1]}),
    TEXTS.map(lambda text: {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": text}}]}),
    st.just({}),
)
CHOICES = st.one_of(
    st.tuples(st.sampled_from([0, 0, 0, 1]), DELTAS).map(lambda one: {"index": one[0], "delta": one[1]}),
    TEXTS.map(lambda text: {"index": 0, "text": text}),
    TEXTS.map(lambda text: {"index": 0, "text": text, "message": {"content": text}}),
    st.tuples(TEXTS, TEXTS).map(
        lambda both: {"index": 0, "delta": {"content": both[0]}, "message": {"content": both[1]}}
    ),
)
CHUNKS = st.fixed_dictionaries(
    {"id": st.just("c"), "choices": st.lists(CHOICES, min_size=1, max_size=2)},
    optional={
        "model": st.sampled_from(["m", "m", "n"]),
        "created": st.integers(0, 10**17),
        "service_tier": st.sampled_from(["default", "flex"]),
        "usage": st.sampled_from([None, None, {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}]),
        "obfuscation": TEXTS,
        "error": st.sampled_from([None, {"message": "no"}]),
        "type": st.just("chunk"),
    },
)
TYPED = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["response.output_text.delta", "response.output_text.delta", "response.audio.delta"]),
        "sequence_number": st.integers(-1, 30),
        "delta": TEXTS,
    },
    optional={"output_index": st.integers(0, 1), "obfuscation": TEXTS, "response": st.just({"id": "r", "output": []})},
)
#: Several of a kind in a row, as in real streams; and two kinds in turn.
RUNS = st.one_of(
    st.lists(CHUNKS, max_size=3),
    st.tuples(CHUNKS, st.lists(TEXTS, min_size=2, max_size=6)).map(lambda run: [_again(run[0], t) for t in run[1]]),
    st.tuples(st.lists(CHUNKS, min_size=2, max_size=2), st.lists(st.tuples(st.booleans(), TEXTS), min_size=4)).map(
        lambda run: [_again(run[0][which], text) for which, text in run[1]]
    ),
    st.tuples(TYPED, st.lists(TEXTS, min_size=2, max_size=6)).map(lambda run: [run[0] | {"delta": t} for t in run[1]]),
)


def _again(chunk: dict[str, Any], text: str) -> dict[str, Any]:
    """The same chunk, with another text as all of its first delta."""
    first, *others = chunk["choices"]
    added = {"text": text} if "text" in first else {"delta": {"content": text}}
    return chunk | {"choices": [first | added, *others]}


@settings(max_examples=300)
@given(
    runs=st.lists(RUNS, max_size=4),
    hides=st.booleans(),
    ascii_only=st.booleans(),
    spaces=st.sampled_from([(",", ":"), (", ", ": ")]),
    bad=st.booleans(),
    together=st.integers(1, 3),
)
def test_nobody_can_tell(
    runs: list[list[dict[str, Any]]],
    hides: bool,
    ascii_only: bool,
    spaces: tuple[str, str],
    bad: bool,
    together: int,
) -> None:
    events = [
        b"data: %b\n\n" % json.dumps(one, ensure_ascii=ascii_only, separators=spaces).encode("utf-8", "surrogatepass")
        for run in runs
        for one in run
    ]
    if bad:
        events = [event.replace("é".encode(), b"\xc3") for event in events]
    pieces = [b"".join(events[at : at + together]) for at in range(0, len(events), together)]
    assert seen(StreamMeter, pieces, CHAT_COMPLETIONS, hides=hides) == seen(
        Thorough, pieces, CHAT_COMPLETIONS, hides=hides
    )


@pytest.mark.parametrize(
    "said",
    [
        (b'"service_tier":"default"', b'"service_tier":"flex"'),
        (b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}', b'"usage":{"total_tokens":9}'),
        (b'"usage":{"total_tokens":9}', b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'),
        (b'"model":"m"', b'"model":"n"'),
        (b'"error":{"message":"no"}', b'"error":null'),
    ],
    ids=["tier", "usage", "usage-2", "model", "error"],
)
def test_what_the_last_of_several_says_counts(said: tuple[bytes, bytes]) -> None:
    """Also where that one was not parsed, but the one before it that said something else."""
    event = b'data: {"id":"c",%b,"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
    one, other = said
    pieces = [event % pair for pair in [(one, b"a"), (one, b"b"), (one, b"c"), (other, b"d"), (one, b"e")]]
    assert seen(StreamMeter, pieces, CHAT_COMPLETIONS, hides=False) == seen(
        Thorough, pieces, CHAT_COMPLETIONS, hides=False
    )


@corpus.needed
@pytest.mark.parametrize("hides", [False, True], ids=["shown", "hidden"])
def test_nobody_can_tell_in_recorded_streams(hides: bool) -> None:
    endpoints = {rule.name: rule for rule in ENDPOINTS}
    streams = 0
    for one in corpus.exchanges():
        if not one.streamed or one.status != 200:
            continue
        streams += 1
        splitter = Splitter(1 << 24)
        pieces = [raw for raw, _ in [*splitter.feed(one.body), *splitter.flush()]]
        rule = endpoints.get(f"/v1/{one.endpoint}", CHAT_COMPLETIONS)
        assert seen(StreamMeter, pieces, rule, hides=hides) == seen(Thorough, pieces, rule, hides=hides), one.id
    assert streams > 100


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}],"usage":null}\n\n',
        b'data: {"id": "c", "choices": [{"delta": {"content": "%b"}}], "obfuscation": "abc"}\n\n',
        b'event: x\ndata: {"type":"response.output_text.delta","sequence_number":4,"delta":"%b"}\n\n',
        b'data: {"id":"c","choices":[{"index":0,"text":"%b","finish_reason":null}]}\n\n',
    ],
    ids=["chat", "padded", "responses", "completions"],
)
def test_the_events_of_a_long_stream_are_hardly_parsed(event: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counted(data: bytes) -> dict[str, Any] | None:
        parsed.append(data)
        return orjson.loads(data)  # type: ignore[no-any-return] # whatever it is, as the one that it stands for

    monkeypatch.setattr(meter_module, "json_object", counted)
    meter = StreamMeter(Identity(), CHAT_COMPLETIONS, {}, hides_usage=False)
    for number in range(100):
        meter.feed(event % b" word%d" % number)
    assert len(parsed) == 2, "the first, and once more with another text"
    assert meter.delivered().streamed() == sum(len(f" word{number}") for number in range(100))


@pytest.mark.parametrize(
    "events",
    [
        # The text is written with an escape, and another member has the same value.
        [
            b'data: {"choices":[{"index":0,"delta":{"content":"\\u0061"}}],"obfuscation":"%b"}\n\n' % one
            for one in (b"a", b"bc")
        ],
        [
            b'data: {"created":%b,"choices":[{"index":0,"delta":{"content":"\\u0035"}}]}\n\n' % one
            for one in (b"5", b"66")
        ],
        # A value that spans lines is none.
        [
            b': "p":"\ndata: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
            b': "p":"X"choices":[{"index":0,"delta":{"content":"Evil"}}]}\n\n',
        ],
    ],
)
def test_no_event_is_taken_for_another(events: list[bytes]) -> None:
    class Parsing(StreamMeter):
        _takes_alike = False

    read = []
    for kind in (StreamMeter, Parsing):
        meter = kind(Identity(), CHAT_COMPLETIONS, {}, hides_usage=False)
        for event in [events[0], *events]:
            meter.feed(event)
        meter.finish()
        meter.reading()
        read.append(meter.delivered().tokens(BY_BYTES))
    assert read[0] == read[1]
