"""What the meter has read of an answer, and how it is put together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.model import NO_UNITS, NO_USAGE, Units, Usage, UsageSource, frozen
from proxy.wire.endpoints import Counts, Endpoint

_NAME_CHARS_MAX = 256
_FAILED_EVENTS = ("response.failed", "error")


@frozen
class Reading:
    """What an answer said. `failed`: it carried an error, whatever its status."""

    usage: Usage = NO_USAGE
    usage_source: UsageSource = UsageSource.NONE
    model: str = ""
    failed: bool = False
    usage_path: str = ""  #: where in the answer the usage stood
    units: Units = NO_UNITS
    understood: bool = False  #: at least a part of it was read
    response_id: str = ""  #: the upstream's own
    service_tier: str = ""  #: at which it was served, where the upstream has several
    deferred: bool = False  #: the response is generated in the background; its usage becomes known later


NOTHING_READ = Reading()


def reading_of(usage: tuple[Usage, str] | None, model: str, response_id: str, tier: str, *, failed: bool) -> Reading:
    known, path = usage or (NO_USAGE, "")
    source = UsageSource.NONE if usage is None else UsageSource.REPORTED
    return Reading(known, source, model, failed, path, NO_UNITS, True, response_id, tier)


def with_units(reading: Reading, units: Units, endpoint: Endpoint) -> Reading:
    """The reading with what is charged by other units, which are exact: so they too count as reported."""
    if endpoint.counts is Counts.CHARACTERS and reading.usage.text_output:  # what was spoken is no text
        spoken = reading.usage.text_output + reading.usage.audio_output
        reading = replace(reading, usage=replace(reading.usage, text_output=0, audio_output=spoken))
    if units is NO_UNITS or reading.failed or units == NO_UNITS:
        return reading
    if reading.usage_source is UsageSource.NONE:
        reading = replace(reading, usage_source=UsageSource.REPORTED, usage_path=str(endpoint.counts))
    return replace(reading, units=units)


def text_of(answer: dict[str, Any], name: str) -> str:
    """A member of an answer, or of the response that an event of the Responses API holds."""
    inner = answer.get("response")
    value = answer.get(name) or (inner.get(name) if isinstance(inner, dict) else None)
    if not isinstance(value, str):
        return ""
    value = value[:_NAME_CHARS_MAX]
    # Without lone surrogates, which neither a ledger nor a receiver takes.
    return value if value.isascii() else value.encode(errors="replace").decode()


def has_failed(answer: dict[str, Any]) -> bool:
    return bool(answer.get("error")) or answer.get("type") in _FAILED_EVENTS
