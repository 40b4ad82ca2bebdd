"""Server-sent events, in the two forms that OpenAI uses."""

from __future__ import annotations

import orjson

from proxy.upstream.sandbox.fields import Json

DONE = b"data: [DONE]\n\n"


def data_event(value: Json) -> bytes:
    """A chunk of Chat Completions: data alone."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named_event(value: Json) -> bytes:
    """An event of Responses: it is named after its `type`."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"
