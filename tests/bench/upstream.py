"""A fast scripted upstream, in a process of its own: `python -m tests.bench.upstream PORT`.

It answers every POST with one completion of about 1 KB, or, where the body asks for a stream, with events at a pace
that the request's model names: `m-100-20` is a hundred events, one each 20 ms.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from typing import cast

import uvloop

_WORDS = "The quick brown fox jumps over the lazy dog and looks back once more. " * 9
USAGE = {"prompt_tokens": 212, "completion_tokens": 131, "total_tokens": 343}
_BASE = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_776_000_000, "model": "m-0-0"}
_PLAIN = json.dumps(
    _BASE
    | {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _WORDS}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_PLAIN), _PLAIN)

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_MODEL = re.compile(rb'"model": ?"(?:[a-z]+/)?m-(\d+)-(\d+)"')
_STREAM = re.compile(rb'"stream": ?true')
_ASKS_USAGE = re.compile(rb'"include_usage": ?true')
_LENGTH = re.compile(rb"content-length: ?(\d+)", re.IGNORECASE)


def _chunk(value: dict[str, object] | None) -> bytes:
    event = b"data: %b\n\n" % (b"[DONE]" if value is None else json.dumps(value, separators=(",", ":")).encode())
    return b"%x\r\n%b\r\n" % (len(event), event)


_PART = _BASE | {"object": "chat.completion.chunk", "system_fingerprint": "fp_0123456789"}
_DELTA = {"index": 0, "delta": {"content": " and looks back"}, "logprobs": None, "finish_reason": None}
EVENT = _chunk(_PART | {"choices": [_DELTA], "usage": None})
_STOP = _chunk(_PART | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
_LAST = _STOP + _chunk(_PART | {"choices": [], "usage": USAGE}) + _chunk(None) + b"0\r\n\r\n"
_LAST_UNASKED = _STOP + _chunk(None) + b"0\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._got = bytearray()
        self._left = 0
        self._pace_s = 0.0
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self._got, 0, end + 2)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self._got) < size:
                return
            request = self._got[:size]
            del self._got[:size]
            self._answer(request)

    def _answer(self, request: bytearray) -> None:
        if not _STREAM.search(request):
            self._transport.write(PLAIN)
            return
        found = _MODEL.search(request)
        assert found is not None, request
        self._left, self._pace_s = int(found[1]), int(found[2]) / 1000
        self._last = _LAST if _ASKS_USAGE.search(request) else _LAST_UNASKED
        self._transport.write(_HEAD + EVENT)
        # At a moment of its own, so that streams that began together do not go on in step.
        self._loop.call_later(self._pace_s * random.random(), self._next)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        self._left -= 1
        if self._left <= 0:
            self._transport.write(self._last)
            return
        self._transport.write(EVENT)
        self._loop.call_later(self._pace_s, self._next)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=8192)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
