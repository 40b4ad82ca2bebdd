"""The meter stage: reads the usage out of a copy of the answer's bytes, and hides what the client did not ask for."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.errors import BadAnswer
from proxy.model import NO_USAGE, Usage, UsageSource
from proxy.wire import usage as usage_shapes
from proxy.wire.body import members
from proxy.wire.coding import Decoder, Identity, Undecodable, decoder
from proxy.wire.sse import DONE, LATE_LF, Splitter, data_of

#: What the meter keeps of one answer at most; a larger one passes, unread.
BODY_BYTES_MAX = 64 * 1024 * 1024
#: What it keeps of one event, and what the coded bytes that come at once may unfold to.
EVENT_BYTES_MAX = 16 * 1024 * 1024
_MODEL_CHARS_MAX = 256

#: The events that end a stream of the Responses API, which has no [DONE].
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
_FAILED_EVENTS = ("response.failed", "error")

#: An error told by the event itself, not by its data: `event: error`, or a bare line `error: {…}`.
_ERROR_LINE = re.compile(rb"(?:\A|[\r\n])(?:event: ?error *(?:[\r\n]|\Z)|error:)")

#: `"usage":null` with one closing brace after it, the last of the event: so it is a member of the outermost object.
_NULL_USAGE_LAST = re.compile(rb',[ \t]*"usage"[ \t]*:[ \t]*null(?=[^}\r\n]*\}[\r\n]*\Z)')
#: The bytes of an event that are not its data: what begins a `data` line, and the other lines.
_NOT_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))(?:data:|(?!data:)[^\r\n]+)")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer said. `failed`: it carried an error, whatever its status."""

    usage: Usage = NO_USAGE
    usage_source: UsageSource = UsageSource.NONE
    model: str = ""
    failed: bool = False
    usage_path: str = ""  #: where in the answer the usage stood


class Meter(Protocol):
    """Sees an answer's bytes on their way to the client."""

    rewrites: bool  #: the client gets other bytes than the upstream sent: plain ones, of another length
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


class Blind:
    """Passes everything and reads nothing: an answer that cannot be read, or that is not metered."""

    rewrites = False
    last_event_seen = False

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        return Reading()


