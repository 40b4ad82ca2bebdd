"""The meter's plain answers, codings, and what it keeps at most."""

from __future__ import annotations

import gzip
import random
import zlib

import orjson
import pytest

from proxy.errors import BadAnswer
from proxy.gateway import meter as meters
from proxy.gateway.meter import Blind, PlainMeter, Reading, StreamMeter, meter_for
from proxy.model import UsageSource
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


@pytest.mark.parametrize("body", [ANSWER, b"\x1f\x8b" + ANSWER, gzip.compress(ANSWER)[:-12]])
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
