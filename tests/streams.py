"""Answers of an upstream, as they stand on the wire."""

from __future__ import annotations

from typing import Any

import orjson

USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
ASK_STREAM = ASK | {"stream": True}

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding; b"" is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(document)


def text(content: str, **more: object) -> bytes:
    """A chat completion chunk with some text."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return event({"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [choice], **more})


USAGE_EVENT = event({"id": "chatcmpl-1", "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"

#: A stream as OpenAI sends it when usage was asked for, and as it sends it when it was not.
STREAM_WITH_USAGE = text("Hel", usage=None) + b": ping\n\n" + text("lo", usage=None) + USAGE_EVENT + DONE
STREAM_WITHOUT = text("Hel") + b": ping\n\n" + text("lo") + DONE

PLAIN = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
)
