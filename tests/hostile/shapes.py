"""Answers that no upstream should give, what its client must get of each, and a client that looks closely."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from enum import Enum

import httptools

from proxy.model import Outcome, UsageSource
from proxy.upstream.head import HEAD_BYTES_MAX, INTERIM_MAX
from tests.scripted import Peer, answer
from tests.streams import DONE, PLAIN, SSE_HEAD, STREAM_WITH_USAGE, USAGE_EVENT, chunk, text

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"
CHUNKED = OK + JSON + b"transfer-encoding: chunked\r\n\r\n"
SECOND = answer(b'{"another": "answer"}', "content-type: application/json")


class Then(Enum):
    """What the upstream does when it has said its bytes."""

    STAY = "stays"
    CLOSE = "closes"
    RESET = "resets"

    def do(self, peer: Peer) -> None:
        match self:
            case Then.CLOSE:
                peer.close()
            case Then.RESET:
                peer.reset()


@dataclass(frozen=True, slots=True)
class Shape:
    """What the upstream says, and what comes of it.

    `code` is the error that the client gets instead; without one the answer had begun: `body` of it reaches the
    client, and it breaks off there unless it is `whole`. Where it is `kept`, it is well framed whatever it says, and
    its connection serves again.
    """

    said: bytes
    then: Then = Then.STAY
    code: str = ""
    outcome: Outcome = Outcome.UPSTREAM_ERROR
    source: UsageSource = UsageSource.NONE
    body: bytes = b""
    whole: bool = False
    kept: bool = False
    status: int = 200


def bad(said: bytes) -> Shape:
    """It is not HTTP, and shows so before the answer has begun."""
    return Shape(said, code="upstream_bad_answer")


def broken(said: bytes, then: Then = Then.CLOSE) -> Shape:
    return Shape(said, then, code="upstream_connection_broken")


def cut(said: bytes, body: bytes, then: Then = Then.STAY, source: UsageSource = UsageSource.ESTIMATED) -> Shape:
    """It goes wrong in its middle."""
    return Shape(said, then, outcome=Outcome.TRUNCATED, source=source, body=body)


def whole(said: bytes, body: bytes, source: UsageSource = UsageSource.REPORTED, then: Then = Then.STAY) -> Shape:
    """A whole answer, and something that must not be."""
    return Shape(said, then, outcome=Outcome.COMPLETED, source=source, body=body, whole=True)


def odd(said: bytes, body: bytes, source: UsageSource = UsageSource.REPORTED) -> Shape:
    """A whole answer, well framed, that says strange things."""
    return Shape(said, outcome=Outcome.COMPLETED, source=source, body=body, whole=True, kept=True)


LENGTH = OK + JSON + b"content-length: %d\r\n\r\n" % len(PLAIN)
_EMPTY = b"content-length: 0\r\n\r\n"
_INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"

NO_ANSWER: dict[str, Shape] = {
    "another protocol": bad(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "HTTP/2 frames": bad(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"),
    "a TLS alert": bad(b"\x15\x03\x03\x00\x02\x02\x28"),
    "HTTP/0.9": bad(b"hello"),
    "a version of its own": bad(b"HTTP/1.9 200 OK\r\n" + _EMPTY),
    "status 999": bad(b"HTTP/1.1 999 X\r\n" + _EMPTY),
    "status 000": bad(b"HTTP/1.1 000 X\r\n" + _EMPTY),
    "status 99": bad(b"HTTP/1.1 99 X\r\n" + _EMPTY),
    "status 2000": bad(b"HTTP/1.1 2000 X\r\n" + _EMPTY),
    "101 as the final one": bad(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "a 1xx flood": bad(_INTERIM * (INTERIM_MAX + 1) + LENGTH + PLAIN),
    "a 1xx with a body": bad(b"HTTP/1.1 103 X\r\ncontent-length: 3\r\n\r\nabc"),
    "a head without end": bad(OK + b"x: " + b"y" * (HEAD_BYTES_MAX + 1)),
    "headers without end": bad(OK + b"x: y\r\n" * (HEAD_BYTES_MAX // 6 + 1)),
    "a head over the bound": bad(OK + b"x: " + b"y" * HEAD_BYTES_MAX + b"\r\n" + _EMPTY),
    "a length and chunks": bad(OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunks and a length": bad(OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
    "two lengths": bad(OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
    "the same length twice": bad(OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
    "a list of lengths": bad(OK + b"content-length: 5, 6\r\n\r\nhello"),
    "a negative length": bad(OK + b"content-length: -1\r\n\r\nhello"),
    "a length in hexadecimal": bad(OK + b"content-length: 0x5\r\n\r\nhello"),
    "a length beyond 64 bits": bad(OK + b"content-length: 99999999999999999999\r\n\r\nhello"),
    "gzip, chunked": bad(OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked, chunked": bad(OK + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "an unheard of coding": bad(OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "identity": bad(OK + b"transfer-encoding: identity\r\n\r\nhello"),
    "a folded header": bad(OK + b"x: a\r\n b\r\n" + _EMPTY),
    "a folded length": bad(OK + b"content-length:\r\n 5\r\n\r\nhello"),
    "a NUL in a header": bad(OK + b"x: a\x00b\r\n" + _EMPTY),
    "a CR in a header": bad(OK + b"x: a\rset-cookie: b=c\r\n" + _EMPTY),
    "a LF in a header": bad(OK + b"x: a\nset-cookie: b=c\r\n" + _EMPTY),
    "a split by blank lines": bad(OK + b"x: a\n\nHTTP/1.1 200 OK\n" + _EMPTY),
    "a header without a name": bad(OK + b": a\r\n" + _EMPTY),
    "a name with a blank": bad(OK + b"x y: a\r\n" + _EMPTY),
    "a blank before the colon": bad(OK + b"content-length : 5\r\n\r\nhello"),
    "a header without a colon": bad(OK + b"nonsense\r\n" + _EMPTY),
    "nothing, then the end": broken(b""),
    "nothing, then a reset": broken(b"", Then.RESET),
    "half a head, then the end": broken(OK + b"content-le"),
    "half a head, then a reset": broken(OK + b"content-le", Then.RESET),
    "a 1xx, then the end": broken(_INTERIM),
}

GZIP = OK + JSON + b"content-encoding: gzip\r\n"


def _sized(head: bytes, body: bytes) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


_MEMBERS = gzip.compress(PLAIN[:50]) + gzip.compress(PLAIN[50:])
_TWO = gzip.compress(gzip.compress(PLAIN))
_HALF = gzip.compress(PLAIN)[:-20]
_PADDED = gzip.compress(PLAIN) + b"padding"
_FLAT = zlib.compress(PLAIN)
_COUNTS = b'"prompt_tokens":9,"completion_tokens":4,"total_tokens":13'
_TWICE = b'{"model":"m","usage":{"total_tokens":1},"usage":{%b}}' % _COUNTS
_DEEP = b'{"model":"m","usage":{%b},"x":%b' % (_COUNTS, b'{"a":' * 100_000)
_FORBIDDEN = b'{"model":"m\\ud83d","id":"\xff","x":-Infinity,"usage":{%b}}' % _COUNTS

PLAIN_ANSWERS: dict[str, Shape] = {
    "shorter than announced": cut(LENGTH + PLAIN[:50], PLAIN[:50], Then.CLOSE),
    "shorter than announced, reset": cut(LENGTH + PLAIN[:50], PLAIN[:50], Then.RESET),
    "a length that no memory holds": cut(
        OK + b"content-length: 18446744073709551615\r\n\r\nhello", b"hello", Then.CLOSE
    ),
    "longer than announced": whole(LENGTH + PLAIN + b"more", PLAIN),
    "two answers": whole(LENGTH + PLAIN + SECOND, PLAIN),
    "an answer and a 1xx": whole(LENGTH + PLAIN + _INTERIM, PLAIN),
    "more after connection: close": whole(
        OK + JSON + b"connection: close\r\n" + LENGTH[len(OK + JSON) :] + PLAIN + SECOND, PLAIN
    ),
    "until the end of the connection": whole(OK + JSON + b"\r\n" + PLAIN, PLAIN, then=Then.CLOSE),
    "until a reset": cut(OK + JSON + b"\r\n" + PLAIN, PLAIN, Then.RESET, UsageSource.REPORTED),
    "HTTP/1.0": whole(b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n" + PLAIN, PLAIN, then=Then.CLOSE),
    "chunks that end too early": cut(CHUNKED + chunk(PLAIN[:50]), PLAIN[:50], Then.CLOSE),
    "a chunk that ends too early": cut(CHUNKED + b"ff\r\n" + PLAIN[:50], PLAIN[:50], Then.CLOSE),
    "a chunk size that is none": cut(CHUNKED + chunk(PLAIN[:50]) + b"zz\r\n", PLAIN[:50]),
    "a negative chunk size": cut(CHUNKED + chunk(PLAIN[:50]) + b"-5\r\nhello\r\n", PLAIN[:50]),
    "a chunk size beyond 64 bits": cut(CHUNKED + chunk(PLAIN[:50]) + b"F" * 17 + b"\r\n", PLAIN[:50]),
    "a chunk longer than its size": cut(CHUNKED + chunk(PLAIN[:50]) + b"2\r\nabc\r\n", PLAIN[:50] + b"ab"),
    "a line end that is half of one": cut(CHUNKED + chunk(PLAIN[:50]) + b"1\nx\n", PLAIN[:50]),
    "chunks, and an answer": whole(CHUNKED + chunk(PLAIN) + chunk(b"") + SECOND, PLAIN),
    "trailers without end": cut(
        CHUNKED + chunk(PLAIN) + b"0\r\n" + b"x: y\r\n" * HEAD_BYTES_MAX, PLAIN, source=UsageSource.REPORTED
    ),
    # More than comes in one read, of which the part after the last byte of a body is not counted.
    "an extension without end": cut(CHUNKED + chunk(PLAIN[:50]) + b"5;" + b"x" * 10 * HEAD_BYTES_MAX, PLAIN[:50]),
    "204 with a body": Shape(
        b"HTTP/1.1 204 X\r\n" + LENGTH[len(OK) :] + PLAIN, outcome=Outcome.COMPLETED, whole=True, status=204
    ),
    "304 with a body": Shape(
        b"HTTP/1.1 304 X\r\n" + LENGTH[len(OK) :] + PLAIN, outcome=Outcome.COMPLETED, whole=True, status=304
    ),
    "gzip that is none": odd(_sized(GZIP, PLAIN), PLAIN, UsageSource.NONE),
    "gzip that breaks off": odd(_sized(GZIP, _HALF), _HALF, UsageSource.NONE),
    "gzip with something after it": odd(_sized(GZIP, _PADDED), _PADDED),
    "gzip in two members": odd(_sized(GZIP, _MEMBERS), _MEMBERS),
    "gzip twice": odd(_sized(GZIP, _TWO), _TWO, UsageSource.NONE),
    "gzip, gzip": odd(_sized(OK + JSON + b"content-encoding: gzip, gzip\r\n", _TWO), _TWO, UsageSource.NONE),
    "deflate": odd(_sized(OK + JSON + b"content-encoding: deflate\r\n", _FLAT), _FLAT),
    "br": odd(_sized(OK + JSON + b"content-encoding: br\r\n", b"\x0b\x02\x80"), b"\x0b\x02\x80", UsageSource.NONE),
    "zstd": odd(
        _sized(OK + JSON + b"content-encoding: zstd\r\n", b"\x28\xb5\x2f\xfd"), b"\x28\xb5\x2f\xfd", UsageSource.NONE
    ),
    "a usage given twice": odd(_sized(OK + JSON, _TWICE), _TWICE),
    "JSON without a bottom": odd(_sized(OK + JSON, _DEEP), _DEEP, UsageSource.NONE),
    "what JSON forbids": odd(_sized(OK + JSON, _FORBIDDEN), _FORBIDDEN),
    "a stream without its label": odd(_sized(OK + JSON, STREAM_WITH_USAGE), STREAM_WITH_USAGE),
}
for _count in (b"-9", b"1e30", b"NaN", b'"9"', b"null", b"[]", b"true", b"9.5", b"9" * 5_000):
    _absurd = b'{"model":"m","usage":{"prompt_tokens":%b,"completion_tokens":%b}}' % (_count, _count)
    PLAIN_ANSWERS[f"{_count[:9].decode()} tokens"] = odd(_sized(OK + JSON, _absurd), _absurd, UsageSource.ESTIMATED)

_SSE_GZIP = OK + b"content-type: text/event-stream\r\ncontent-encoding: gzip\r\n"
_HEL = text("Hel")
_BEGUN = SSE_HEAD + chunk(_HEL)
_UNFOLDED = b": " + b" " * (1 << 25) + b"\n\n"
_ABSURD_EVENT = b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":1e99}}\n\n'
_INVALID_EVENT = b'data: {"model":"m","choices":[{"delta":{"content":"\xff\xed\xa0\x80"}}]}\n\n'

STREAMS: dict[str, Shape] = {
    "no end": cut(_BEGUN, _HEL, Then.CLOSE),
    "a reset": cut(_BEGUN, _HEL, Then.RESET),
    "a reset after the usage": cut(_BEGUN + chunk(USAGE_EVENT), _HEL, Then.RESET, UsageSource.REPORTED),
    "half an event, then the end": cut(_BEGUN + chunk(text("lo")[:40]), _HEL, Then.CLOSE),
    "half a usage, then the end": cut(_BEGUN + chunk(USAGE_EVENT[:-20]), _HEL, Then.CLOSE),
    "a bad chunk size": cut(_BEGUN + b"zz\r\n", _HEL),
    "half a chunk size, then the end": cut(_BEGUN + b"5", _HEL, Then.CLOSE),
    "[DONE] and no last chunk": Shape(
        _BEGUN + chunk(USAGE_EVENT + DONE),
        Then.CLOSE,
        outcome=Outcome.COMPLETED,
        source=UsageSource.REPORTED,
        body=_HEL + DONE,
    ),
    "a second answer": whole(_BEGUN + chunk(USAGE_EVENT + DONE) + chunk(b"") + SECOND, _HEL + DONE),
    "shorter than announced": cut(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\n" + _HEL, _HEL, Then.CLOSE
    ),
    "gzip that was not asked for": odd(_sized(_SSE_GZIP, gzip.compress(_HEL + USAGE_EVENT + DONE)), _HEL + DONE),
    "a gzip bomb": cut(_sized(_SSE_GZIP, gzip.compress(_UNFOLDED)), b"", Then.CLOSE),
    "gzip that is none": cut(_sized(_SSE_GZIP, _HEL), b"", Then.CLOSE),
    "an absurd usage": odd(_BEGUN + chunk(_ABSURD_EVENT + DONE) + chunk(b""), _HEL + DONE, UsageSource.ESTIMATED),
    "invalid UTF-8": odd(
        _BEGUN + chunk(_INVALID_EVENT + USAGE_EVENT + DONE) + chunk(b""), _HEL + _INVALID_EVENT + DONE
    ),
    "JSON where a stream was asked for": odd(LENGTH + PLAIN, PLAIN),
}


class Seen:
    """What a client got: one answer, read by a strict parser, and whether it came to its end."""

    def __init__(self, received: bytes) -> None:
        self.received = received
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.whole = False
        self.answers = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(received)

    def on_message_begin(self) -> None:
        self.answers += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = True
