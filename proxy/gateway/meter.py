"""The meter stage: reads the usage out of a copy of the answer's bytes, and hides what the client did not ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from proxy.errors import BadAnswer
from proxy.gateway.reading import NOTHING_READ, Reading, has_failed, reading_of, text_of, with_units
from proxy.model import NO_USAGE, Usage
from proxy.wire import usage as usage_shapes
from proxy.wire.coding import Decoder, Identity, Undecodable, decoder
from proxy.wire.delivered import Delivered, Place, only_text
from proxy.wire.document import WEIGHED_FROM_BYTES, beginning, is_heavy, json_object
from proxy.wire.endpoints import CHAT_COMPLETIONS, Counts, Endpoint
from proxy.wire.members import outline
from proxy.wire.pattern import PROBE, Pattern
from proxy.wire.references import shown_by
from proxy.wire.sse import DONE, LATE_LF, Piece, Splitter, data_of
from proxy.wire.tiers import tier_of
from proxy.wire.unasked import tells_usage, without_null_usage
from proxy.wire.units import Tally, units_of

#: What the meter keeps of one answer at most; a larger one passes, unread.
BODY_BYTES_MAX = 64 * 1024 * 1024
#: What it keeps of one event, and what the coded bytes that come at once may unfold to.
EVENT_BYTES_MAX = 16 * 1024 * 1024

#: How an event stream begins that is not labelled as one (no JSON does), and where in the answer that must have shown.
_STREAM_BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
_BEGINNING_BYTES_MAX = 4096

#: The states of a background response that goes on.
_UNENDED = ("queued", "in_progress")
#: An id that can stand in a path as it is.
_ID = re.compile(r"[A-Za-z0-9_-]+")
#: Answers that are not JSON, whatever their bytes.
_BINARY = (b"audio/", b"image/", b"video/", b"application/octet-stream")

#: The events that end a stream of the Responses API, which has no [DONE].
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")

#: An error told by the event itself, not by its data: `event: error`, or a bare line `error: {…}`.
_ERROR_LINE = re.compile(rb"(?:\A|[\r\n])(?:event: ?error *(?:[\r\n]|\Z)|error:)")


_Shown = list[str] | None


class Meter(Protocol):
    """Sees an answer's bytes on their way to the client."""

    rewrites: bool  #: the client gets other bytes than the upstream sent: plain ones, of another length
    last_event_seen: bool  #: the stream has said its last word, although its end has not come yet

    @property
    def is_large(self) -> bool:
        """`reading` takes long: let a thread call it first."""

    def feed(self, data: bytes) -> bytes:
        """What goes to the client for these bytes of the upstream's."""

    def finish(self) -> bytes:
        """What still goes to the client at the end of the answer."""

    def reading(self) -> Reading:
        """What is known so far; complete once `finish` was called."""

    def delivered(self) -> Delivered:
        """The generated text that was seen so far, after `reading`."""


def meter_for(
    content_type: bytes | None,
    content_encoding: bytes | None,
    *,
    hides_usage: bool,
    endpoint: Endpoint = CHAT_COMPLETIONS,
    request: Mapping[str, Any] = MappingProxyType({}),
    shown: _Shown = None,
) -> Meter:
    """The meter for an answer with these headers, to a request (what its body says) to an endpoint.

    The ids that the answer shows (`references.shown_by`) are put into `shown`; those of a plain one by `reading`.
    """
    decode = decoder(content_encoding)
    if decode is None:
        return Blind()
    if is_stream(content_type):
        return StreamMeter(decode, endpoint, request, hides_usage=hides_usage, shown=shown)
    is_text = not (content_type or b"").strip().lower().startswith(_BINARY)
    return PlainMeter(decode, endpoint, request, is_text=is_text, shown=shown)


def is_stream(content_type: bytes | None) -> bool:
    """Whether an answer is labelled as server-sent events."""
    return (content_type or b"").strip().lower().startswith(b"text/event-stream")


class Blind:
    """Passes everything and reads nothing: an answer that cannot be read, or that is not metered."""

    rewrites = False
    last_event_seen = False
    is_large = False

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""

    def reading(self) -> Reading:
        return NOTHING_READ

    def delivered(self) -> Delivered:
        return Delivered()


