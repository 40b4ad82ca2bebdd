"""What one exchange of the machine will be: drawn from a seed and a number, and the same again for the same two."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random

import httptools

from tests.fuzz.messages import PLACE, Asked, Told
from tests.fuzz.mutate import cut, rechunked, reheaded, reshaped, scrambled

TENANTS = 2
_TAG = re.compile(rb"tag([0-9])x([0-9a-f]{8})x([0-9a-f]{8})")


def tag(tenant: int, number: int) -> bytes:
    """What a request and its answer carry, everywhere; no mutation of one is another."""
    return b"tag%dx%08xx%08x" % (tenant, number, zlib.crc32(b"%d of %d" % (number, tenant)))


def tags(data: bytes) -> set[bytes]:
    """The tags that were really given."""
    return {found[0] for found in _TAG.finditer(data) if found[0] == tag(int(found[1]), int(found[2], 16))}


class Ending(Enum):
    """What the upstream does when it has said its pieces."""

    KEEP = "keeps the connection"
    CLOSE = "closes"
    RESET = "resets"
    LATE = "says something more, later"


@dataclass(slots=True)
class Answer:
    pieces: list[bytes]
    ending: Ending


@dataclass(slots=True)
class Plan:
    """`whole` is how many requests a strict parser finds in the pieces, `broken` whether anything else is left."""

    seed: int
    number: int
    tenant: int
    tag: bytes
    request: list[bytes]
    answers: list[Answer]
    request_mutated: bool
    answer_mutated: bool
    whole: int
    broken: bool
    metered: bool
    loses_tag: bool  #: the upstream may not see it
    may_repeat: bool  #: an idempotency key: the ledger may know the response already
    shown: bytes | None  #: the body that the client must get, where nothing was mutated
    leaves_after: int | None  #: bytes of the answer
    # What came of it
    seen: int = 0
    seen_metered: bool = False
    met_late: bool = False  #: on its connection the upstream had not done with another one
    said: list[bytes] = field(default_factory=list)

    @property
    def mutations(self) -> int:
        return self.request_mutated + self.answer_mutated

    @property
    def is_clean(self) -> bool:
        return not self.mutations and self.leaves_after is None

    def __str__(self) -> str:
        lines = [f"exchange {self.number} of seed {self.seed} (--seed {self.seed} --only {self.number})"]
        lines += [f"  client: {piece!r}" for piece in self.request]
        for answer in self.answers:
            lines += [f"  upstream: {piece!r}" for piece in answer.pieces] + [f"  upstream {answer.ending.value}"]
        return "\n".join([*lines, f"  seen upstream: {self.seen} times", f"  the client got: {self.said!r}"])


def plan(seed: int, number: int, keys: Sequence[str], base: Sequence[Asked]) -> Plan:
    draw = Random(seed * 1_000_003 + number)
    tenant = draw.randrange(TENANTS)
    mark = tag(tenant, number)
    asked, other = draw.choice(base), draw.choice(base)
    told = draw.choice(asked.answers)
    which = draw.random()
    request_mutated, answer_mutated = which > 0.55, 0.1 < which < 0.6 or which > 0.95
    request, in_head = _request(draw, asked, other, mark, keys[tenant], mutated=request_mutated)
    whole, broken = _parsed(request) if in_head else (1, False)
    answers = [_answer(draw, told, other.answers[0], mark, mutated=answer_mutated)]
    if told.first is not None:
        answers.insert(0, _answer(draw, told.first, told, mark, mutated=False))
    clean = not request_mutated and not answer_mutated
    return Plan(
        seed=seed,
        number=number,
        tenant=tenant,
        tag=mark,
        request=cut(draw, request),
        answers=answers,
        request_mutated=request_mutated,
        answer_mutated=answer_mutated,
        whole=whole,
        broken=broken,
        metered=asked.metered,
        loses_tag=request_mutated and asked.path.startswith(b"/api/"),
        may_repeat=b"idempotency-key" in request.lower() and not clean,
        shown=told.shown.replace(PLACE, mark) if clean and told.shown is not None else None,
        leaves_after=draw.choice((0, 0, 1, 50, 400)) if draw.random() < 0.02 else None,
    )


def _request(draw: Random, asked: Asked, other: Asked, mark: bytes, key: str, *, mutated: bool) -> tuple[bytes, bool]:
    """The bytes of a request, and whether more than its body was changed."""
    body = asked.body.replace(PLACE, mark)
    how = draw.random() if mutated else 1.0
    if how < 0.5 and body:
        body = reshaped(draw, body) if how < 0.4 else scrambled(draw, body, other.body)
    length = b"" if asked.method == b"GET" else b"content-length: %d\r\n" % len(body)
    fields = b"".join([b"%b\r\n" % line for line in asked.fields]).replace(PLACE, mark)
    message = b"%b %b HTTP/1.1\r\nhost: t\r\nauthorization: Bearer %b\r\n%b%b\r\n%b" % (
        *(asked.method, asked.path, key.encode(), fields, length, body),
    )
    in_head = mutated and (how >= 0.5 or not body)
    if in_head:
        message = reheaded(draw, message) if how < 0.8 else scrambled(draw, message, message)
    first, end, rest = message.partition(b"\r\n")
    return (b"%b\r\nx-tag: %b\r\n%b" % (first, mark, rest) if end else message), in_head


def _answer(draw: Random, told: Told, other: Told, mark: bytes, *, mutated: bool) -> Answer:
    body = told.body.replace(PLACE, mark)
    how = draw.random() if mutated else 1.0
    if how < 0.5:
        body = reshaped(draw, body) if how < 0.35 else scrambled(draw, body, other.body)
    fields = told.fields.replace(PLACE, mark)
    ending = Ending.KEEP
    match draw.randrange(8) if told.framed else 0 if body else -1:
        case -1:
            framed = b"\r\n"
        case 0 | 1 | 2:
            framed = b"content-length: %d\r\n\r\n%b" % (len(body), body)
        case 3:
            framed = b"\r\n" + body
            ending = Ending.CLOSE
        case 4 if mutated or told.shown is None:
            body = gzip.compress(body, 1)
            framed = b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        case _:
            chunks = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(draw, body)])
            framed = b"transfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks
    message = told.start + fields + framed
    if mutated:
        if how >= 0.5:
            message = (reheaded, rechunked, _scrambled)[int(how * 6) - 3](draw, message)
            if draw.random() < 0.85:
                ending = Ending.CLOSE if draw.random() < 0.7 else Ending.RESET
        elif draw.random() < 0.02:
            ending = Ending.LATE
    return Answer(cut(draw, message), ending)


def _scrambled(draw: Random, message: bytes) -> bytes:
    return scrambled(draw, message, message)


class _Counter:
    """How many requests a strict parser finds."""

    def __init__(self) -> None:
        self.begun = 0
        self.whole = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_message_complete(self) -> None:
        self.whole += 1


def _parsed(request: bytes) -> tuple[int, bool]:
    counter = _Counter()
    try:
        httptools.HttpRequestParser(counter).feed_data(request)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return counter.whole, True
    return counter.whole, counter.begun > counter.whole
