"""What may stand in the head of an upstream's answer."""

from __future__ import annotations

import pytest

from proxy.errors import BadAnswer
from proxy.upstream.head import HEAD_BYTES_MAX, INTERIM_MAX, Head


def test_names_come_in_lower_case_and_values_without_the_blanks_around_them() -> None:
    head = Head()
    head.add(b"X-A", b" \tb c ")
    assert head.end("1.1", 200)
    assert head.headers == [(b"x-a", b"b c")]
    assert not head.is_sized


@pytest.mark.parametrize(("name", "value"), [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"Chunked")])
def test_a_length_or_chunks_give_the_body_an_end(name: bytes, value: bytes) -> None:
    head = Head()
    head.add(name, value)
    assert head.is_sized


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_told_without_its_length(status: int) -> None:
    """uvicorn would take a length for a promise."""
    head = Head()
    head.add(b"content-length", b"7")
    head.add(b"etag", b"x")
    assert head.end("1.1", status)
    assert head.headers == [(b"etag", b"x")]


def test_informational_heads_leave_nothing_behind_and_are_counted() -> None:
    head = Head()
    for _ in range(INTERIM_MAX):
        head.add(b"content-length", b"1")
        assert not head.end("1.1", 103)
        assert (head.headers, head.is_sized) == ([], False)
    with pytest.raises(BadAnswer, match="informational"):
        head.end("1.1", 103)


@pytest.mark.parametrize("value", [b"gzip", b"gzip, chunked", b"identity", b"", b"chunked, chunked", b"xchunked"])
def test_no_transfer_coding_but_chunked_is_understood(value: bytes) -> None:
    with pytest.raises(BadAnswer, match="chunked"):
        Head().add(b"transfer-encoding", value)


@pytest.mark.parametrize("first", [b"transfer-encoding", b"content-length"])
def test_chunks_beside_another_framing_are_refused(first: bytes) -> None:
    head = Head()
    head.add(first, b"chunked" if first == b"transfer-encoding" else b"5")
    with pytest.raises(BadAnswer):
        head.add(b"transfer-encoding", b"chunked")


@pytest.mark.parametrize(("version", "status"), [("2.0", 200), ("0.9", 200), ("1.1", 0), ("1.1", 600), ("1.1", 101)])
def test_no_other_version_and_no_unheard_of_status(version: str, status: int) -> None:
    with pytest.raises(BadAnswer):
        Head().end(version, status)


def test_the_size_of_a_head_is_bounded() -> None:
    head = Head()
    for _ in range(HEAD_BYTES_MAX // 100 + 1):
        head.add(b"x", b"y" * 100)
    with pytest.raises(BadAnswer, match="larger"):
        head.end("1.1", 200)
