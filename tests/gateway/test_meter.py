from __future__ import annotations

import gzip
import json
import re
import zlib
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.meter import meter_for
from proxy.gateway.reading import Reading
from proxy.model import NO_USAGE, Usage, UsageSource

SSE = b"text/event-stream; charset=utf-8"
COUNTS = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
READ = Usage(uncached_input=10, text_output=5)
DONE = b"data: [DONE]\n\n"
CHUNK = b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"Hi"}}],"usage":null}\n\n'
SHOWN_CHUNK = b'data: {"id":"c","model":"m","choices":[{"delta":{"content":"Hi"}}]}\n\n'
USAGE_CHUNK = b'data: {"id":"c","model":"m","choices":[],"usage":%b}\n\n' % orjson.dumps(COUNTS)


def passed(
    stream: bytes, *, hides: bool, places: list[int] | None = None, coding: bytes | None = None
) -> tuple[bytes, Reading]:
    meter = meter_for(SSE, coding, hides_usage=hides)
    cuts = [0, *sorted(min(place, len(stream)) for place in places or []), len(stream)]
    shown = b"".join([meter.feed(stream[start:end]) for start, end in pairwise(cuts)])
    return shown + meter.finish(), meter.reading()


# --- Streams as upstreams write them, and what should become of them. -----------------------------------------------

SPACES = st.sampled_from(["", "", "", " ", "\t", "  "])
TEXTS = st.sampled_from(
    [
        *("Hi", "", '"usage":null', ',"usage":null', '\\"usage\\":null,', '"usage', '{"usage":null}', "é", "}", "{"),
        *("an error", '"error"', "response.completed", "[DONE]", "data: [DONE]\n\n", "\r\n", "\u2028"),
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(0, 99) | TEXTS
NESTED = st.fixed_dictionaries({"usage": st.none() | st.just({"x": None}), "index": st.just(0)})


@st.composite
def written(draw: st.DrawFn, value: Any, line_end: str) -> str:
    """JSON for `value` with any white space, also over several `data` lines."""

    def space() -> str:
        if line_end and draw(st.integers(0, 15)) == 0:
            return line_end + draw(st.sampled_from(["data:", "data: "]))
        return draw(SPACES)

    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}{space()}:{space()}{draw(written(one, line_end))}" for name, one in value.items()]
        return "{" + space() + f"{space()},{space()}".join(parts) + space() + "}"
    if isinstance(value, list):
        parts = [draw(written(one, line_end)) for one in value]
        return "[" + space() + f"{space()},{space()}".join(parts) + space() + "]"
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def chunks(draw: st.DrawFn) -> dict[str, Any]:
    """One chunk of a chat completion, its members in any order."""
    choice = {"delta": {"content": draw(TEXTS)}, "finish_reason": None}
    members: dict[str, Any] = {"choices": draw(st.sampled_from([[choice], [choice, {"usage": None}], [], None]))}
    members |= draw(st.fixed_dictionaries({}, optional={"id": TEXTS, "model": st.sampled_from(["", "m"]), "x": NESTED}))
    members |= draw(st.fixed_dictionaries({}, optional={"prompt_filter_results": st.just([{"usage": None}])}))
    members |= draw(st.fixed_dictionaries({}, optional={"error": st.none() | st.just({"message": "no"})}))
    members |= draw(st.sampled_from([{}, {"usage": None}, {"usage": None}, {"usage": COUNTS}, {"usage": {}}]))
    return dict(draw(st.permutations(list(members.items()))))


OTHER_EVENTS = (
    ": ping",
    'data: {"usage":null',
    "data: text",
    "event: error",
    "error: {}",
    "data: [1]",
    "data: [DONE]",
    "",
)


@st.composite
def events(draw: st.DrawFn, end: str) -> bytes:
    prefix = draw(st.sampled_from(["data:", "data: "]))
    if draw(st.integers(0, 4)) == 0:
        return (draw(st.sampled_from(OTHER_EVENTS)) + end + end).encode()
    head = draw(st.sampled_from(["", "", "", f"event: chunk{end}", f': "usage":null{end}', f"id: 7{end}", end]))
    tail = draw(st.sampled_from(["", "", "", f"{end}id: 8", f"{end}: ping"]))
    text = draw(written(draw(chunks()), draw(st.sampled_from(["", end]))))
    return (head + prefix + text + tail + end + end).encode()


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    # One way to end lines in a stream: after a dropped event, the CR before it and an LF behind it would become one.
    end = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"]))
    stream = b"".join(draw(st.lists(events(end), max_size=6)))
    return draw(st.sampled_from([stream, stream + DONE, stream.rstrip(b"\r\n"), b"\xef\xbb\xbf" + stream]))


#: Between two whole events: a blank line, whatever ends the lines.
BETWEEN = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")


def parsed(event: bytes) -> Any:
    lines = event.removeprefix(b"\xef\xbb\xbf").splitlines()
    try:
        return json.loads(b"\n".join(line[5:] for line in lines if line.startswith(b"data:")))
    except ValueError:
        return None


def split(stream: bytes) -> list[bytes]:
    ends = [found.end() for found in BETWEEN.finditer(stream)]
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True) if start < end]


