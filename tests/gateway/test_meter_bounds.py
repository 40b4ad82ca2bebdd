"""The meter's plain answers, codings, and what it keeps at most."""

from __future__ import annotations

import gzip
import random
import zlib

import orjson
import pytest

from proxy.errors import BadAnswer
from proxy.gateway import meter as meters
from proxy.gateway.meter import Blind, PlainMeter, StreamMeter, meter_for
from proxy.gateway.reading import Reading
from proxy.model import UsageSource
from proxy.wire import document
from proxy.wire.coding import Inflate
from proxy.wire.endpoints import CHAT_COMPLETIONS
from tests.gateway.test_meter import CHUNK, COUNTS, DONE, READ, SHOWN_CHUNK, SSE, USAGE_CHUNK, passed


def read_plain(body: bytes, coding: bytes | None = None, content_type: bytes | None = b"application/json") -> Reading:
    meter = meter_for(content_type, coding, hides_usage=True)
    assert not meter.rewrites
    assert b"".join([meter.feed(body[at : at + 7]) for at in range(0, len(body), 7)]) + meter.finish() == body
    assert meter.reading() == meter.reading()
    return meter.reading()


ANSWER = orjson.dumps({"id": "c", "model": "m", "usage": COUNTS})
REPORTED = Reading(READ, UsageSource.REPORTED, "m", usage_path="usage", understood=True, response_id="c")


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", None])
@pytest.mark.parametrize(
    ("body", "reading"),
    [
        (ANSWER, REPORTED),
        (b"\n\n   \n" + ANSWER + b"\n", REPORTED),
        (CHUNK + USAGE_CHUNK + DONE, REPORTED),
        (b'{"model":"m","x":"\\ud83d","y":NaN,' + ANSWER[1:], REPORTED),
        (b'{"model":"m","x":"\xf0\x9f",' + ANSWER[1:], REPORTED),
        (b'{"error":{"message":"x"}}', Reading(failed=True, understood=True)),
        (ANSWER[:-1], Reading()),
        (b"<html>usage</html>", Reading()),
        (b"[%b]" % ANSWER, Reading()),
        (b"", Reading()),
        (b"\xff\xfb\x90" * 99, Reading()),
        (b'{"a":' * 50_000, Reading()),
    ],
)
def test_a_plain_answer_is_read_and_passes_untouched(content_type: bytes | None, body: bytes, reading: Reading) -> None:
    assert read_plain(body, content_type=content_type) == reading


def test_a_coded_plain_answer_is_read_and_passes_coded() -> None:
    assert read_plain(gzip.compress(ANSWER), b"gzip") == REPORTED
    assert read_plain(zlib.compress(ANSWER), b"deflate") == REPORTED


@pytest.mark.parametrize("body", [ANSWER, b"\x1f\x8b" + ANSWER, gzip.compress(ANSWER, mtime=0)[:-12]])
def test_a_plain_answer_that_cannot_be_decoded_passes_unread(body: bytes) -> None:
    assert read_plain(body, b"gzip") == Reading()


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip"])
@pytest.mark.parametrize("content_type", [SSE, b"application/json"])
def test_a_coding_that_was_never_offered_passes_unread(coding: bytes, content_type: bytes) -> None:
    meter = meter_for(content_type, coding, hides_usage=True)
    assert isinstance(meter, Blind)
    assert not meter.rewrites
    assert not meter.last_event_seen
    assert meter.feed(CHUNK) + meter.finish() == CHUNK
    assert meter.reading() == Reading()


def test_the_content_type_decides_how_an_answer_is_read() -> None:
    assert isinstance(meter_for(b" Text/Event-Stream", None, hides_usage=True), StreamMeter)
    assert isinstance(meter_for(b"application/json", None, hides_usage=True), PlainMeter)
    assert isinstance(meter_for(None, b"identity", hides_usage=True), PlainMeter)


def test_a_coded_stream_that_becomes_undecodable_passes_on_unread() -> None:
    broken = gzip.compress(CHUNK + USAGE_CHUNK)[:20] + b"\xff" * 50
    assert passed(broken, hides=False, places=list(range(70)), coding=b"gzip") == (broken, Reading())


def test_a_coded_stream_that_becomes_undecodable_cannot_be_shown_without_its_usage() -> None:
    meter = meter_for(SSE, b"gzip", hides_usage=True)
    with pytest.raises(BadAnswer, match="Content-Encoding"):
        meter.feed(b"plain after all")


def test_a_coded_stream_that_breaks_off_shows_all_that_can_be_decoded() -> None:
    coded = gzip.compress(CHUNK * 3 + b"data: " + random.Random(1).randbytes(9_000).hex().encode())
    shown, reading = passed(coded[:6_000], hides=True, coding=b"gzip")
    assert shown.startswith(SHOWN_CHUNK * 3 + b"data: ")
    assert reading.model == "m"


def test_an_answer_larger_than_the_bound_passes_unread_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "BODY_BYTES_MAX", len(ANSWER))
    assert read_plain(ANSWER) == REPORTED
    assert read_plain(ANSWER + b" ") == Reading()


