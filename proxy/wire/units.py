"""What is charged by other units than tokens: images made, audio heard, characters spoken."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from proxy.model import NO_UNITS, Units
from proxy.wire.endpoints import Counts, Endpoint

#: A year; above it a duration is noise.
_SECONDS_MAX = 366 * 86400
#: Longer than any number of seconds is written.
_DIGITS_MAX = 40

#: One event for each finished image; those of partial images (`….partial_image`) are previews, which are free of
#: charge or within the image's tokens. Ark and MiniMax write one event per image, and `….completed` to sum them up.
_IMAGE_EVENTS = frozenset({"image_generation.completed", "image_edit.completed"})
_ONE_OF_SEVERAL = frozenset({"image_generation.partial_succeeded", "image_edit.partial_succeeded"})

#: The events that end the streams of images and audio. A stream of n images has n of `….completed`: see `Tally.ended`.
LAST_EVENTS = _IMAGE_EVENTS | {"transcript.text.done", "speech.audio.done"}


def units_of(endpoint: Endpoint, request: Mapping[str, Any], answer: Mapping[str, Any] | None) -> Units:
    """The units of one answer, or of one event of a stream.

    `request` is the JSON body's object or the form's fields; `answer` is None where the answer is no JSON object (a
    picture, an MP3 file, subtitles). Only for answers that succeeded: a refused request has no units. Images are
    those that came, never those that were asked for. Speech is charged by what was to be spoken.
    """
    match endpoint.counts:
        case Counts.IMAGES:
            return Units(images=_images(answer or {}))
        case Counts.AUDIO:
            return Units(audio_ms=_audio_ms(answer or {}))
        case Counts.CHARACTERS:
            text = request.get("input")
            return Units(characters=len(text)) if isinstance(text, str) else NO_UNITS
    return NO_UNITS


def units_asked(endpoint: Endpoint, request: Mapping[str, Any]) -> Units:
    """The units of a request before it is answered, as far as they are known: how long a recording is, is not."""
    if endpoint.counts is Counts.IMAGES:
        return Units(images=_images_asked(request))
    return units_of(endpoint, request, None)


class Tally:
    """The units of a stream, summed over its events."""

    __slots__ = ("_endpoint", "_images_asked", "_summed_up", "ended", "units")

    def __init__(self, endpoint: Endpoint, request: Mapping[str, Any]) -> None:
        self._endpoint = endpoint
        self._images_asked = _images_asked(request)
        self._summed_up = False
        self.units = units_of(endpoint, request, None)  #: so far
        self.ended = False  #: the last event has been seen

    def note(self, event: Mapping[str, Any]) -> None:
        """Take one event into account."""
        kind = event.get("type")
        if not isinstance(kind, str):
            return
        self._summed_up = self._summed_up or kind in _ONE_OF_SEVERAL
        summary = self._summed_up and kind in _IMAGE_EVENTS
        if self._endpoint.counts is Counts.IMAGES and not summary:
            self.units += units_of(self._endpoint, {}, event)
        elif self._endpoint.counts is Counts.AUDIO and kind in LAST_EVENTS:
            self.units = units_of(self._endpoint, {}, event)
        if kind in LAST_EVENTS:
            self.ended = kind not in _IMAGE_EVENTS or summary or self.units.images >= self._images_asked


def _images(answer: Mapping[str, Any]) -> int:
    kind = answer.get("type")
    if isinstance(kind, str):
        return int(kind in _IMAGE_EVENTS or kind in _ONE_OF_SEVERAL)
    images = answer.get("data")
    return sum(isinstance(image, dict) for image in images) if isinstance(images, list) else 0


def _images_asked(request: Mapping[str, Any]) -> int:
    asked = request.get("n")
    if isinstance(asked, str) and asked.isascii() and asked.isdigit() and len(asked) < _DIGITS_MAX:
        asked = int(asked)
    return asked if isinstance(asked, int) and asked > 0 else 1


def _audio_ms(answer: Mapping[str, Any]) -> int:
    """What the upstream charges for stands before what the file is long: 36.71 s are charged as 37 (OpenAI)."""
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    for value in (usage.get("seconds"), usage.get("prompt_audio_seconds"), answer.get("duration")):
        if milliseconds := _milliseconds(value):
            return milliseconds
    return 0


def _milliseconds(seconds: object) -> int:
    """Seconds, as a number or as its text, in whole milliseconds; 0 where they are nothing of the kind."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | str):
        return 0
    if isinstance(seconds, int):
        return seconds * 1000 if 0 < seconds <= _SECONDS_MAX else 0
    text = str(seconds)
    try:
        exact = Decimal(text) if len(text) <= _DIGITS_MAX else Decimal(0)
    except InvalidOperation:
        return 0
    # (Comparing NaN raises, and an exponent of 999999999 would be a number that fills the memory.)
    if not exact.is_finite() or not 0 < exact <= _SECONDS_MAX:
        return 0
    return int((exact * 1000).to_integral_value(ROUND_HALF_UP))
