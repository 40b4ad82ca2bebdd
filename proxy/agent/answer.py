"""A chat completion's answer, reshaped: `{content, model, usage{prompt_tokens, completion_tokens, total_tokens}}`."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.types import Send

from proxy.errors import BadAnswer, Headers
from proxy.gateway.respond import Passthrough
from proxy.wire import headers as header
from proxy.wire import usage as usage_shapes
from proxy.wire.sse import Splitter, data_of

_EVENT_BYTES_MAX = 16 * 1024 * 1024


class PlainAnswer(Passthrough):
    """One JSON object, once the completion is whole. An upstream's error goes on as it came."""

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self._upstream_headers: Headers = []
        self._parts: list[bytes] = []

    async def start(self, status: int, headers: Headers) -> None:
        if status >= 400:
            await super().start(status, headers)
        else:
            self._upstream_headers = headers

    async def data(self, data: bytes) -> None:
        if self.started:
            await super().data(data)
        else:
            self._parts.append(data)

    def last(self, data: bytes) -> bytes:
        if self.started:
            return data
        try:
            answer = orjson.loads(b"".join([*self._parts, data]))
            content = answer["choices"][0]["message"]["content"]
        except (orjson.JSONDecodeError, LookupError, TypeError):
            raise BadAnswer("The upstream's answer is not a chat completion.") from None
        return orjson.dumps(_shape(content, answer.get("model"), answer))

    async def finish(self, data: bytes) -> None:
        if not self.started:
            own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
            await super().start(200, [*_kept(self._upstream_headers), *own])
        await super().finish(data)


class StreamedAnswer(Passthrough):
    """Server-sent events: `{"delta": "…"}` as the text comes, and the whole object as the last one."""

    def __init__(self, send: Send, request_id: str) -> None:
        super().__init__(send, request_id)
        self._reshapes = False
        self._splitter = Splitter(_EVENT_BYTES_MAX)
        self._content: list[str] = []
        self._model: Any = None
        self._usage: dict[str, Any] = {}

    async def start(self, status: int, headers: Headers) -> None:
        content_type = header.get(headers, b"content-type") or b""
        self._reshapes = status < 400
        if self._reshapes:
            if status != 200 or not content_type.lower().startswith(b"text/event-stream"):
                raise BadAnswer("The upstream did not answer with a stream.")
            own = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            headers = [*_kept(headers), *own]
        await super().start(status, headers)

    async def data(self, data: bytes) -> None:
        if self._reshapes:
            data = self._deltas(data)
        await (super().data(data) if data else self.flush())

    def last(self, data: bytes) -> bytes:
        if not self._reshapes:
            return data
        deltas = self._deltas(data) + b"".join([self._delta(raw) for raw, whole in self._splitter.flush() if whole])
        return deltas + _event(_shape("".join(self._content), self._model, self._usage))

    def _deltas(self, data: bytes) -> bytes:
        return b"".join([self._delta(raw) for raw, whole in self._splitter.feed(data) if whole])

    def _delta(self, raw: bytes) -> bytes:
        """What an event of the completion becomes: a delta, an error, or nothing."""
        try:
            chunk = orjson.loads(data_of(raw))
        except orjson.JSONDecodeError:
            return b""
        if not isinstance(chunk, dict):
            return b""
        if chunk.get("error"):
            return _event({"error": chunk["error"]})
        self._model = self._model or chunk.get("model")
        if usage_shapes.read(chunk) is not None:
            self._usage = chunk
        try:
            text = chunk["choices"][0]["delta"]["content"]
        except (LookupError, TypeError):
            return b""
        if not text or not isinstance(text, str):
            return b""
        self._content.append(text)
        return _event({"delta": text})


def _shape(content: Any, model: Any, usage_holder: dict[str, Any]) -> dict[str, Any]:
    read = usage_shapes.read(usage_holder)
    counts = read and {
        "prompt_tokens": read[0].prompt_tokens,
        "completion_tokens": read[0].completion_tokens,
        "total_tokens": read[0].total_tokens,
    }
    return {"content": content or "", "model": model or "", "usage": counts}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(document)


def _kept(headers: Headers) -> Headers:
    """Of the headers, those that do not describe the upstream's body, which the client does not see."""
    return [pair for pair in headers if pair[0] in (b"x-request-id", b"date") or pair[0].startswith(b"x-ratelimit-")]
