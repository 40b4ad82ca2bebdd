"""Mutations of messages: of bytes, of JSON, of heads and of chunks. The same `Random` gives the same ones."""

from __future__ import annotations

import re
from random import Random

#: What stands for another value in JSON, or is none.
VALUES = (
    *(b"null", b"true", b"false", b"0", b"-1", b"1e30", b"1e999", b"-0.0", b"NaN", b"-Infinity", b"9007199254740993"),
    *(
        b"18446744073709551616",
        b"1" * 400,
        b"0x10",
        b"01",
        b"1.",
        b".5",
        b'""',
        b'"13"',
        b"[]",
        b"{}",
        b"[{}]",
        b"[[]]",
    ),
    *(b'"\\ud83d"', b'"\\u0000"', b'"\\x"', b'"\\u12"', b'"\xf0\x9f"', b'"\xff"', b'"\xed\xa0\x80"', b'"a\nb"', b'"\\'),
    *(b"[" * 1_100, b'{"a":' * 300, b"[" * 600 + b"]" * 600, b'"' + b"x" * 3_000 + b'"', b'"data: [DONE]"', b""),
    *(b'{"prompt_tokens":-5,"completion_tokens":1e18,"total_tokens":"x"}', b'{"total_tokens":[1]}', b'{"usage":{}}'),
    *(b'{"error":{"message":"x"}}', b'"stream"', b'"usage"', b'{"include_usage":false}', b'[{"index":{}}]'),
)
#: Bytes that mean something to a parser on the way.
BYTES = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b"\xff",
        b"\x7f",
        b" ",
        b"\t",
        b":",
        b",",
        b'"',
        b"\\",
        b"{",
    ),
    *(
        b"}",
        b"[",
        b"]",
        b"data: ",
        b"data:",
        b": c\n\n",
        b"event: error\n",
        b"data: [DONE]\n\n",
        b"0\r\n\r\n",
        b"5\r\n",
    ),
    *(
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\x1f\x8b\x08",
        b"\xef\xbb\xbf",
        b"x" * 5_000,
        b"GET / ",
    ),
    *(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\n\r\n"),
)
#: Lines of a head.
LINES = (
    *(b"content-length: 0", b"content-length: 5", b"content-length: -1", b"content-length: 99999999999999999999"),
    *(b"content-length: 1e3", b"Content-Length : 7", b"content-length: 5, 5", b"transfer-encoding: chunked"),
    *(b"Transfer-Encoding: gzip, chunked", b"transfer-encoding:\tchunked", b"transfer-encoding: identity"),
    *(b"connection: close", b"connection: keep-alive", b"connection: upgrade", b"connection: content-type, x-tag"),
    *(b"upgrade: websocket", b"expect: 100-continue", b"expect: x", b"content-encoding: gzip", b"content-encoding: br"),
    *(b"content-encoding: deflate", b"content-type: text/event-stream", b"content-type: application/json"),
    *(b"content-type: multipart/form-data", b"content-type: multipart/form-data; boundary=x", b"content-type:"),
    *(b"accept-encoding: gzip", b"accept-encoding: br;q=1, *;q=0", b"host: other", b"host:", b"trailer: x-t", b"te: x"),
    *(
        b"x-a: \xff\x80",
        b"x-a: a\x00b",
        b"x-a: a\rb",
        b" folded",
        b"no colon",
        b": no name",
        b"x y: z",
        b"x-a:" + b"y" * 9_000,
    ),
    *(b"authorization: Bearer x", b"authorization: Basic x", b"x-api-key: x", b"x-tollgate-subject: tenant-9"),
    *(
        b"x-tollgate-request-id: forged",
        b"idempotency-key: k",
        b"openai-organization: o",
        b"set-cookie: a=b",
        b"date: x",
    ),
)
METHODS = (b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PRI", b"get", b"P\x00ST", b"")
TARGETS = (
    *(
        b"/v1/models",
        b"/v1/models/x",
        b"/v1/files",
        b"/v1/chat/completions?x=y",
        b"/v1//chat/completions",
        b"/v1/../v1/x",
    ),
    *(
        b"/v1/%63hat/completions",
        b"/v1/chat%2fcompletions",
        b"*",
        b"http://other/v1/chat/completions",
        b"/healthz",
        b"/",
    ),
    *(
        b"/v1/chat/completions#x",
        b"/v1/chat/completions ",
        b"/v1/responses/resp_1",
        b"/api/generate",
        b"/\xff",
        b"/v1/realtime",
    ),
)
STARTS = (b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.", b"http/1.1", b"ICY")
STATUSES = (
    b"100",
    b"101",
    b"103",
    b"199",
    b"204",
    b"205",
    b"304",
    b"400",
    b"401",
    b"422",
    b"429",
    b"500",
    b"503",
    b"999",
    b"0",
)
SIZES = (
    b"0",
    b"-1",
    b"0x5",
    b"5 ",
    b" 5",
    b"FFFFFFFFFFFFFFFFF",
    b"ffffffff",
    b"",
    b"5;a=b",
    b"5\t",
    b"00000005",
    b"zz",
)

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[\[\]{}:,]')
_MEMBER = re.compile(rb'"[A-Za-z_]+"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[^,{}\[\]"]+)')
_CHUNK_SIZE = re.compile(rb"(?<=\r\n)[0-9a-f]+(?=\r\n)")


def scrambled(draw: Random, data: bytes, other: bytes) -> bytes:
    """One to three changes of bytes anywhere; `other` is what may be spliced in."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(data) + 1)
        end = min(len(data), at + int(draw.expovariate(1 / 20)) + 1)
        match draw.randrange(7):
            case 0:
                data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
            case 1:
                data = (
                    data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :] if at < len(data) else b""
                )
            case 2:
                data = data[:at] + data[end:]
            case 3:
                data = data[:end] + data[at:]
            case 4:
                data = data[:at] + draw.choice(BYTES) + data[at:]
            case 5:
                start = draw.randrange(len(other) + 1)
                data = data[:at] + other[start:] if draw.random() < 0.3 else data[:at] + other[start:][:40] + data[at:]
            case _:
                data = data[:at]
    return data


def reshaped(draw: Random, text: bytes) -> bytes:
    """One to three changes that a JSON parser sees as such: other values, repeated members, missing ends."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        tokens = [found.span() for found in _TOKEN.finditer(text)]
        if not tokens:
            return text + draw.choice(VALUES)
        start, end = tokens[draw.randrange(len(tokens))]
        match draw.randrange(6):
            case 0 | 1 | 2:
                text = text[:start] + draw.choice(VALUES) + text[end:]
            case 3:
                members = _MEMBER.findall(text)
                member = draw.choice(members) if members else b'"stream":true'
                if draw.random() < 0.3:
                    member = member.replace(b'"', b'"\\u0073' if draw.random() < 0.3 else b'"S', 1)
                place = text.find(b"{", start) + 1 or 1
                text = text[:place] + member + b"," + text[place:]
            case 4:
                text = text[:start] + text[end:]
            case _:
                other_start, other_end = tokens[draw.randrange(len(tokens))]
                text = text[:start] + text[other_start:other_end] + text[end:]
    return text


def reheaded(draw: Random, message: bytes) -> bytes:
    """One or two changes of the head: its first line, its fields, the blanks and line ends between them."""
    head, blank, body = message.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.randrange(1, len(lines)) if len(lines) > 1 else 0
        match draw.randrange(8):
            case 0 | 1:
                lines.insert(at, draw.choice(LINES))
            case 2:
                lines.insert(at, lines[draw.randrange(len(lines))])
            case 3:
                del lines[at]
            case 4:
                lines[at] = lines[at].swapcase() if draw.random() < 0.5 else lines[at].replace(b": ", b" :\t", 1)
            case 5:
                lines[at] = lines[at].partition(b":")[0] + b": " + draw.choice(LINES).partition(b": ")[2]
            case 6:
                lines[:1] = [_first(draw, lines[0])] if lines else []
            case _:
                joined = draw.choice((b"\n", b"\r", b"\r\n ", b"\r\r\n", b"\x00\r\n")).join(lines[at : at + 2])
                lines[at : at + 2] = [joined]
        if not lines:
            break
    return b"\r\n".join(lines) + blank + body


def _first(draw: Random, line: bytes) -> bytes:
    parts = line.split(b" ", 2)
    choices: tuple[tuple[bytes, ...], ...]
    if line.startswith(b"HTTP/"):
        choices = (STARTS, STATUSES, (b"", b"\xff", b"x" * 300))
    else:
        choices = (METHODS, TARGETS, STARTS)
    at = draw.randrange(len(parts))
    parts[at] = draw.choice(choices[at])
    return b" ".join(parts)


def rechunked(draw: Random, message: bytes) -> bytes:
    """Another size for one of the chunks."""
    sizes = [found.span() for found in _CHUNK_SIZE.finditer(message)]
    if not sizes:
        return reheaded(draw, message)
    start, end = draw.choice(sizes)
    size = (
        draw.choice(SIZES) if draw.random() < 0.5 else b"%x" % (int(message[start:end], 16) + draw.choice((-1, 1, 256)))
    )
    return message[:start] + size + message[end:]


def cut(draw: Random, data: bytes) -> list[bytes]:
    """The data in one to four pieces."""
    edges = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 1, 1, 2, 3))))
    pieces = [data[start:end] for start, end in zip([0, *edges], [*edges, len(data)], strict=True)]
    return [piece for piece in pieces if piece]
