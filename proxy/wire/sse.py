"""Server-sent events, cut anywhere (WHATWG HTML, section 9.2): any split of the bytes gives the same events."""

from __future__ import annotations

import re
from typing import TypeAlias

#: A run of the stream's bytes, and whether it is a whole event. The runs joined are the stream.
#:
#: A whole event includes the blank line that ends it. What is not whole is passed on but never interpreted: part of
#: an event that outgrew the bound, or the LF that arrives after the CR that had already ended an event.
#: (A bare tuple: making a named one costs more than finding the event.)
Piece: TypeAlias = tuple[bytes, bool]

#: A blank line: two line ends in a row. A CR that an LF follows is one line end with it, not one by itself.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
#: What may stand before a blank line's last byte, and so has to be looked at again with the next bytes.
_BLANK_LINE_BEGUN_MAX = 3
_BOM = b"\xef\xbb\xbf"

DONE = b"[DONE]"
LATE_LF: Piece = (b"\n", False)


class Splitter:
    """Cuts a stream into events. Holds back one unfinished event: `event_bytes_max` bytes and the line ends after it.

    A longer event goes through in parts, none of them whole, wherever the stream is cut.
    """

    __slots__ = ("_event_bytes_max", "_held", "_oversize", "_owes_lf")

    def __init__(self, event_bytes_max: int) -> None:
        self._held = bytearray()
        self._event_bytes_max = event_bytes_max
        self._oversize = False
        self._owes_lf = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` completes."""
        held = self._held or self._owes_lf
        if not held and b"\r" not in data and 1 < data.find(b"\n\n") + 2 == len(data) <= self._event_bytes_max:
            return [(data, True)]  # one event by itself, as most upstreams send them
        pieces: list[Piece] = []
        if not data:
            return pieces
        if self._owes_lf:
            self._owes_lf = False
            if data[0] == 0x0A:
                pieces.append(LATE_LF)
                data = data[1:]
        searched = 0
        if self._held:
            searched = max(0, len(self._held) - _BLANK_LINE_BEGUN_MAX)
            self._held += data
            if _blank_line(self._held, searched, b"\r" not in self._held[searched:])[0] < 0:
                self._pass_oversize(pieces)
                return pieces
            data, self._held = bytes(self._held), bytearray()
        lf_only = b"\r" not in data
        start = 0
        while (blank := _blank_line(data, searched, lf_only))[0] >= 0:
            whole = not self._oversize and blank[0] - start <= self._event_bytes_max
            pieces.append((data[start : blank[1]], whole))
            self._oversize = False
            start = searched = blank[1]
        if start < len(data):
            self._held += data[start:]
            self._pass_oversize(pieces)
        else:
            self._owes_lf = data.endswith(b"\r")
        return pieces

    def flush(self) -> list[Piece]:
        """What is left at the end of the stream: a last event without its blank line counts as one."""
        rest, self._held = bytes(self._held), bytearray()
        return [(rest, not self._oversize)] if rest else []

    def _pass_oversize(self, pieces: list[Piece]) -> None:
        if len(self._held) > self._event_bytes_max + _BLANK_LINE_BEGUN_MAX:
            self._oversize = True
            pieces.append((bytes(self._held[:-_BLANK_LINE_BEGUN_MAX]), False))
            del self._held[:-_BLANK_LINE_BEGUN_MAX]


def _blank_line(data: bytes | bytearray, offset: int, lf_only: bool) -> tuple[int, int]:
    """Where the first blank line from `offset` on begins (-1: nowhere) and ends."""
    if lf_only:
        at = data.find(b"\n\n", offset)
        return at, at + 2
    found = _BLANK_LINE.search(data, offset)
    return found.span() if found else (-1, -1)


def data_of(event: bytes) -> bytes:
    """The data of one event: its `data` lines joined by LF; empty for comments and events without data.

    A byte order mark, which may begin a stream, is stepped over.
    """
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = event.removeprefix(_BOM).splitlines()
    return b"\n".join([line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:") or line == b"data"])
