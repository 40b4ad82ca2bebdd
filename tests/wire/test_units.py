from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.model import NO_UNITS, Units
from proxy.wire.endpoints import ENDPOINTS, Counts, Endpoint, match
from proxy.wire.sse import Splitter, data_of
from proxy.wire.units import LAST_EVENTS, Tally, units_asked, units_of
from tests import corpus

GENERATIONS = match("POST", b"/v1/images/generations")
EDITS = match("POST", b"/v1/images/edits")
TRANSCRIPTIONS = match("POST", b"/v1/audio/transcriptions")
SPEECH = match("POST", b"/v1/audio/speech")


def images(answer: Any, **request: Any) -> int:
    return units_of(GENERATIONS, request, answer).images


def heard_ms(**answer: Any) -> int:
    return units_of(TRANSCRIPTIONS, {}, answer).audio_ms


def told(endpoint: Endpoint, events: list[dict[str, Any]], **request: Any) -> tuple[Units, list[bool]]:
    """What a tally has counted after these events, and after which of them it took the stream to be at its end."""
    tally = Tally(endpoint, request)
    ended = []
    for event in events:
        tally.note(event)
        ended.append(tally.ended)
    return tally.units, ended


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({"created": 1, "data": [{"b64_json": "x"}]}, 1),
        ({"data": [{"url": "x"}, {"url": "y"}, {"url": "z"}], "usage": {"total_tokens": 9}}, 3),
        ({"data": []}, 0),
        ({"data": [{}, None, 1]}, 1),
        ({"data": {"url": "x"}}, 0),
        ({"data": None}, 0),
        ({"error": {"message": "no"}}, 0),
        ({}, 0),
        (None, 0),
    ],
)
def test_images_are_those_that_came(answer: dict[str, Any] | None, count: int) -> None:
    assert images(answer) == count


def test_images_that_were_asked_for_but_cannot_be_seen_are_not_assumed() -> None:
    assert images(None, n=4) == 0
    assert images({}, n=4) == 0


NO_SECONDS: list[Any] = [
    *(0, -1, -0.5, None, True, [], {}, "", "x", "four", "NaN", "Infinity", "-1", "sNaN", "1e-999999999"),
    *(float("nan"), float("inf"), 1e300, 10**400, "9" * 9999, "1e999999999", 31_622_401),
]


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [
        (3, 3000),
        (3.7, 3700),
        (36.709999084472656, 36710),
        ("36.71", 36710),
        (" 4 ", 4000),
        ("1e1", 10_000),
        (0.0005, 1),
        (0.0004999, 0),
        (0.0015, 2),
        (2.0005, 2001),
        (1.0000000000000002, 1000),
        *((seconds, 0) for seconds in NO_SECONDS),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_seconds_become_whole_milliseconds_rounded_half_up(seconds: Any, milliseconds: int) -> None:
    assert heard_ms(duration=seconds) == milliseconds
    assert heard_ms(usage={"type": "duration", "seconds": seconds}) == milliseconds
    assert heard_ms(usage={"prompt_audio_seconds": seconds}) == milliseconds


def test_the_seconds_that_are_charged_stand_before_the_length_of_the_file() -> None:
    assert heard_ms(duration=36.71, usage={"type": "duration", "seconds": 37}) == 37_000
    assert heard_ms(duration=3.7, usage={"type": "tokens", "total_tokens": 9}) == 3700
    assert heard_ms(duration=3.7, usage={"seconds": None}) == 3700
    assert heard_ms(duration=3.7, usage=None) == 3700


def test_a_transcript_that_is_bare_text_tells_no_duration() -> None:
    assert units_of(TRANSCRIPTIONS, {"model": "whisper-1"}, None) == NO_UNITS
    assert heard_ms(text="hello") == 0


@pytest.mark.parametrize(
    ("request_", "characters"),
    [({"input": "héllo 🎈"}, 7), ({"input": ""}, 0), ({}, 0), ({"input": None}, 0), ({"input": ["a", "b"]}, 0)],
)
def test_speech_is_counted_by_the_characters_to_be_spoken(request_: dict[str, Any], characters: int) -> None:
    assert units_of(SPEECH, request_, None) == Units(characters=characters)


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one.counts is Counts.TOKENS], ids=lambda one: one.name
)
def test_what_is_charged_by_tokens_alone_has_no_other_units(endpoint: Endpoint) -> None:
    answer = {"data": [{}], "duration": 1, "usage": {"seconds": 1}}
    assert units_of(endpoint, {"input": "x", "n": 2}, answer) == NO_UNITS