def is_one_cut(event: bytes, shown: bytes) -> bool:
    """Whether `shown` is `event` without one run of bytes in which nothing but the null usage stood."""
    start = next((at for at, (old, new) in enumerate(zip(event, shown, strict=False)) if old != new), len(shown))
    length = len(event) - len(shown)
    cuts = [at for at in range(max(0, start - length), start + 1) if event[:at] + event[at + length :] == shown]
    return any(re.sub(rb'\s|data:|"usage"|:|null|,', b"", event[at : at + length]) == b"" for at in cuts)


@given(streams())
def test_a_client_that_did_not_ask_sees_the_stream_it_would_have_had(stream: bytes) -> None:
    shown, _ = passed(stream, hides=True)
    rest = split(shown)
    for event in split(stream):
        chunk = parsed(event)
        usage = chunk.get("usage", 0) if isinstance(chunk, dict) else 0
        empty = isinstance(chunk, dict) and "choices" in chunk and not chunk["choices"] and not chunk.get("error")
        if isinstance(usage, dict) and empty:
            continue
        assert rest, "content was dropped"
        got = rest.pop(0)
        if usage is None:
            del chunk["usage"]
            assert parsed(got) == chunk
            assert is_one_cut(event, got)
        else:
            assert got == event
    assert not rest


@given(streams(), st.lists(st.integers(0, 2000), max_size=30), st.booleans())
def test_any_cut_shows_and_reads_the_same(stream: bytes, places: list[int], hides: bool) -> None:
    assert passed(stream, hides=hides, places=places) == passed(stream, hides=hides)


@given(streams(), st.booleans())
def test_one_byte_at_a_time_shows_and_reads_the_same(stream: bytes, hides: bool) -> None:
    assert passed(stream, hides=hides, places=list(range(len(stream)))) == passed(stream, hides=hides)


@given(streams() | st.binary(max_size=200), st.lists(st.integers(0, 2000), max_size=30))
def test_a_client_that_asked_sees_exactly_what_came(stream: bytes, places: list[int]) -> None:
    shown, reading = passed(stream, hides=False, places=places)
    assert shown == stream
    assert reading == passed(stream, hides=True)[1]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_what_is_no_event_stream_passes_untouched(stream: bytes, places: list[int]) -> None:
    assert passed(stream, hides=True, places=places) == (stream, Reading())


@pytest.mark.parametrize("name", [b"gzip", b"deflate"])
@given(stream=streams(), places=st.lists(st.integers(0, 999)))
def test_a_coded_stream_is_shown_plain_where_usage_is_hidden(name: bytes, stream: bytes, places: list[int]) -> None:
    coded = gzip.compress(stream) if name == b"gzip" else zlib.compress(stream)
    assert passed(coded, hides=True, places=places, coding=name) == passed(stream, hides=True)
    assert passed(coded, hides=False, places=places, coding=name) == (coded, passed(stream, hides=True)[1])


