from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.attachments import audio_tokens, document_tokens, encrypted_tokens, image_tokens, plain_text, url_of


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height) + b"rest"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"rest"


def jpeg(width: int, height: int) -> bytes:
    preview = b"\xff\xe1" + struct.pack(">H", 40_002) + bytes(40_000)
    table = b"\xff\xc4\x00\x04\x01\x02\xff"
    return b"\xff\xd8" + preview + table + b"\xff\xc2\x00\x11\x08" + struct.pack(">HH", height, width) + b"rest"


def webp_extended(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0" + size


def webp_lossless(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")


def webp_lossy(width: int, height: int) -> bytes:
    return b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


FORMATS = [png, gif, jpeg, webp_extended, webp_lossless, webp_lossy]


@pytest.mark.parametrize("made", FORMATS)
def test_the_size_is_read_from_the_head_of_every_format(made: object) -> None:
    assert callable(made)
    assert image_tokens(data_url(made(2048, 4096)), None, "gpt-4o") == 1105
    assert image_tokens(data_url(made(1024, 1024)), None, "gpt-4o") == 765
    assert image_tokens(data_url(made(128, 64)), "high", "gpt-4o") == 255


@pytest.mark.parametrize(
    ("model", "width", "height", "low", "high"),
    [
        # The guide's own examples.
        ("gpt-4o", 1024, 1024, 85, 765),
        ("gpt-4o", 2048, 4096, 85, 1105),
        ("gpt-4o-mini", 1024, 1024, 2833, 25501),
        ("o1", 1024, 1024, 75, 675),
        ("gpt-5", 1024, 1024, 70, 630),
        ("gpt-4.1-mini", 1024, 1024, 1659, 1659),
        ("gpt-4.1-mini", 1800, 2400, 2353, 2353),  # 1452 patches
        ("an-unknown-model", 1024, 1024, 85, 765),
        # An image of no height, and of one patch in one direction.
        ("gpt-4o", 1, 1, 85, 255),
        ("gpt-5-nano", 100_000, 1, 3779, 3779),
    ],
)
def test_an_image_counts_as_published(model: str, width: int, height: int, low: int, high: int) -> None:
    url = data_url(png(width, height))
    assert image_tokens(url, "low", model) == low
    assert image_tokens(url, "high", model) == image_tokens(url, "auto", model) == high


@pytest.mark.parametrize(
    "url", ["https://example.com/a.png", "", "data:image/png;base64,AAAA", "data:image/png,x", data_url(png(0, 5))]
)
def test_an_image_of_unknown_size_counts_as_the_guides_example(url: str) -> None:
    assert image_tokens(url, None, "gpt-4o") == 765


@given(st.sampled_from(FORMATS), st.integers(0, 60), st.text(), st.sampled_from(["gpt-4o", "gpt-5-nano"]))
def test_no_image_raises(made: object, cut: int, text: str, model: str) -> None:
    assert callable(made)
    for url in (data_url(made(1000, 900)[:cut]), f"data:{text};base64,{text}", f"data:image/png;base64,{text}", text):
        assert image_tokens(url, text, model) > 0


def test_audio_counts_ten_tokens_a_second() -> None:
    head = b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 24_000, 48_000, 2, 16)
    assert audio_tokens(base64.b64encode(head + bytes(48_000 * 3 - len(head))).decode()) == 30
    assert audio_tokens(base64.b64encode(bytes(16_000)).decode()) == 11  # taken for MP3 of 128 kbit/s
    assert audio_tokens("") == 0


def test_a_document_counts_its_pages_and_a_text_its_text() -> None:
    assert document_tokens("https://example.com/a.pdf") == document_tokens("") == 765
    assert document_tokens(data_url(bytes(120_000), "application/pdf")) == 3 * 765
    assert document_tokens(base64.b64encode(bytes(10**8)).decode()) == 100 * 765
    assert plain_text(data_url("é text".encode(), "text/plain; charset=utf-8")) == "é text"
    assert plain_text("data:text/plain,hello") == "hello"
    assert plain_text(data_url(b"%PDF", "application/pdf")) is None
    assert plain_text("https://example.com/a.txt") is None


def test_encrypted_reasoning_counts_by_its_length() -> None:
    assert encrypted_tokens("gAAAAA" + "x" * 2994) == round(2000 / 6.2)
    assert encrypted_tokens("gAAAAA") == encrypted_tokens("") == encrypted_tokens(None) == encrypted_tokens(["a"]) == 0
    assert encrypted_tokens("rsn_" + "x" * 768) == 10
    assert encrypted_tokens("x" * 620) == 100


def test_a_url_is_found_in_both_spellings() -> None:
    assert url_of("u") == url_of({"url": "u"}) == "u"
    assert url_of(None) == url_of({}) == url_of({"url": 5}) == url_of(["u"]) == ""
