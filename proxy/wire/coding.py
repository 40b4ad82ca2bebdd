"""Content codings of answers, undone step by step so that the meter can read them."""

from __future__ import annotations

import zlib
from typing import Protocol

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_BARE = -zlib.MAX_WBITS
_GZIP_MAGIC = 0x1F  # the first byte of every member


class Undecodable(ValueError):
    """The bytes are not what `Content-Encoding` says, or hold more than anyone would send in good faith."""


class Decoder(Protocol):
    def decode(self, data: bytes, bytes_max: int) -> bytes:
        """The plain bytes for the next coded ones. Raises `Undecodable`, also if these unfold to over `bytes_max`."""


class Identity:
    def decode(self, data: bytes, bytes_max: int) -> bytes:
        return data


_IDENTITY = Identity()


class Inflate:
    """`gzip` (also several members in a row) and `deflate` (zlib's format, and the bare one that some servers send).

    What follows a stream's end and does not begin another one is padding, as `gzip` and browsers take it. That a
    stream breaks off is not noticed here.
    """

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._head = b""
        self._stream = zlib.decompressobj(_GZIP) if gzip else None

    def decode(self, data: bytes, bytes_max: int) -> bytes:
        if self._stream is None:
            data = self._head = self._head + data
            if len(data) < 2:
                return b""
            self._stream = zlib.decompressobj(_ZLIB if _is_zlib(data) else _BARE)
        plain = b""
        while data:
            if self._stream.eof:
                if not (self._gzip and data[0] == _GZIP_MAGIC):
                    break
                self._stream = zlib.decompressobj(_GZIP)
            try:
                plain += self._stream.decompress(data, bytes_max + 1 - len(plain))
            except zlib.error as error:
                raise Undecodable(str(error)) from None
            if len(plain) > bytes_max:
                raise Undecodable(f"it holds more than {bytes_max} bytes at once")
            data = self._stream.unused_data
        return plain


#: Names that stand for no coding, or are none: `none` keeps what is in between from compressing a stream.
_NO_CODINGS = {b"", b"identity", b"none", b"utf-8", b"utf8"}


def decoder(content_encoding: bytes | None) -> Decoder | None:
    """The decoder for a `Content-Encoding`, or None where it is one that this proxy never offered to read."""
    if content_encoding is None:
        return _IDENTITY
    names = {name.strip() for name in content_encoding.lower().split(b",")} - _NO_CODINGS
    match [*names]:
        case []:
            return _IDENTITY
        case [b"gzip" | b"x-gzip"] if content_encoding.lower().count(b"gzip") == 1:
            return Inflate(gzip=True)
        case [b"deflate"] if content_encoding.lower().count(b"deflate") == 1:
            return Inflate(gzip=False)
    return None


def _is_zlib(head: bytes) -> bool:
    """Whether these bytes begin zlib's format (RFC 1950, section 2.2) rather than a bare deflate stream."""
    return head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0