class PlainMeter:
    """A JSON answer, read when it is whole. Also an event stream that is not labelled as one."""

    rewrites = False
    last_event_seen = False

    def __init__(self, decode: Decoder) -> None:
        self._decode = decode
        self._copy: list[bytes] = []
        self._room = BODY_BYTES_MAX

    def feed(self, data: bytes) -> bytes:
        if self._room >= 0:
            try:
                plain = self._decode.decode(data, self._room)
            except Undecodable:
                self._room = -1
            else:
                self._room -= len(plain)
                self._copy.append(plain)
            if self._room < 0:
                self._copy.clear()
        return data

    def finish(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        body = b"".join(self._copy)
        answer = _object(body)
        if answer is None and b"data:" in body:
            stream = StreamMeter(Identity(), hides_usage=False)
            stream.feed(body)
            stream.finish()
            return stream.reading()
        if answer is None:
            return Reading()
        return _reading(usage_shapes.read(answer), _model(answer), _has_failed(answer))


class StreamMeter:
    """A stream of server-sent events. Of several usage objects the last counts: they are cumulative."""

    def __init__(self, decode: Decoder, *, hides_usage: bool) -> None:
        self.rewrites = hides_usage
        self.last_event_seen = False
        self._decode: Decoder | None = decode
        self._splitter = Splitter(EVENT_BYTES_MAX)
        self._dropped = False
        self._usage: tuple[Usage, str] | None = None
        self._model = ""
        self._failed = False

    def feed(self, data: bytes) -> bytes:
        if self._decode is None:
            return data
        try:
            plain = self._decode.decode(data, EVENT_BYTES_MAX)
        except Undecodable as error:
            if self.rewrites:
                raise BadAnswer(f"The upstream's answer is not what its Content-Encoding says: {error}.") from None
            self._decode = None
            return data
        if not self._may_matter(plain) and self._splitter.skip(plain):
            self._dropped = False
            return plain if self.rewrites else data
        shown = [self._pass(raw, whole) for raw, whole in self._splitter.feed(plain)]
        return b"".join(shown) if self.rewrites else data

    def finish(self) -> bytes:
        shown = [self._pass(raw, whole) for raw, whole in self._splitter.flush()]
        return b"".join(shown) if self.rewrites else b""

    def reading(self) -> Reading:
        return _reading(self._usage, self._model, self._failed)

    def _may_matter(self, data: bytes) -> bool:
        """Whether `data` must be looked into. Most events of a long stream hold text and nothing else."""
        return b'"usage"' in data or b"error" in data or b"[DONE]" in data or b'"response"' in data or not self._model

    def _pass(self, raw: bytes, whole: bool) -> bytes:
        if not whole:
            self._dropped = self._dropped and (raw, whole) == LATE_LF
            return b"" if self._dropped else raw
        self._dropped = False
        if not self._may_matter(raw):
            return raw
        if self._model and (null := _only_null_usage(raw)):
            return raw[: null.start()] + raw[null.end() :] if self.rewrites else raw
        if b"error" in raw and _ERROR_LINE.search(raw):
            self._failed = True
        data = data_of(raw)
        event = _object(data)
        if event is None:
            self.last_event_seen = self.last_event_seen or data.strip() == DONE
            return raw
        self._note(event)
        return self._shown(raw, event) if self.rewrites else raw

    def _note(self, event: dict[str, Any]) -> None:
        self._usage = usage_shapes.read(event) or self._usage
        self._model = self._model or _model(event)
        self._failed = self._failed or _has_failed(event)
        if event.get("type") in _LAST_EVENTS:
            self.last_event_seen = True

    def _shown(self, raw: bytes, event: dict[str, Any]) -> bytes:
        """The event as a client sees it that did not ask for usage. Content is never dropped, nothing rewritten."""
        usage = event.get("usage", False)
        if usage is None:
            return _without_null_usage(raw)
        if isinstance(usage, dict) and not event.get("choices", True) and not event.get("error"):
            self._dropped = True
            return b""
        return raw


def _only_null_usage(raw: bytes) -> re.Match[bytes] | None:
    """A top-level `"usage":null` that is all that matters in an event.

    Found without parsing, because a stream that we made to report its usage has it in every chunk but the last.
    """
    at = raw.find(b'"usage"')
    if raw.find(b'"usage"', at + 1) >= 0 or b"error" in raw or b'"response"' in raw:
        return None
    if not raw.startswith(b"data:") or raw.find(b"\n", 0, at) >= 0 or raw.find(b"\r", 0, at) >= 0:
        return None  # it stands in a later line, perhaps a comment
    return _NULL_USAGE_LAST.match(raw, raw.rfind(b",", 0, at))


def _without_null_usage(raw: bytes) -> bytes:
    """An event, known to have it, without its top-level `"usage":null`."""
    # The mask has the event's length, so that what is found in the data is found in the event.
    data = _NOT_DATA.sub(lambda other: b" " * len(other[0]), raw)
    found_at = [*members(data)]
    at = max(at for at, member in enumerate(found_at) if member.name == "usage")
    if at > 0:
        return raw[: found_at[at - 1].end] + raw[found_at[at].end :]
    end = found_at[1].start if len(found_at) > 1 else found_at[0].end
    return raw[: found_at[0].start] + raw[end:]


def _object(data: bytes) -> dict[str, Any] | None:
    """The JSON object that `data` is, if it is one.

    Answers hold what strict JSON forbids: half an emoji as a lone surrogate, half a character of UTF-8, -Infinity for
    a logprob. Clients read them, so they are metered.
    """
    try:
        parsed = orjson.loads(data)
    except orjson.JSONDecodeError:
        if not data.lstrip().startswith(b"{"):
            return None
        try:
            parsed = json.loads(data.decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
    return parsed if isinstance(parsed, dict) else None


def _reading(usage: tuple[Usage, str] | None, model: str, failed: bool) -> Reading:
    if usage is None:
        return Reading(model=model, failed=failed)
    return Reading(usage[0], UsageSource.REPORTED, model, failed, usage[1])


def _model(answer: dict[str, Any]) -> str:
    inner = answer.get("response")
    model = answer.get("model") or (inner.get("model") if isinstance(inner, dict) else None)
    return model[:_MODEL_CHARS_MAX] if isinstance(model, str) else ""


def _has_failed(answer: dict[str, Any]) -> bool:
    return bool(answer.get("error")) or answer.get("type") in _FAILED_EVENTS