# --- Examples. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (CHUNK, SHOWN_CHUNK),
        (USAGE_CHUNK, b""),
        (USAGE_CHUNK.replace(b"\n", b"\r\n"), b""),
        (USAGE_CHUNK.strip(), b""),
        (b'data: {"choices":[{}],"usage":null,"obfuscation":"x"}\n\n', b'data: {"choices":[{}],"obfuscation":"x"}\n\n'),
        (b'data: {"choices": [{}], "usage": null}\n\n', b'data: {"choices": [{}]}\n\n'),
        (b'data: {"usage":null,"choices":[{}]}\n\n', b'data: {"choices":[{}]}\n\n'),
        (b'data: { "usage" : null , "choices":[{}]}\n\n', b'data: { "choices":[{}]}\n\n'),
        (b'data: {"usage":null}\n\n', b"data: {}\n\n"),
        (b'data: {"a":1,\ndata: "usage":null,\ndata: "b":2}\n\n', b'data: {"a":1,\ndata: "b":2}\n\n'),
        (b'data: {"a":1,"usage":\rdata:null}\r\r', b'data: {"a":1}\r\r'),
        (
            b'data: {"choices":[{"usage":null}],"usage":null,"x":{"usage":null}}\n\n',
            b'data: {"choices":[{"usage":null}],"x":{"usage":null}}\n\n',
        ),
        (
            b'data: {"choices":[],"prompt_filter_results":[{"usage":null}],"usage":null}\n\n',
            b'data: {"choices":[],"prompt_filter_results":[{"usage":null}]}\n\n',
        ),
        (b'data: {"a":"\\"usage","usage":null,"b":[{}]}\n\n', b'data: {"a":"\\"usage","b":[{}]}\n\n'),
        (b'data: {"a":"\\ud83d","x":[{}],"usage":null,"b":{}}\n\n', b'data: {"a":"\\ud83d","x":[{}],"b":{}}\n\n'),
        (b'data: {"a":"\xf0\x9f","usage":null,"b":{}}\n\n', b'data: {"a":"\xf0\x9f","b":{}}\n\n'),
        (
            b'data: {"usage":null,"choices":[{"logprob":-Infinity}]}\n\n',
            b'data: {"choices":[{"logprob":-Infinity}]}\n\n',
        ),
    ],
)
@pytest.mark.parametrize("model_known", [True, False])
def test_hiding_cuts_out_one_member_or_one_event(event: bytes, shown: bytes, model_known: bool) -> None:
    before = SHOWN_CHUNK if model_known else b""
    assert passed(before + event, hides=True)[0] == before + shown


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{}}],"usage":{"total_tokens":5}}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[{}]}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":5},"error":{"message":"no"}}\n\n',
        b'data: {"choices":null,"error":{"message":"no"}}\n\n',
        b'data: {"choices":[{"usage":null}]}\n\n',
        b'data: {"x":{"usage":null}}\n\n',
        b'data: {"x":{"usage":null},"choices":[],"y":1}\n\n',
        b'data: {"x_groq":{"usage":{"total_tokens":5}},"choices":[]}\n\n',
        b'data: {"type":"response.completed","response":{"usage":null}}\n\n',
        b'data: {"type":"other","usage":{"total_tokens":5}}\n\n',
        b'data: [{"usage":null}]\n\n',
        b'data: {"usage":null\n\n',
        b': ,"usage":null}\n\n',
        b'event: error\ndata: {"message":"x"}\n\n',
    ],
)
@pytest.mark.parametrize("model_known", [True, False])
def test_hiding_leaves_alone_what_is_the_upstream_s_own(event: bytes, model_known: bool) -> None:
    stream = (SHOWN_CHUNK if model_known else b"") + event
    assert passed(stream, hides=True)[0] == stream


def test_the_lf_that_comes_late_goes_with_the_event_that_was_dropped() -> None:
    stream = (CHUNK + USAGE_CHUNK + DONE).replace(b"\n", b"\r\n")
    shown = (SHOWN_CHUNK + DONE).replace(b"\n", b"\r\n")
    assert passed(stream, hides=True, places=list(range(len(stream))))[0] == shown


def test_events_go_out_as_they_come() -> None:
    meter = meter_for(SSE, None, hides_usage=True)
    assert meter.rewrites
    assert meter.feed(CHUNK[:-1]) == b""
    assert meter.feed(CHUNK[-1:] + b": ping\n") == SHOWN_CHUNK
    assert meter.feed(b"\n" + USAGE_CHUNK) == b": ping\n\n"
    assert meter.feed(DONE[:-2]) == b""
    assert meter.finish() == DONE[:-2]