@pytest.mark.parametrize(
    ("endpoint", "request_", "units"),
    [
        (GENERATIONS, {"prompt": "a cat", "n": 4}, Units(images=4)),
        (GENERATIONS, {"prompt": "a cat"}, Units(images=1)),
        (EDITS, {"n": "3"}, Units(images=3)),
        (SPEECH, {"input": "Hello"}, Units(characters=5)),
        (TRANSCRIPTIONS, {"model": "whisper-1"}, NO_UNITS),  # how long it is, nobody knows before
    ],
)
def test_what_is_asked_for_is_known_before_where_it_is_counted_by_the_piece(
    endpoint: Endpoint, request_: dict[str, Any], units: Units
) -> None:
    assert units_asked(endpoint, request_) == units


def test_units_add_up() -> None:
    assert Units(1, 2, 3) + Units(10, 20, 30) == Units(11, 22, 33)
    assert Units(1, 2, 3) + NO_UNITS == Units(1, 2, 3)


@pytest.mark.parametrize("endpoint", [GENERATIONS, EDITS])
def test_a_finished_image_of_a_stream_counts_and_its_previews_do_not(endpoint: Endpoint) -> None:
    kind = "image_generation" if endpoint is GENERATIONS else "image_edit"
    preview = {"type": f"{kind}.partial_image", "b64_json": "x", "partial_image_index": 0}
    done = {"type": f"{kind}.completed", "b64_json": "x", "usage": {"total_tokens": 9}}
    assert told(endpoint, [preview, preview, done], stream=True) == (Units(images=1), [False, False, True])
    assert told(endpoint, [preview], stream=True) == (NO_UNITS, [False])


@pytest.mark.parametrize("n", [2, "2"])
def test_a_stream_of_several_images_ends_with_the_last_of_them(n: Any) -> None:
    done = {"type": "image_generation.completed", "b64_json": "x"}
    assert told(GENERATIONS, [done, done], n=n) == (Units(images=2), [False, True])
    assert told(GENERATIONS, [done], n=n) == (Units(images=1), [False])


@pytest.mark.parametrize("n", [None, 0, -1, "", "x", "²", "9" * 5000, [], True])
def test_a_number_of_images_that_is_none_counts_as_one(n: Any) -> None:
    assert told(GENERATIONS, [{"type": "image_generation.completed"}], n=n) == (Units(images=1), [True])


def test_where_each_image_is_told_by_itself_the_summary_is_not_one_more() -> None:
    one = {"type": "image_generation.partial_succeeded", "image_index": 0, "url": "x"}
    summary = {"type": "image_generation.completed", "usage": {"generated_images": 2, "output_tokens": 9}}
    assert told(GENERATIONS, [one, one, summary], n=3) == (Units(images=2), [False, False, True])


def test_the_last_event_of_a_transcription_tells_its_duration() -> None:
    delta = {"type": "transcript.text.delta", "delta": "a", "duration": 5}
    done = {"type": "transcript.text.done", "text": "a", "usage": {"type": "duration", "seconds": 4}}
    assert told(TRANSCRIPTIONS, [delta, done]) == (Units(audio_ms=4000), [False, True])
    tokens = {"type": "transcript.text.done", "usage": {"type": "tokens", "input_tokens": 1, "output_tokens": 2}}
    assert told(TRANSCRIPTIONS, [delta, tokens]) == (NO_UNITS, [False, True])


