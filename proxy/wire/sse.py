"""Server-sent events, cut anywhere (WHATWG HTML, section 9.2): any split of the bytes gives the same events."""

from __future__ import annotations

import re
from typing import NamedTuple

#: A blank line: two line ends in a row. A CR that an LF follows is one line end with it, not one by itself.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_BOM = b"\xef\xbb\xbf"

DONE = b"[DONE]"


class Piece(NamedTuple):
    """A run of the stream's bytes. The pieces joined are the stream.

    A whole event includes the blank line that ends it. What is not whole is passed on but never interpreted: part of
    an event that outgrew the bound, or the LF that arrives after the CR that had already ended an event.
    """

    raw: bytes
    whole: bool


LATE_LF = Piece(b"\n", whole=False)


class Splitter:
    """Cuts a stream into events. Holds back at most one unfinished event of `event_bytes_max` bytes."""

    __slots__ = ("_buffer", "_event_bytes_max", "_oversize", "_owes_lf")

    def __init__(self, event_bytes_max: int) -> None:
        self._buffer = b""
        self._event_bytes_max = event_bytes_max
        self._oversize = False
        self._owes_lf = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        pieces: list[Piece] = []
        if self._owes_lf and data:
            self._owes_lf = False
            if data[0] == 0x0A:
                pieces.append(LATE_LF)
                data = data[1:]
        # A blank line is at most four bytes, so it begins no earlier than three before the new bytes.
        searched = max(0, len(self._buffer) - 3)
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while found := _BLANK_LINE.search(buffer, max(start, searched)):
            pieces.append(Piece(buffer[start : found.end()], whole=not self._oversize))
            self._oversize = False
            start = found.end()
        self._owes_lf = start > 0 and start == len(buffer) and buffer[-1] == 0x0D
        self._buffer = buffer[start:]
        if len(self._buffer) > self._event_bytes_max:
            self._oversize = True
            # The last three bytes may begin the blank line.
            pieces.append(Piece(self._buffer[:-3], whole=False))
            self._buffer = self._buffer[-3:]
        return pieces

    def flush(self) -> list[Piece]:
        """What is left at the end of the stream: a last event without its blank line counts as one."""
        rest, self._buffer = self._buffer, b""
        return [Piece(rest, whole=not self._oversize)] if rest else []


def data_of(event: bytes) -> bytes:
    """The data of one event: its `data:` lines joined by LF; empty for comments and events without data."""
    if event.startswith(b"data:") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2:
        return event[5:-2].lstrip(b" ")
    lines = event.removeprefix(_BOM).splitlines()
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
