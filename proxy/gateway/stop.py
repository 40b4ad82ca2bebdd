"""The stop of a stream whose tenant has nothing left: between two events, with an end that its protocol knows.

While a stream goes on, what it has delivered is weighed. Where that is more than what is reserved for it, more is
reserved in the same limits; where nothing is left of them, the upstream's connection is closed, and the client gets
the end of an answer that has reached its token limit.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from proxy.errors import LedgerUnavailable
from proxy.gateway.admit import Hold
from proxy.gateway.call import Call
from proxy.gateway.meter import Meter, StreamMeter, is_stream, meter_for
from proxy.gateway.quotas import Quotas
from proxy.gateway.reading import Reading
from proxy.gateway.reservation import Reservation
from proxy.model import NO_USAGE, Limit, Usage, UsageSource
from proxy.wire.closing import Closing, closing_for
from proxy.wire.coding import Decoder, decoder
from proxy.wire.endpoints import Endpoint
from proxy.wire.gauge import Gauge
from proxy.wire.sse import Piece
from proxy.wire.tokens import Tokenizer, tokenizer_for

log = logging.getLogger(__name__)

#: What is reserved at once beyond what a stream has delivered, where so much is left.
STEP_TOKENS = 256

#: What a subject may use with a key; the same object until something changes. Raises `LedgerUnavailable`.
Limits = Callable[[str, str], Awaitable[tuple[Limit, ...]]]


class StoppableMeter(StreamMeter):
    """A stream that is held between two events where it has delivered more than it may without being asked about.

    What is held reaches the client by `resume`, or never. Only whole events are passed on, uncompressed.
    """

    _takes_alike = False  # its end is written in the words of the last event

    def __init__(
        self,
        decode: Decoder,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        closing: Closing,
        tokens: int,
        *,
        hides_usage: bool,
        shown: list[str] | None,
    ) -> None:
        super().__init__(decode, endpoint, request, hides_usage=hides_usage, shown=shown)
        self.rewrites = True
        self._delivered = self._gauge = Gauge()
        self._closing = closing
        self._held: deque[Piece] = deque()
        self._weight_max = tokens  # no text has more tokens than bytes
        self._weight_of_usage = 0
        self._dropped_rest = False

    @property
    def is_full(self) -> bool:
        """Whether it is held, and waits to be told (`allow`) how much more may pass before the next question."""
        return self._gauge.weight > self._weight_max and not self.last_event_seen

    def resume(self) -> bytes:
        """What goes to the client of that which was held."""
        return b"".join(self._through([]))

    def allow(self, tokens: int) -> None:
        self._weight_max = self._gauge.weight + tokens

    def drop(self) -> None:
        """What is held, and all that may follow, is not passed on any more."""
        self._dropped_rest = True
        self._held.clear()

    def delivered_at_most(self, model: str) -> int:
        """The output tokens so far: as reported where that is told as they come, else roughly, and rather too many."""
        reported = self._reported()
        return self._gauge.tokens_at_most(self._tokenizer(model)) if reported is None else reported

    def delivered_so_far(self, model: str) -> int:
        """The same as it would be billed, which takes time in proportion to all that was delivered."""
        reported = self._reported()
        if reported is not None:
            return reported
        return self._gauge.tokens(self._tokenizer(model), self._model or model).completion_tokens

    def reading(self) -> Reading:
        reading = super().reading()
        if not self._dropped_rest or self._usage is None or self._reported() is not None:
            return reading
        # It is of an earlier event, and what has come since is not in it.
        return replace(reading, usage=NO_USAGE, usage_source=UsageSource.NONE, usage_path="")

    def _tokenizer(self, model: str) -> Tokenizer:
        return tokenizer_for(self._model or model)

    def _reported(self) -> int | None:
        if self._usage is None or self._weight_of_usage != self._gauge.weight:
            return None
        return self._usage[0].completion_tokens

    def _through(self, pieces: list[Piece]) -> list[bytes]:
        self._held.extend(pieces)
        shown = []
        while self._held and not self.is_full:
            shown.append(self._pass(*self._held.popleft()))
        return shown

    def _note(self, event: dict[str, Any], raw: bytes) -> None:
        known = self._usage
        super()._note(event, raw)
        self._closing.note(event, len(raw))
        if self._usage is not known:
            self._weight_of_usage = self._gauge.weight
            self._weight_max = -1  # it may tell of hidden tokens: ask


class Stop:
    """Watches over one stream, and ends it where nothing is left for it."""

    def __init__(self, call: Call, reservation: Reservation, closing: Closing, quotas: Quotas, limits: Limits) -> None:
        self._call = call
        self._reservation = reservation
        self._closing = closing
        self._quotas = quotas
        self._limits = limits
        self._meter: StoppableMeter | None = None
        self._reserved = reservation.output
        self._allowed = reservation.stop_at or 0

    def meter_for(
        self,
        content_type: bytes | None,
        content_encoding: bytes | None,
        *,
        hides_usage: bool,
        endpoint: Endpoint,
        request: Mapping[str, Any],
        shown: list[str] | None,
    ) -> Meter:
        """As `meter.meter_for`. An answer that is no stream, or cannot be read, is never stopped."""
        decode = decoder(content_encoding)
        if decode is None or not is_stream(content_type):
            return meter_for(
                content_type,
                content_encoding,
                hides_usage=hides_usage,
                endpoint=endpoint,
                request=request,
                shown=shown,
            )
        self._meter = StoppableMeter(
            decode, endpoint, request, self._closing, self._allowed, hides_usage=hides_usage, shown=shown
        )
        return self._meter

    async def through(self, data: bytes) -> tuple[bytes, bool]:
        """What of the stream goes to the client after `data`, and whether it ends there."""
        meter = self._meter
        while meter is not None and meter.is_full:
            if not await self._goes_on(meter):
                meter.drop()
                return data, True
            data += meter.resume()
        return data, False

    def end(self, usage: Usage) -> bytes:
        """The events that end the stream, and why, as a comment."""
        why = f": stopped by tollgate, used up: {self._reservation.stopped_by}\n"
        return why.encode(errors="replace") + self._closing.events(usage)

    async def _goes_on(self, meter: StoppableMeter) -> bool:
        """Reserve more where that is needed. Whether the stream may go on."""
        if not self._closing.is_open:
            meter.allow(0)  # it is at its end, unless more text comes
            return True
        model = self._call.model
        tokens = meter.delivered_at_most(model)
        if tokens > self._allowed:
            await self._reserve(tokens - self._reserved + STEP_TOKENS)
        if tokens > self._allowed:
            tokens = meter.delivered_so_far(model)
        if tokens > self._allowed:
            return False
        meter.allow(self._allowed - tokens)
        return True

    async def _reserve(self, tokens: int) -> None:
        caller = self._call.caller
        try:
            # Anew: there may have been a top-up since the stream began.
            limits = await self._limits(caller.subject, caller.key_id)
            more = await self._quotas.more(self._reservation, limits, tokens)
        except (LedgerUnavailable, sqlite3.Error):
            # What is in flight when the ledger fails is served to its end.
            more = tokens
        self._reserved += more
        self._allowed = max(self._allowed, self._reserved)


class Stops:
    """Makes what watches over the streams of calls that have limits."""

    def __init__(self, quotas: Quotas, limits: Limits) -> None:
        self._quotas = quotas
        self._limits = limits

    def of(self, call: Call, hold: Hold) -> Stop | None:
        """None: the answer is not to be stopped."""
        reservation = hold.reservation
        if reservation is None or reservation.stop_at is None:
            return None
        closing = closing_for(call.rule.name, tells_usage=not call.hides_usage)
        return None if closing is None else Stop(call, reservation, closing, self._quotas, self._limits)