def test_streamed_speech_is_counted_by_what_was_to_be_spoken() -> None:
    delta = {"type": "speech.audio.delta", "audio": "x"}
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}}
    assert told(SPEECH, [delta, done], input="abc") == (Units(characters=3), [False, True])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["seconds", "prompt_audio_seconds", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
ANSWERS = st.dictionaries(
    st.sampled_from(["type", "data", "duration", "usage", "input", "n"]),
    VALUES | st.sampled_from(sorted(LAST_EVENTS)),
    max_size=5,
)


@given(st.sampled_from(ENDPOINTS), ANSWERS, st.lists(ANSWERS, max_size=4))
def test_no_answer_is_too_odd_to_be_counted(
    endpoint: Endpoint, request_: dict[str, Any], answers: list[dict[str, Any]]
) -> None:
    tally = Tally(endpoint, request_)
    for answer in answers:
        found = units_of(endpoint, request_, answer)
        assert min(found.images, found.audio_ms, found.characters) >= 0
        tally.note(answer)
    assert isinstance(tally.units, Units)


def requests_by_id() -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(corpus.ROOT.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for record in map(json.loads, lines):
                body = record["request"].get("body")
                parsed = json.loads(body) if isinstance(body, str) and body.startswith("{") else body
                found[record["id"]] = parsed if isinstance(parsed, dict) else {}
    return found


def object_of(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


#: What the recorded exchanges yield: images, milliseconds, characters. (Of a 400 nothing is counted.)
RECORDED = {
    "groq-audio.transcriptions-n-200-48f95746ec": NO_UNITS,  # bare text
    "mistral-audio.speech-n-200-fe497ebdef": Units(characters=64),
    "mistral-audio.transcriptions-n-200-0759a13add": Units(audio_ms=3000),
    "mistral-audio.transcriptions-n-200-0a09074791": Units(audio_ms=3000),
    "mistral-audio.transcriptions-n-200-a6a61b92d0": Units(audio_ms=36_000),
    "mistral-audio.transcriptions-n-200-e5b4bd64a9": Units(audio_ms=3000),
    "openai-audio.speech-n-200-6f4627cbd5": Units(characters=64),
    "openai-audio.transcriptions-n-200-523725f3eb": Units(audio_ms=3700),  # by tokens, and its duration is told
    "openai-audio.transcriptions-n-200-b4028807b3": Units(audio_ms=37_000),  # 36.71 s long
    "openai-audio.transcriptions-n-200-d50b4c1e63": Units(audio_ms=3700),
    "openai-audio.transcriptions-n-200-effdce1b80": Units(audio_ms=4000),
    "openai-audio.transcriptions-s-200-0f8aaae6b5": NO_UNITS,  # by tokens alone
    "openai-audio.transcriptions-s-200-3e7c7b384f": NO_UNITS,
    "openai-images.edits-n-200-83c69070f2": Units(images=1),
    "openai-moderations-n-200-c80b0f38b7": NO_UNITS,
    "openai-moderations-n-200-f6f6216488": NO_UNITS,
    "openrouter-audio.speech-n-200-564b8d5ae3": Units(characters=64),
    "openrouter-audio.transcriptions-n-200-d55e39e1db": NO_UNITS,
    "xai-images.edits-n-200-f447ac532e": Units(images=1),
    "xai-images.generations-n-200-c7551f1e5d": Units(images=1),
}


@corpus.needed
def test_every_recorded_exchange_yields_its_units() -> None:
    requests = requests_by_id()
    found = {}
    for exchange in corpus.exchanges():
        if exchange.status != 200 or not exchange.endpoint.startswith(("images/", "audio/", "moderations")):
            continue
        endpoint = match("POST", b"/v1/" + exchange.endpoint.encode())
        if exchange.streamed:
            tally = Tally(endpoint, requests[exchange.id])
            for raw, _ in Splitter(10**6).feed(exchange.body):
                if event := object_of(data_of(raw)):
                    assert not tally.ended
                    tally.note(event)
            assert tally.ended
            found[exchange.id] = tally.units
        else:
            found[exchange.id] = units_of(endpoint, requests[exchange.id], object_of(exchange.body))
    assert found == RECORDED
