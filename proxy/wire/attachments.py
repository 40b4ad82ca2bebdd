"""What images, audio and files in a request cost in tokens: by OpenAI's published rules, as far as the body tells.

Sources: the guides "Images and vision" (section "Calculating costs") and "Managing costs" (Realtime API), as published.
What they leave open is said with each assumption here.
"""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from typing import Any

#: Assumed of an image whose size the body does not tell (a link, an uploaded file): the guide's own example, which
#: with gpt-4o costs 765 tokens.
_SIZE_ASSUMED = (1024, 1024)

#: What a document counts whose text cannot be read here (PDF, office formats, links). Assumed: one page to 50 KB, each
#: as much as an image of the size assumed (a short page counted 740 in recordings of gpt-5-nano), 100 pages at most.
_PAGE_BYTES = 50_000
_PAGE_TOKENS = 765
_PAGES_MAX = 100

#: Audio in requests, as published: one token per 100 ms.
_AUDIO_TOKENS_PER_S = 10
#: Assumed of audio that is not WAV, whose header tells: 128 kbit/s, what MP3 encoders do unless told otherwise.
_AUDIO_BYTES_PER_S = 16_000

#: Encrypted reasoning, as the Responses API gives it and takes it back: so many characters to a token, and so many
#: beside the thoughts, by how it begins. Not published; fitted to recordings, with a median error of 13 % for OpenAI
#: and Azure (Fernet tokens; 43 answers, which report in steps of 64), 5 % for xAI (plain base64;
#: 48 answers); Bedrock (`rsn_`) had four.
_ENCRYPTED_CHARS_PER_TOKEN = 6.2
_ENCRYPTED_CHARS_BESIDE = (("gAAAA", 1000), ("rsn_", 710), ("", 0))

#: The part of an image's base64 in which its size is looked for. (A JPEG's stands after a preview of up to 64 KB.)
_HEAD_CHARS = 131_072