def test_an_event_larger_than_the_bound_passes_uncut_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "EVENT_BYTES_MAX", 200)
    large = b'data: {"x":"' + b"x" * 500 + b'","model":"large","usage":null}\n\n'
    for places in ([], list(range(900))):
        shown, reading = passed(large + CHUNK + USAGE_CHUNK, hides=True, places=places)
        assert shown == large + SHOWN_CHUNK
        assert reading == REPORTED


def bomb(size: int) -> bytes:
    return gzip.compress(b'data: {"model":"m","choices":[' + b" " * size + b"]}\n\n")


class Counting:
    """A decoder that counts what it has unfolded."""

    def __init__(self) -> None:
        self.unfolded = 0
        self._inflate = Inflate(gzip=True)

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        plain = self._inflate.decode(data, bytes_max)
        self.unfolded += len(plain)
        return plain


def test_a_bomb_in_a_plain_answer_is_not_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "BODY_BYTES_MAX", 1_000_000)
    coded = gzip.compress(b" " * 30_000_000 + ANSWER)
    decode = Counting()
    meter = PlainMeter(decode, CHAT_COMPLETIONS, {})
    assert b"".join([meter.feed(coded[at : at + 99]) for at in range(0, len(coded), 99)]) == coded
    assert meter.reading() == Reading()
    assert decode.unfolded <= 1_000_000


def test_a_bomb_in_a_stream_is_not_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "EVENT_BYTES_MAX", 100_000)
    coded = bomb(3_000_000)
    assert passed(coded, hides=False, coding=b"gzip") == (coded, Reading())
    meter = meter_for(SSE, b"gzip", hides_usage=True)
    with pytest.raises(BadAnswer, match="more than 100000 bytes"):
        meter.feed(coded)


@pytest.mark.parametrize("filling", [b"[],", b'{"a":1},', b'"",', b"0,"])
@pytest.mark.parametrize("begins", [b"", b'"x":NaN,'])
def test_an_answer_that_would_unfold_in_memory_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch, filling: bytes, begins: bytes
) -> None:
    monkeypatch.setattr(document, "WEIGHED_FROM_BYTES", 10_000)
    monkeypatch.setattr(document, "PARSED_BYTES_MAX", 800_000)
    heavy = b'{%b"x":[%b0],%b' % (begins, filling * 30_000, ANSWER[1:])
    assert read_plain(heavy) == Reading()
    event = b"data: %b\n\n" % heavy
    assert passed(event + CHUNK + USAGE_CHUNK, hides=False) == (event + CHUNK + USAGE_CHUNK, REPORTED)


def test_embeddings_up_to_the_bound_of_an_answer_are_not_too_heavy() -> None:
    number = b"0.0123456789,"
    largest = meters.BODY_BYTES_MAX // len(number)
    assert document.weight(number) * largest <= document.PARSED_BYTES_MAX


def test_a_stream_that_is_not_labelled_is_read_as_it_comes_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "BODY_BYTES_MAX", 10_000)
    meter = meter_for(b"application/json", None, hides_usage=True)
    body = b": ping\n\n" + CHUNK * 1_000 + USAGE_CHUNK
    for at in range(0, len(body), 7):
        meter.feed(body[at : at + 7])
    seen = [meter.last_event_seen]
    meter.feed(DONE)
    assert [*seen, meter.last_event_seen] == [False, True]
    assert meter.finish() == b""
    assert meter.reading() == REPORTED


def test_blanks_without_end_are_not_searched_for_a_stream() -> None:
    assert read_plain(b" " * 100_000 + CHUNK + USAGE_CHUNK) == Reading()
    assert read_plain(b" " * 100_000 + ANSWER) == REPORTED


def test_names_come_without_lone_surrogates_and_bounded() -> None:
    reading = read_plain(b'{"id":"r\\ud83d","model":"%b\\ud83dx","usage":{"total_tokens":1}}' % (b"m" * 255))
    assert (reading.response_id, reading.model) == ("r?", "m" * 255 + "?")


ABSURD = [
    b"-1",
    b"1e30",
    b"NaN",
    b"-Infinity",
    b'"13"',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"1" * 5_000,
    b"0.5",
    b"[" * 100_000,
]


@pytest.mark.parametrize("count", ABSURD, ids=lambda count: count[:9].decode())
def test_absurd_counts_are_no_usage(count: bytes) -> None:
    body = b'{"model":"m","usage":{"prompt_tokens":%b,"completion_tokens":%b}}' % (count, count)
    assert read_plain(body).usage_source is UsageSource.NONE
    event = b"data: %b\n\n" % body
    assert passed(event, hides=False)[1].usage_source is UsageSource.NONE


def test_of_a_usage_that_is_given_twice_the_last_counts_as_clients_read_it() -> None:
    twice = b'{"model":"m","usage":{"total_tokens":1},"usage":%b}' % orjson.dumps(COUNTS)
    assert read_plain(twice).usage == READ


def test_many_empty_gzip_members_are_walked_through() -> None:
    coded = gzip.compress(b"") * 10_000 + gzip.compress(ANSWER)
    assert Inflate(gzip=True).decode(coded, 1_000) == ANSWER
