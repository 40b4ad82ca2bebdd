from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.pattern import Pattern

CHAT = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}],"usage":null}\n\n'
SHOWN = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
RESPONSES = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":%b,"delta":"%b","obfuscation":"%b"}\n\n'
)


def test_an_event_with_another_text_is_alike() -> None:
    pattern = Pattern(CHAT % b"Hi", "Hi", SHOWN % b"Hi")
    assert pattern.read(CHAT % b" there, you") == (" there, you", SHOWN % b" there, you")
    assert pattern.read(CHAT % "né 你".encode()) == ("né 你", SHOWN % "né 你".encode())


def test_numbers_and_padding_may_differ_as_well() -> None:
    event = RESPONSES % (b"7", b"Hi", b"x8Gq")
    pattern = Pattern(event, "Hi", event)
    other = RESPONSES % (b"10", b" there", b"r2")
    assert pattern.read(other) == (" there", other)


@pytest.mark.parametrize(
    "text",
    [
        *(rb"a\n", rb"\"", rb"\u00e9", b'","role":"x', b"", b"\xff", b"caf\xc3", b"\x01", b"a\rb", b"a\n\nb", b"\x7f"),
        *(b'a"}},{"index":1,"delta":{"content":"b', "\u2028".encode(), "\ufeff".encode()),
    ],
)
def test_a_text_that_may_say_more_is_not(text: bytes) -> None:
    """Escapes, quotes, control characters, what is no UTF-8: all of it is for a parser to judge."""
    assert Pattern(CHAT % b"Hi", "Hi", SHOWN % b"Hi").read(CHAT % text) is None


@pytest.mark.parametrize(
    "values",
    [
        *((b"", b"a", b"b"), (b"-1", b"a", b"b"), (b"01", b"a", b"b"), (b"1.5", b"a", b"b"), (b"1e3", b"a", b"b")),
        *((b'"7"', b"a", b"b"), (b"1" * 16, b"a", b"b"), (b"7", b"a", rb"\""), (b"7", b"a", b""), (b"7 ", b"a", b"b")),
        (b"7", b"\xc3", b"\xa9"),  # a character of which each has a half
        ("٧".encode(), b"a", b"b"),
    ],
)
def test_none_of_what_differs_may_say_more(values: tuple[bytes, bytes, bytes]) -> None:
    event = RESPONSES % (b"7", b"Hi", b"x8Gq")
    assert Pattern(event, "Hi", event).read(RESPONSES % values) is None


def test_two_halves_of_a_character_in_two_places_are_none() -> None:
    event = b'data: {"choices":[{"delta":{"content":"%b"}}],"p":"%b","obfuscation":"%b"}\n\n'
    pattern = Pattern(event % (b"a", b"b", b"c"), "a", event % (b"a", b"b", b"c"))
    assert pattern.read(event % (b"d", "\xc3".encode(), b"e")) is not None
    assert pattern.read(event % (b"d", b"\xc3", b"\xa9")) is None


@pytest.mark.parametrize(
    "other",
    [
        (CHAT % b"Hi").replace(b'"c"', b'"d"'),
        (CHAT % b"Hi").replace(b"null", b'{"total_tokens":1}'),
        (CHAT % b"Hi") + b"\n",
        (CHAT % b"Hi")[:-1],
        b" " + CHAT % b"Hi",
        CHAT % (b"x" * 20_000),
        b"",
    ],
)
def test_what_differs_elsewhere_is_not_alike(other: bytes) -> None:
    assert Pattern(CHAT % b"Hi", "Hi", SHOWN % b"Hi").read(other) is None


@pytest.mark.parametrize(
    ("event", "text", "shown"),
    [
        (CHAT % rb"H\u0069", "Hi", SHOWN % b"Hi"),  # the text is not there as it is
        (CHAT % b"Hi", "Ho", SHOWN % b"Hi"),
        (RESPONSES % (b"7", b"Hi", b"Hi"), "Hi", RESPONSES % (b"7", b"Hi", b"Hi")),  # which of the two is it?
        (CHAT % b"Hi", "Hi", b""),  # the client sees nothing of it
        (CHAT % b"Hi", "\ud800", SHOWN % b"Hi"),
        (CHAT % (b"x" * 20_000), "x" * 20_000, SHOWN % (b"x" * 20_000)),
    ],
)
def test_not_every_event_tells_of_others(event: bytes, text: str, shown: bytes) -> None:
    with pytest.raises(ValueError):
        Pattern(event, text, shown)


@given(before=st.text(min_size=1), after=st.text(), places=st.booleans())
def test_whatever_is_alike_is_what_a_parser_says(before: str, after: str, places: bool) -> None:
    def event(text: str) -> bytes:
        spaces = (", ", ": ") if places else (",", ":")
        document = {"choices": [{"delta": {"content": text}}], "created": 5, "obfuscation": "xyz"}
        return b"data: %b\n\n" % json.dumps(document, ensure_ascii=False, separators=spaces).encode("utf-8", "replace")

    try:
        pattern = Pattern(event(before), before, event(before))
    except ValueError:
        return
    alike = pattern.read(event(after))
    if alike is not None:
        text, shown = alike
        assert json.loads(shown[6:])["choices"] == [{"delta": {"content": text}}]
        assert (text, shown) == (after, event(after))
    else:
        assert not after or not after.isprintable() or '"' in after or "\\" in after
