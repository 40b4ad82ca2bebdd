"""The meter stage: reads the usage out of a copy of the answer's bytes, and hides what the client did not ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.errors import BadAnswer
from proxy.model import NO_USAGE, Usage, UsageSource
from proxy.wire import headers as header
from proxy.wire import usage as usage_shapes
from proxy.wire.coding import Decoder, Identity, Undecodable, decoder
from proxy.wire.sse import DONE, LATE_LF, Splitter, data_of

#: What the meter keeps of one answer at most; a larger one passes, unread.
BODY_BYTES_MAX = 64 * 1024 * 1024
EVENT_BYTES_MAX = 16 * 1024 * 1024
_MODEL_CHARS_MAX = 256

#: The events that end a stream of the Responses API, which has no [DONE].
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_FAILED_EVENTS = frozenset({"response.failed", "error"})

# White space inside an event's data, which may go on over `data:` lines.
_SPACE = rb"(?:[ \t\r\n]|(?<=[\r\n])data:)*"
_NULL_USAGE = rb'"usage"' + _SPACE + rb":" + _SPACE + rb"null"
_NULL_USAGE_AFTER = re.compile(rb"," + _SPACE + _NULL_USAGE)
_NULL_USAGE_FIRST = re.compile(_NULL_USAGE + _SPACE + rb"," + _SPACE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer said. `failed`: it carried an error, whatever its status."""

    usage: Usage = NO_USAGE
    usage_source: UsageSource = UsageSource.NONE
    model: str = ""
    failed: bool = False


class Meter(Protocol):
    """Sees an answer's bytes on their way to the client."""

    last_event_seen: bool  #: the stream has said its last word, although its end has not come yet

    def feed(self, data: bytes) -> bytes:
        """What goes to the client for these bytes of the upstream's."""

    def finish(self) -> bytes:
        """What still goes to the client at the end of the answer."""

    def reading(self) -> Reading:
        """What is known so far; complete once `finish` was called."""


def meter_for(content_type: bytes | None, content_encoding: bytes | None, *, hides_usage: bool) -> Meter:
    """The meter for an answer with these headers."""
    decode = decoder(content_encoding)
    if decode is None:
        return Blind()
    if (content_type or b"").strip().lower().startswith(b"text/event-stream"):
        return StreamMeter(decode, hides_usage=hides_usage)
    return PlainMeter(decode)


def hidden_headers(headers: header.Headers) -> frozenset[bytes]:
    """The headers that no longer hold once usage is cut out of a stream: its length, and its coding."""
    if decoder(header.get(headers, b"content-encoding")) is None:
        return frozenset()
    return frozenset({b"content-length", b"content-encoding"})


class Blind:
    """Passes everything and reads nothing: an answer that cannot be read, or that is not metered."""

    last_event_seen = False

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        return Reading()