_DATA_URL = re.compile(r"data:([^,;]*)[^,]{0,200}?(;base64)?,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tiles:
    """The older rule: a base, and so much for each square of 512 pixels after scaling. `detail: low` is the base."""

    base: int
    tile: int


@dataclass(frozen=True, slots=True)
class Patches:
    """The newer rule: so much for each square of 32 pixels, 1536 of them at most, whatever the detail."""

    weight: float


_TILE_PX = 512
_TILED_LONG_PX = 2048
_TILED_SHORT_PX = 768
_PATCH_PX = 32
_PATCHES_MAX = 1536

#: As published, longest name first. All else counts as gpt-4o: also the models of others, whose rules are not known.
_IMAGE_RULES: tuple[tuple[str, Tiles | Patches], ...] = (
    ("gpt-4.1-mini", Patches(1.62)),
    ("gpt-4.1-nano", Patches(2.46)),
    ("gpt-5-mini", Patches(1.62)),
    ("gpt-5-nano", Patches(2.46)),
    ("o4-mini", Patches(1.72)),
    ("gpt-4o-mini", Tiles(2833, 5667)),
    ("computer-use", Tiles(65, 129)),
    ("gpt-5", Tiles(70, 140)),
    ("o1", Tiles(75, 150)),
    ("o3", Tiles(75, 150)),
)
_IMAGE_RULE_ELSE = Tiles(85, 170)


def image_tokens(url: str, detail: object, model: str) -> int:
    """The tokens of one image, given by a link or a `data:` URL. `auto` and no detail count as `high`."""
    rule = next((rule for name, rule in _IMAGE_RULES if model.startswith(name)), _IMAGE_RULE_ELSE)
    if isinstance(rule, Tiles) and detail == "low":
        return rule.base
    width, height = _size(url) or _SIZE_ASSUMED
    if isinstance(rule, Tiles):
        scale = min(1.0, _TILED_LONG_PX / max(width, height))
        scale = min(scale, _TILED_SHORT_PX / min(width, height))
        return rule.base + rule.tile * _squares(width * scale, height * scale, _TILE_PX)
    return math.ceil(rule.weight * _patches(width, height))


def audio_tokens(data: str) -> int:
    """The tokens of audio in base64."""
    size = len(data) * 3 // 4
    head = _decoded(data[:64])
    rate = _AUDIO_BYTES_PER_S
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and head[12:16] == b"fmt " and len(head) >= 32:
        rate = int.from_bytes(head[28:32], "little") or rate
    return math.ceil(size * _AUDIO_TOKENS_PER_S / rate)


def encrypted_tokens(content: object) -> int:
    """The tokens of a reasoning that is only there encrypted (`encrypted_content`), by its length."""
    if not isinstance(content, str):
        return 0
    beside = next(chars for start, chars in _ENCRYPTED_CHARS_BESIDE if content.startswith(start))
    return max(0, round((len(content) - beside) / _ENCRYPTED_CHARS_PER_TOKEN))


def document_tokens(data: str) -> int:
    """The tokens of a document that is no plain text, given by a link (one page) or by its base64."""
    size = len(data) * 3 // 4 if data.startswith("data:") or "://" not in data[:20] else 0
    return _PAGE_TOKENS * min(_PAGES_MAX, max(1, math.ceil(size / _PAGE_BYTES)))


def plain_text(data: str) -> str | None:
    """The text within a `data:` URL of a textual type; None for all else."""
    opening = _DATA_URL.match(data)
    if opening is None or not opening[1].lower().startswith(("text/", "application/json", "application/xml")):
        return None
    rest = data[opening.end() :]
    return _decoded(rest).decode(errors="replace") if opening[2] else rest


def url_of(value: Any) -> str:
    """`{"url": …}` (chat) or the URL itself (the Responses API); "" for an uploaded file."""
    if isinstance(value, dict):
        value = value.get("url")
    return value if isinstance(value, str) else ""


def _squares(width: float, height: float, side: int) -> int:
    return max(1, math.ceil(width / side)) * max(1, math.ceil(height / side))


def _patches(width: int, height: int) -> int:
    """The patches that cover an image; a larger one is shrunk until whole patches fit the bound, as published."""
    patches = _squares(width, height, _PATCH_PX)
    if patches <= _PATCHES_MAX:
        return patches
    shrink = math.sqrt(_PATCH_PX**2 * _PATCHES_MAX / (width * height))
    across, down = width * shrink / _PATCH_PX, height * shrink / _PATCH_PX
    if across < 1 or down < 1:
        return _PATCHES_MAX
    shrink *= min(math.floor(across) / across, math.floor(down) / down)
    return min(_PATCHES_MAX, _squares(width * shrink - 1e-6, height * shrink - 1e-6, _PATCH_PX))


def _size(url: str) -> tuple[int, int] | None:
    """The width and height that the head of an image in a `data:` URL tells."""
    opening = _DATA_URL.match(url)
    if opening is None or not opening[2]:
        return None
    head = _decoded(url[opening.end() : opening.end() + _HEAD_CHARS])
    size = _size_in(head)
    return size if size is not None and min(size) > 0 else None


def _size_in(head: bytes) -> tuple[int, int] | None:
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:4] == b"GIF8":
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp_size(head)
    if head[:2] == b"\xff\xd8":
        return _jpeg_size(head)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """From the first start-of-frame segment (SOF0 to SOF15, without the three of that range that are tables)."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _decoded(text: str) -> bytes:
    """Base64, also cut off and also unpadded; what is no base64 gives nothing."""
    raw = text.encode("ascii", "ignore").translate(None, b" \r\n\t=")
    try:
        return base64.b64decode(raw[: len(raw) // 4 * 4] if len(raw) % 4 == 1 else raw + b"=" * (-len(raw) % 4))
    except ValueError:
        return b""