@pytest.mark.parametrize(
    ("usages", "read"),
    [
        ([COUNTS], READ),
        ([{"total_tokens": 3}, {"total_tokens": 9}], Usage(9)),
        ([COUNTS, None], READ),
        ([COUNTS, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}], READ),
        ([None, COUNTS, None], READ),
        ([COUNTS, {"seconds": 3}], READ),
        ([None], None),
        ([], None),
    ],
)
def test_of_several_usage_objects_the_last_counts(usages: list[Any], read: Usage | None) -> None:
    found = [{"model": "m", "choices": [{}], "usage": usage} for usage in usages]
    reading = passed(b"".join(b"data: %b\n\n" % orjson.dumps(one) for one in found), hides=True)[1]
    assert reading.usage == (read or NO_USAGE)
    assert reading.usage_source is (UsageSource.NONE if read is None else UsageSource.REPORTED)


@pytest.mark.parametrize("models", [["m"], ["", "m"], [None, "m", "other"], ["", None, "m"]])
def test_the_model_is_the_first_that_is_named(models: list[str | None]) -> None:
    stream = b"".join(b"data: %b\n\n" % orjson.dumps({"choices": [{}], "model": model}) for model in models)
    assert passed(stream, hides=False)[1].model == "m"


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (b'data: {"error":{"message":"x"}}\n\n', True),
        (b'data: {"type":"error","message":"x"}\n\n', True),
        (b'data: {"type":"response.failed","response":{"usage":null}}\n\n', True),
        (b"event: error\ndata: overloaded\n\n", True),
        (b'event:error\r\ndata: {"message":"x"}\r\n\r\n', True),
        (b'error: {"message":"x"}\n\n', True),
        (b'data: {"error":null}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"an error: x"}}]}\n\n', False),
        (b"event: errors\ndata: {}\n\n", False),
        (b": event: error\n\n", False),
    ],
)
def test_an_error_within_an_answer_is_noticed(event: bytes, failed: bool) -> None:
    for stream in (event, CHUNK + event, CHUNK + event.rstrip()):
        assert passed(stream, hides=False)[1].failed is failed


LAST = b'data: {"type":"response.%b","response":{"model":"m","usage":null}}\n\n'


@pytest.mark.parametrize(
    "last",
    [
        *(DONE, b"data:[DONE]\r\n\r\n", b"data: [DONE] \n\n", b"event: done\ndata: [DONE]\n\n"),
        *(
            LAST % b"completed",
            LAST % b"incomplete",
            LAST % b"failed",
            b"event: response.completed\n" + LAST % b"completed",
        ),
    ],
)
@pytest.mark.parametrize("hides", [True, False])
def test_the_last_event_is_seen_when_it_is_whole_and_not_before(last: bytes, hides: bool) -> None:
    for before in (b"", CHUNK):
        meter = meter_for(SSE, None, hides_usage=hides)
        meter.feed(before + last.rstrip(b"\r\n"))
        assert not meter.last_event_seen
        meter.feed(last[len(last.rstrip(b"\r\n")) :])
        assert meter.last_event_seen


@pytest.mark.parametrize(
    "event",
    [
        *(b'data: {"choices":[{"delta":{"content":"[DONE]"}}]}\n\n', b"data: [DONE] or not\n\n", b": [DONE]\n\n"),
        *(
            b"event: [DONE]\n\n",
            b'data: "[DONE]"\n\n',
            b"data: [DONE]\ndata: x\n\n",
            b'data: {"type":[],"error":1}\n\n',
        ),
        *(b'data: {"type":"response.output_text.delta","delta":"response.completed"}\n\n', LAST % b"created"),
        b'data: {"type":"response.output_text.done","text":"{\\"type\\":\\"response.completed\\"}"}\n\n',
    ],
)
def test_a_mention_of_the_last_event_is_not_the_last_event(event: bytes) -> None:
    meter = meter_for(SSE, None, hides_usage=False)
    meter.feed(event + CHUNK + event)
    assert not meter.last_event_seen


JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
NAMES = st.sampled_from(["usage", "choices", "model", "type", "error", "response", "x_groq"])


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=6), st.booleans())
def test_no_event_and_no_answer_makes_the_meter_fail(answer: dict[str, Any], hides: bool) -> None:
    passed(b"data: %b\n\n" % orjson.dumps(answer), hides=hides)
    plain = meter_for(b"application/json", None, hides_usage=hides)
    plain.feed(orjson.dumps(answer))
    assert isinstance(plain.reading(), Reading)