class PlainMeter:
    """A JSON answer, read when it is whole. Also an event stream that is not labelled as one, read as it comes."""

    rewrites = False

    def __init__(
        self,
        decode: Decoder,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        *,
        is_text: bool = True,
        shown: _Shown = None,
    ) -> None:
        self.last_event_seen = False
        self._decode = decode
        self._endpoint = endpoint
        self._request = request
        self._ids_shown = shown
        self._begun = False
        self._stream: StreamMeter | None = None
        self._answer: dict[str, Any] | None = None
        self._copy: list[bytes] = []
        self._room = BODY_BYTES_MAX if is_text else -1
        self._reading: Reading | None = None

    @property
    def is_large(self) -> bool:
        if self._reading is not None or self._stream is not None:
            return False
        return 0 <= self._room < BODY_BYTES_MAX - WEIGHED_FROM_BYTES

    def feed(self, data: bytes) -> bytes:
        if self._room >= 0:
            try:
                plain = self._decode.decode(data, self._room)
            except Undecodable:
                self._room = -1
            else:
                self._keep(plain)
            if self._room < 0:
                self._copy.clear()
        return data

    def _keep(self, plain: bytes) -> None:
        if self._stream is not None:
            self._stream.feed(plain)
            self.last_event_seen = self._stream.last_event_seen
            return
        self._room -= len(plain)
        self._copy.append(plain)
        if self._begun or self._room < 0:
            return
        beginning = b"".join(self._copy)
        is_json = beginning.lstrip().startswith(b"{")
        self._begun = is_json or len(beginning) > _BEGINNING_BYTES_MAX
        if not is_json and _STREAM_BEGINS.match(beginning):
            self._stream = StreamMeter(
                Identity(), self._endpoint, self._request, hides_usage=False, shown=self._ids_shown
            )
            self._room = EVENT_BYTES_MAX
            self._copy.clear()
            self._keep(beginning)

    def finish(self) -> bytes:
        return b"" if self._stream is None else self._stream.finish()

    def reading(self) -> Reading:
        if self._stream is not None:
            return self._stream.reading()
        if self._reading is None:
            self._reading = self._read(b"".join(self._copy))
        return self._reading

    def _read(self, data: bytes) -> Reading:
        answer = self._parsed(data)
        self._answer = beginning(data) if answer is None else answer  # of one that breaks off, the text was delivered
        reading = NOTHING_READ
        if answer is not None:
            if self._ids_shown is not None:
                self._ids_shown += shown_by(answer)
            usage = usage_shapes.read(answer)
            names = text_of(answer, "model"), text_of(answer, "id"), tier_of(answer)
            reading = reading_of(usage, *names, failed=has_failed(answer))
            if usage is None and answer.get("background") is True and answer.get("status") in _UNENDED:
                reading = replace(reading, deferred=_ID.fullmatch(reading.response_id) is not None)
        return with_units(reading, units_of(self._endpoint, self._request, answer), self._endpoint)

    def _parsed(self, data: bytes) -> dict[str, Any] | None:
        """Of a heavy answer the outline, where that has all that is needed of it."""
        if self._ids_shown is None and self._endpoint.counts is Counts.TOKENS and is_heavy(data):
            answer = outline(data)
            if answer is not None and usage_shapes.read(answer) is not None:
                return answer
        return json_object(data)

    def delivered(self) -> Delivered:
        if self._stream is not None:
            return self._stream.delivered()
        delivered = Delivered()
        if self._answer is not None:
            delivered.add(self._answer)
        return delivered


