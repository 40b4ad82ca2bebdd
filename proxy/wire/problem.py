"""What a metering engine says where an answer is no success: its problem report, and when to come back."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

import orjson

#: Seconds of a Retry-After that are honoured.
RETRY_AFTER_MAX_S = 600.0

_INVALID_MAX = 10  # invalid parameters that are spelled out
_INVALID_KEYS = ("field", "rule", "reason")
_VALIDATION_KEYS = ("field", "code", "message")
_SECONDS_PATTERN = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def problem(answer: bytes) -> str:
    """A problem report (RFC 9457) in one line, or nothing if it is none. OpenMeter has two shapes of them."""
    try:
        report = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(report, dict):
        return ""
    extensions = report.get("extensions")
    invalid = [
        *_entries(report.get("invalid_parameters"), _INVALID_KEYS),
        *_entries(extensions.get("validationErrors") if isinstance(extensions, dict) else None, _VALIDATION_KEYS),
    ]
    lead = report.get("detail") or report.get("title")
    return "; ".join([lead, *invalid] if isinstance(lead, str) else invalid)


def readable(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def retry_after_s(value: str, now_s: float) -> float | None:
    """Seconds from a Retry-After header, which is seconds or an HTTP date; None where it is neither."""
    value = value.strip()
    if _SECONDS_PATTERN.fullmatch(value):
        wait_s = float(value)
    else:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        wait_s = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s
    return min(max(wait_s, 0.0), RETRY_AFTER_MAX_S)


def ahead_s(value: str, now_s: float) -> float | None:
    """By how many seconds a Date header is ahead of now; None where it is none. It is cut to whole seconds."""
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now_s


def _entries(listed: object, keys: tuple[str, ...]) -> list[str]:
    if not isinstance(listed, list):
        return []
    entries = [entry for entry in listed[:_INVALID_MAX] if isinstance(entry, dict)]
    return [": ".join(str(entry[key]) for key in keys if entry.get(key)) for entry in entries]
