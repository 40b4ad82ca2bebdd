from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.coding import Identity, Inflate, Undecodable, decoder

BOUND = 1_000_000


def bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


CODINGS: dict[str, tuple[bytes | None, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "x-gzip": (b" X-GZip ", gzip.compress),
    "gzip members": (b"gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "gzip, padded": (b"gzip", lambda data: gzip.compress(data) + b"\0" * 9),
    "zlib": (b"deflate", zlib.compress),
    "zlib, padded": (b"deflate", lambda data: zlib.compress(data) + b"\x1f\n"),
    "bare deflate": (b"deflate", bare_deflate),
    "identity": (b"identity", bytes),
    "none": (None, bytes),
    "empty": (b"", bytes),
}


@pytest.mark.parametrize("coding", CODINGS)
@given(data=st.binary(max_size=300), places=st.lists(st.integers(0, 400)))
def test_any_cut_gives_the_plain_bytes(coding: str, data: bytes, places: list[int]) -> None:
    name, encode = CODINGS[coding]
    coded = encode(data)
    decode = decoder(name)
    assert decode is not None
    cuts = pairwise([0, *sorted(min(place, len(coded)) for place in places), len(coded)])
    assert b"".join(decode.decode(coded[start:end], BOUND) for start, end in cuts) == data


@pytest.mark.parametrize("coding", CODINGS)
def test_one_byte_at_a_time_gives_the_plain_bytes(coding: str) -> None:
    name, encode = CODINGS[coding]
    decode = decoder(name)
    assert decode is not None
    plain = b'data: {"usage":null}\n\n' * 20
    assert b"".join(decode.decode(bytes([byte]), BOUND) for byte in encode(plain)) == plain


@pytest.mark.parametrize("name", [b"none", b" Identity ", b"UTF-8", b"identity, none", b""])
def test_what_is_no_coding_leaves_the_bytes(name: bytes) -> None:
    decode = decoder(name)
    assert decode is not None
    assert decode.decode(b"as it is", 100) == b"as it is"


def test_what_is_no_coding_does_not_hide_the_one_that_is() -> None:
    decode = decoder(b"identity, GZip")
    assert decode is not None
    assert decode.decode(gzip.compress(b"plain"), 100) == b"plain"


@pytest.mark.parametrize("name", [b"br", b"zstd", b"compress", b"gzip, br", b"aes128gcm", b"gzip, gzip"])
def test_a_coding_that_was_never_offered_has_no_decoder(name: bytes) -> None:
    assert decoder(name) is None


@pytest.mark.parametrize("name", [b"gzip", b"deflate"])
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_are_decoded_or_undecodable(name: bytes, data: bytes) -> None:
    decode = decoder(name)
    assert decode is not None
    with suppress(Undecodable):
        assert isinstance(decode.decode(data, BOUND), bytes)


def test_a_wrong_checksum_is_undecodable() -> None:
    coded = bytearray(gzip.compress(b"text"))
    coded[-5] ^= 1
    with pytest.raises(Undecodable):
        Inflate(gzip=True).decode(bytes(coded), BOUND)


def test_a_stream_that_breaks_off_gives_what_came() -> None:
    plain = bytes(range(256)) * 400
    coded = gzip.compress(plain)
    shown = Inflate(gzip=True).decode(coded[: len(coded) // 2], BOUND)
    assert shown
    assert plain.startswith(shown)


@pytest.mark.parametrize("gzip_coded", [True, False])
def test_a_bomb_is_undecodable_before_it_fills_the_memory(gzip_coded: bool) -> None:
    bomb = gzip.compress(bytes(50_000_000)) if gzip_coded else zlib.compress(bytes(50_000_000))
    with pytest.raises(Undecodable, match="more than 1000 bytes"):
        Inflate(gzip=gzip_coded).decode(bomb, 1000)


def test_exactly_the_bound_is_decoded() -> None:
    assert Inflate(gzip=True).decode(gzip.compress(bytes(1000)), 1000) == bytes(1000)
    members = gzip.compress(bytes(600)) + gzip.compress(bytes(401))
    with pytest.raises(Undecodable):
        Inflate(gzip=True).decode(members, 1000)


def test_plain_bytes_are_not_copied() -> None:
    data = bytes(2000)
    assert Identity().decode(data, 1000) is data