class StreamMeter:
    """A stream of server-sent events. Of several usage objects the last counts: they are cumulative.

    An event that is like one before it but for its text (`Pattern`) is taken for that one with this text, unparsed.
    """

    is_large = False
    #: Whether it is enough to know of an event how it differs from one before it.
    _takes_alike = True

    def __init__(
        self,
        decode: Decoder,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        *,
        hides_usage: bool,
        shown: _Shown = None,
    ) -> None:
        self.rewrites = self._hides_usage = hides_usage
        self.last_event_seen = False
        self._decode: Decoder | None = decode
        self._is_plain = isinstance(decode, Identity)
        self._endpoint = endpoint
        self._tally = Tally(endpoint, request)
        self._delivered = Delivered()
        self._understood = False
        self._splitter = Splitter(EVENT_BYTES_MAX)
        self._dropped = False
        self._usage: tuple[Usage, str] | None = None
        self._model = ""
        self._response_id = ""
        self._tier: Mapping[str, Any] = {}  #: the last event that may name it
        self._failed = False
        self._ids_shown = shown
        #: The last event that others are told by, where its text goes, and itself if it names its tier.
        self._pattern: Pattern | None = None
        self._place: Place = 0, "", 0
        self._likeness: dict[str, Any] = {}
        self._is_strange = True  #: the event before was like no other

    def feed(self, data: bytes) -> bytes:
        if self._decode is None:
            return data
        plain = data
        if not self._is_plain:
            try:
                plain = self._decode.decode(data, EVENT_BYTES_MAX)
            except Undecodable as error:
                if self.rewrites:
                    raise BadAnswer(f"The upstream's answer is not what its Content-Encoding says: {error}.") from None
                self._decode = None
                return data
        shown = self._through(self._splitter.feed(plain))
        return b"".join(shown) if self.rewrites else data

    def finish(self) -> bytes:
        shown = self._through(self._splitter.flush())
        return b"".join(shown) if self.rewrites else b""

    def reading(self) -> Reading:
        if not self._understood:
            return Reading(failed=self._failed)
        tier = tier_of(self._tier) if self._tier else ""
        reading = reading_of(self._usage, self._model, self._response_id, tier, failed=self._failed)
        return with_units(reading, self._tally.units, self._endpoint)

    def delivered(self) -> Delivered:
        return self._delivered

    def _through(self, pieces: list[Piece]) -> list[bytes]:
        shown = []  # no comprehension, which is a call of its own up to Python 3.11
        for raw, whole in pieces:
            shown.append(self._pass(raw, whole))
        return shown

    def _pass(self, raw: bytes, whole: bool) -> bytes:
        if not whole:
            self._dropped = self._dropped and (raw, whole) == LATE_LF
            return b"" if self._dropped else raw
        self._dropped = False
        if (alike := self._alike(raw)) is not None:
            return alike
        if b"error" in raw and _ERROR_LINE.search(raw):
            self._failed = True
        data = data_of(raw)
        event = json_object(data)
        if event is None:
            self.last_event_seen = self.last_event_seen or data.strip() == DONE
            return raw
        self._note(event, raw)
        shown = self._shown(raw, event) if self._hides_usage else raw
        if self._is_strange and self._takes_alike:
            self._learn(raw, event, shown)
        self._is_strange = True
        return shown

    def _learn(self, raw: bytes, event: dict[str, Any], shown: bytes) -> None:
        """Tell other events by this one, if it adds a text and no more. That takes as long as to parse it."""
        added = only_text(event)
        if added is not None and not tells_usage(raw):
            place, text = added
            with suppress(ValueError):
                pattern = Pattern(raw, text, shown)
                if only_text(json_object(data_of(pattern.probe)) or {}) == (place, PROBE):
                    self._pattern = pattern
                    self._place = place
                    self._likeness = event if "service_tier" in event else {}

    def _alike(self, raw: bytes) -> bytes | None:
        """What the client sees of an event that is like the one before; None for any other."""
        if self._pattern is None or (alike := self._pattern.read(raw)) is None:
            return None
        text, shown = alike
        self._is_strange = False
        self._delivered.add_text(self._place, text)
        if self._likeness:
            self._tier = self._likeness
        return shown

    def _note(self, event: dict[str, Any], raw: bytes) -> None:
        self._understood = True
        if self._ids_shown is not None:
            self._ids_shown += shown_by(event)
        self._delivered.add(event)
        if tells_usage(raw):
            usage = usage_shapes.read(event)
            if usage is not None and (self._usage is None or usage[0] != NO_USAGE):  # some say nothing, at the end
                self._usage = usage
        if not self._model:
            self._model = text_of(event, "model")
        if not self._response_id:
            self._response_id = text_of(event, "id")
        if "service_tier" in event:
            self._tier = event
        if "error" in event or "type" in event:
            self._failed = self._failed or has_failed(event)
        if "type" in event:
            self._tally.note(event)
            if event["type"] in _LAST_EVENTS or self._tally.ended:
                self.last_event_seen = True
                self._tier = event if "response" in event else self._tier

    def _shown(self, raw: bytes, event: dict[str, Any]) -> bytes:
        """The event as a client sees it that did not ask for usage. Content is never dropped, nothing rewritten."""
        usage = event.get("usage", False)
        if usage is None:
            return without_null_usage(raw)
        if isinstance(usage, dict) and not event.get("choices", True) and not event.get("error"):
            self._dropped = True
            return b""
        return raw
