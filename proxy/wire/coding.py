"""Content codings of answers, undone step by step so that the meter can read them."""

from __future__ import annotations

import zlib
from typing import Protocol


class Undecodable(ValueError):
    """The bytes are not what `Content-Encoding` says."""


class Decoder(Protocol):
    def decode(self, data: bytes) -> bytes:
        """The plain bytes for the next coded ones. Raises `Undecodable`."""


class Identity:
    def decode(self, data: bytes) -> bytes:
        return data


class Inflate:
    """`gzip` (also several members in a row) and `deflate` (zlib's format, and the bare one that some servers send)."""

    def __init__(self, *, gzip: bool) -> None:
        self._wbits = 16 + zlib.MAX_WBITS if gzip else zlib.MAX_WBITS
        self._stream = zlib.decompressobj(self._wbits)
        self._begun = False

    def decode(self, data: bytes) -> bytes:
        out = []
        while data:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._wbits)
            try:
                out.append(self._stream.decompress(data))
            except zlib.error as error:
                if self._begun or self._wbits != zlib.MAX_WBITS:
                    raise Undecodable(str(error)) from None
                self._wbits = -zlib.MAX_WBITS
                self._stream = zlib.decompressobj(self._wbits)
                continue
            self._begun = True
            data = self._stream.unused_data
        return b"".join(out)


def decoder(content_encoding: bytes | None) -> Decoder | None:
    """The decoder for a `Content-Encoding`, or None where it is one that this proxy never offered to read."""
    match (content_encoding or b"identity").strip().lower():
        case b"identity" | b"":
            return Identity()
        case b"gzip" | b"x-gzip":
            return Inflate(gzip=True)
        case b"deflate":
            return Inflate(gzip=False)
    return None
