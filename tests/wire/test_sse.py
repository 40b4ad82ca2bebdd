from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sse import LATE_LF, Piece, Splitter, data_of

BOUND = 10_000

#: What streams are made of, and what they should not be made of.
FRAGMENTS = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n"),
        *(b"data: x", b"data:", b"data", b"data:  y", b"dat", b"data : n", b"event: z", b"id", b": ping", b":"),
        *(b"\xef\xbb\xbf", b" ", b"[DONE]", b"\x00\xff"),
    ]
)
STREAMS = st.lists(FRAGMENTS | st.binary(max_size=5), max_size=40).map(b"".join)


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    return [stream[start:end] for start, end in pairwise([0, *sorted(places), len(stream)])]


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(STREAMS)
    return cut(stream, draw(st.lists(st.integers(0, len(stream)))))


def split(chunks: Iterable[bytes], bound: int = BOUND) -> list[Piece]:
    splitter = Splitter(bound)
    return [piece for chunk in chunks for piece in splitter.feed(chunk)] + splitter.flush()


def whole_events(pieces: Iterable[Piece]) -> list[bytes]:
    """Without the LF that may have come too late to be part of its event."""
    return [raw.removesuffix(b"\n") if raw.endswith(b"\r\n") else raw for raw, whole in pieces if whole]


def reference_lines(stream: bytes) -> list[bytes]:
    """The lines of a stream, byte by byte, as WHATWG HTML 9.2.5 ends them. The last one may have no end."""
    lines, line, at = [], b"", 0
    while at < len(stream):
        if stream[at : at + 2] == b"\r\n":
            lines.append(line)
            line, at = b"", at + 2
        elif stream[at : at + 1] in (b"\r", b"\n"):
            lines.append(line)
            line, at = b"", at + 1
        else:
            line, at = line + stream[at : at + 1], at + 1
    return [*lines, line]


def reference_data(event: bytes) -> bytes:
    """The data buffer of one event, as WHATWG HTML 9.2.6 fills it."""
    if event[:3] == b"\xef\xbb\xbf":
        event = event[3:]
    data: list[bytes] = []
    for line in reference_lines(event):
        field, colon, value = line.partition(b":")
        if colon and not field:
            continue  # a comment
        if value[:1] == b" ":
            value = value[1:]
        if field == b"data":
            data.append(value)
    return b"\n".join(data)


def reference_events(stream: bytes) -> list[bytes]:
    """The data of each event of a stream that has any, by its lines alone. One without its blank line counts."""
    if stream[:3] == b"\xef\xbb\xbf":
        stream = stream[3:]
    events: list[list[bytes]] = [[]]
    for line in reference_lines(stream):
        events[-1].append(line)
        if not line:
            events.append([])
    return [data for lines in events if (data := reference_data(b"\n".join([b"", *lines])))]


@given(cut_streams())
def test_the_pieces_joined_are_the_stream(chunks: list[bytes]) -> None:
    assert b"".join(raw for raw, _ in split(chunks)) == b"".join(chunks)


@given(cut_streams())
def test_any_cut_gives_the_same_whole_events(chunks: list[bytes]) -> None:
    assert whole_events(split(chunks)) == whole_events(split([b"".join(chunks)]))


@given(STREAMS)
def test_one_byte_at_a_time_gives_the_same_whole_events(stream: bytes) -> None:
    assert whole_events(split(stream[at : at + 1] for at in range(len(stream)))) == whole_events(split([stream]))


@given(cut_streams())
def test_the_events_are_those_of_the_standard(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    found = [data_of(raw) for raw, whole in split(chunks) if whole]
    if b"\xef\xbb\xbf" in stream[1:]:
        return  # a mark inside a stream is taken for its beginning; the standard makes it part of a field's name
    assert [data for data in found if data] == reference_events(stream)


@given(cut_streams(), st.integers(0, 40))
def test_never_more_than_the_bound_and_a_blank_line_is_held_back(chunks: list[bytes], bound: int) -> None:
    splitter = Splitter(bound)
    fed = passed = 0
    for chunk in chunks:
        fed += len(chunk)
        passed += sum(len(raw) for raw, _ in splitter.feed(chunk))
        assert fed - passed <= bound + 3


@given(cut_streams(), st.integers(0, 40))
def test_an_event_beyond_the_bound_goes_through_in_parts_wherever_it_is_cut(chunks: list[bytes], bound: int) -> None:
    stream = b"".join(chunks)
    pieces = split(chunks, bound)
    assert b"".join(raw for raw, _ in pieces) == stream
    assert whole_events(pieces) == whole_events(split([stream], bound))
    short = [raw for raw in whole_events(split([stream])) if len(raw.rstrip(b"\r\n")) + 3 <= bound]
    kept = whole_events(pieces)
    assert [raw for raw in short if raw in kept] == short


@given(STREAMS)
def test_data_of_an_event_is_what_the_standard_says(event: bytes) -> None:
    assert data_of(event) == reference_data(event)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data:  {}\n\n", b" {}"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data: a\r\ndata\r\ndata: b\r\n\r\n", b"a\n\nb"),
        (b"\xef\xbb\xbfdata: a\n\n", b"a"),
        (b"\ndata: a\n\n", b"a"),
        (b"data: a", b"a"),
        (b": OPENROUTER PROCESSING\n\n", b""),
        (b"event: ping\n\n", b""),
        (b"database: a\n\n", b""),
    ],
)
def test_data_of_the_shapes_that_upstreams_send(event: bytes, data: bytes) -> None:
    assert data_of(event) == data


def test_an_event_passes_as_soon_as_a_cr_ends_it() -> None:
    splitter = Splitter(BOUND)
    assert splitter.feed(b"data: x\r\n\r") == [(b"data: x\r\n\r", True)]
    assert splitter.feed(b"") == []
    assert splitter.feed(b"\ndata: y\n\n") == [LATE_LF, (b"data: y\n\n", True)]


def test_a_million_empty_events_are_split_in_one_pass() -> None:
    stream = b"\n" * 2_000_000
    assert split([stream]) == [(b"\n\n", True)] * 1_000_000
    assert len(split(stream[at : at + 65_536] for at in range(0, len(stream), 65_536))) == 1_000_000


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b""])
def test_a_line_of_a_hundred_megabytes_passes_in_bounded_parts(end: bytes) -> None:
    bound, chunk = 1_000_000, b"x" * 65_536
    splitter, passed, largest = Splitter(bound), 0, 0
    for data in [b"data: ", *[chunk] * 1_600, end]:
        for raw, whole in splitter.feed(data):
            assert not whole
            passed, largest = passed + len(raw), max(largest, len(raw))
    assert largest <= bound + len(chunk) + 3
    assert passed + sum(len(raw) for raw, _ in splitter.flush()) == 1_600 * len(chunk) + 6 + len(end)


def test_a_long_event_in_small_cuts_is_copied_once_not_once_per_cut() -> None:
    """With a copy per cut this would move 2 TB."""
    splitter = Splitter(16_000_000)
    for _ in range(500_000):
        assert splitter.feed(b"sixteen bytes...") == []
    assert [(len(raw), whole) for raw, whole in splitter.feed(b"\n\n")] == [(8_000_002, True)]