class PlainMeter:
    """A JSON answer, read when it is whole. Also an event stream that is not labelled as one."""

    last_event_seen = False

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode
        self._copy: list[bytes] = []
        self._copied_bytes = 0

    def feed(self, data: bytes) -> bytes:
        self._copied_bytes += len(data)
        if self._copied_bytes <= BODY_BYTES_MAX:
            self._copy.append(data)
        return data

    def finish(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        if self._copied_bytes > BODY_BYTES_MAX:
            return Reading()
        try:
            body = self._decode.decode(b"".join(self._copy))
        except Undecodable:
            return Reading()
        self._decode, self._copy = Identity(), [body]  # a second reading must not decode twice
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            stream = StreamMeter(Identity(), hides_usage=False)
            stream.feed(body)
            stream.finish()
            return stream.reading()
        return _read(answer) if isinstance(answer, dict) else Reading()


class StreamMeter:
    """A stream of server-sent events. Of several usage objects the last counts: they are cumulative."""

    def __init__(self, decode: Decoder, *, hides_usage: bool) -> None:
        self.last_event_seen = False
        self._decode: Decoder | None = decode
        self._hides_usage = hides_usage
        self._splitter = Splitter(EVENT_BYTES_MAX)
        self._dropped = False
        self._usage: Usage | None = None
        self._model = ""
        self._failed = False

    def feed(self, data: bytes) -> bytes:
        if self._decode is None:
            return data
        try:
            plain = self._decode.decode(data)
        except Undecodable as error:
            if self._hides_usage:
                raise BadAnswer(f"The upstream's answer is not what its Content-Encoding says: {error}.") from None
            self._decode = None
            return data
        shown = [self._pass(raw, whole=whole) for raw, whole in self._splitter.feed(plain)]
        return b"".join(shown) if self._hides_usage else data

    def finish(self) -> bytes:
        shown = [self._pass(raw, whole=whole) for raw, whole in self._splitter.flush()]
        return b"".join(shown) if self._hides_usage else b""

    def reading(self) -> Reading:
        source = UsageSource.NONE if self._usage is None else UsageSource.REPORTED
        return Reading(self._usage or NO_USAGE, source, self._model, self._failed)

    def _pass(self, raw: bytes, *, whole: bool) -> bytes:
        if not whole:
            self._dropped = self._dropped and raw == LATE_LF.raw
            return b"" if self._dropped else raw
        self._dropped = False
        # Looked into only where it can matter: most events of a long stream hold text and nothing else.
        if b'"usage"' not in raw and b'"error"' not in raw and self._model:
            if b"[DONE]" in raw and data_of(raw).strip() == DONE:
                self.last_event_seen = True
            return raw
        data = data_of(raw)
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.strip() == DONE:
                self.last_event_seen = True
            return raw
        if not isinstance(event, dict):
            return raw
        self._note(event)
        return self._shown(raw, event) if self._hides_usage else raw

    def _note(self, event: dict[str, Any]) -> None:
        read = _read(event)
        if read.usage_source is UsageSource.REPORTED:
            self._usage = read.usage
        self._model = self._model or read.model
        self._failed = self._failed or read.failed
        if event.get("type") in _LAST_EVENTS:
            self.last_event_seen = True

    def _shown(self, raw: bytes, event: dict[str, Any]) -> bytes:
        """The event as a client sees it that did not ask for usage. Content is never dropped, nothing rewritten."""
        if "usage" not in event:
            return raw
        if event["usage"] is None:
            return _without_null_usage(raw)
        if not event.get("choices") and not event.get("error"):
            self._dropped = True
            return b""
        return raw


def _without_null_usage(raw: bytes) -> bytes:
    """An event without its top-level `"usage":null`.

    Where `"usage"` occurs once it is the top-level one (inside a string its quotes would be escaped). Of several,
    it is the one whose removal takes the key away and leaves the rest.
    """
    cuts = [*_NULL_USAGE_AFTER.finditer(raw), *_NULL_USAGE_FIRST.finditer(raw)]
    if raw.count(b'"usage"') == 1:
        return raw[: cuts[0].start()] + raw[cuts[0].end() :] if cuts else raw
    expected = orjson.loads(data_of(raw))
    del expected["usage"]
    for cut in cuts:
        shorter = raw[: cut.start()] + raw[cut.end() :]
        try:
            if orjson.loads(data_of(shorter)) == expected:
                return shorter
        except orjson.JSONDecodeError:
            continue
    return raw


def _read(answer: dict[str, Any]) -> Reading:
    found = usage_shapes.find(answer)
    usage = usage_shapes.normalise(found) if found is not None else None
    inner = answer.get("response")
    model = answer.get("model") or (inner.get("model") if isinstance(inner, dict) else None)
    return Reading(
        usage or NO_USAGE,
        UsageSource.NONE if usage is None else UsageSource.REPORTED,
        model[:_MODEL_CHARS_MAX] if isinstance(model, str) else "",
        failed=bool(answer.get("error")) or answer.get("type") in _FAILED_EVENTS,
    )
