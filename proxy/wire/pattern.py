"""What the events of one stream have in common, so that those which differ in their texts alone need not be parsed.

Nearly all events of a stream say the same, in hundreds of bytes around a few new letters. Where one was parsed, and
adds one text and nothing else, an event that has the same bytes but in a few known places is that event with another
text: JSON leaves no other reading, as long as nothing in these places ends a string, begins an escape, or cannot be
printed.
"""

from __future__ import annotations

import re

_DIGITS = rb"[1-9][0-9]{0,14}"
#: Members whose values change from event to event: texts, and what has no meaning here (numbers and instants, and the
#: padding that hides how long a text is, OpenAI's and Mistral's).
_CHANGING = re.compile(
    rb'"(?:content|delta|text|reasoning_content|reasoning|obfuscation|p)": ?"([^"\\]+)"'
    rb'|"(?:sequence_number|created|created_at|timestamp)": ?(%b)(?=[,}])' % _DIGITS
)
#: A text that no event has.
PROBE = "(tollgate's own text)"
_NUMBER = re.compile(_DIGITS)
#: A longer event is parsed.
_EVENT_BYTES_MAX = 16 * 1024


class Pattern:
    """An event, as what others may be alike."""

    __slots__ = ("_begin", "_numbers", "_rest", "_shown", "_text_at", "probe")

    def __init__(self, event: bytes, text: str, shown: bytes) -> None:
        """`text` is all that the event adds, `shown` what the client sees of it.

        Raises `ValueError` where it cannot be told which of its bytes are the text, or are shown.
        """
        (self._begin, *rest), values, self._numbers = _parted(event)
        # What follows each place that changes, and the byte that ends what stands there.
        self._rest = [(part, part[:1]) for part in rest]
        shown_parts, shown_values, _ = _parted(shown)
        # With room for the values, every second one; None: all of an event is shown.
        self._shown = None if shown == event else [piece for part in shown_parts for piece in (part, b"")][:-1]
        self._text_at = values.index(text.encode())
        if values.count(text.encode()) > 1 or shown_values != values or len(event) > _EVENT_BYTES_MAX:
            raise ValueError("no pattern for others")
        if not b" ".join(values).decode().isprintable():
            raise ValueError("a value that spans lines, or is none")
        values[self._text_at] = PROBE.encode()
        #: The event with `PROBE` for its text: whoever parses that knows whether the place is right.
        self.probe = b"".join([self._begin, *(piece for pair in zip(values, rest, strict=True) for piece in pair)])

    def read(self, event: bytes) -> tuple[str, bytes] | None:
        """The text that an event adds which is alike, and what the client sees of it. None for any other."""
        if not event.startswith(self._begin) or len(event) > _EVENT_BYTES_MAX:
            return None
        at = len(self._begin)
        values = []
        for part, ends in self._rest:
            end = event.find(ends, at)
            if end <= at or not event.startswith(part, end):
                return None
            values.append(event[at:end])
            at = end + len(part)
        if at != len(event):
            return None
        for number_at in self._numbers:
            if not _NUMBER.fullmatch(values[number_at]):
                return None
        try:
            text = values[self._text_at].decode()
            changed = text if len(values) == 1 else b" ".join(values).decode()
        except UnicodeDecodeError:
            return None
        if "\\" in changed or not changed.isprintable():
            return None
        if self._shown is None:
            return text, event
        shown = self._shown.copy()
        shown[1::2] = values
        return text, b"".join(shown)


def _parted(event: bytes) -> tuple[list[bytes], list[bytes], list[int]]:
    """An event's parts that stay, what stands between them, and which of that are numbers."""
    parts: list[bytes] = []
    values: list[bytes] = []
    numbers: list[int] = []
    at = 0
    for found in _CHANGING.finditer(event):
        if found.lastindex == 2:
            numbers.append(len(values))
        start, end = found.span(found.lastindex or 0)
        parts.append(event[at:start])
        values.append(event[start:end])
        at = end
    parts.append(event[at:])
    return parts, values, numbers
