from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.wire.form import FIELD_BYTES_MAX, HEADERS_BYTES_MAX, PARTS_MAX, read_form
from tests.wire.forms import TYPE, WHOLE, joined, part, read, refusal


@pytest.mark.parametrize(
    "content_type",
    [
        *(b"", b"multipart/form-data", b"multipart/form-data; charset=utf-8", b"application/json; boundary=b"),
        *(b"multipart/mixed; boundary=b", b"multipart/form-data boundary=b", b"multipart/form-data; boundary"),
        *(b"multipart/form-data; boundary=", b'multipart/form-data; boundary=""', b'multipart/form-data; boundary="b'),
        *(b"multipart/form-data; boundary=b; boundary=c", b"multipart/form-data; boundary*0=b"),
        *(b"multipart/form-data; boundary=b; boundary*=utf-8''c", b"multipart/form-data; boundary=" + b"x" * 71),
        *(b'multipart/form-data; boundary="b "', b'multipart/form-data; boundary="a\\b"', b"multipart/form-data, b"),
        *(b"multipart/form-data; boundary=\xc3\xa9", b"multipart/form-data; boundary=a b", b"\xff"),
    ],
)
def test_a_content_type_that_names_no_plain_boundary_is_refused(content_type: bytes) -> None:
    assert refusal(content_type, joined(part("model", "m"))).code == "invalid_form"


HIDDEN = part("model", "gpt-4o")


@pytest.mark.parametrize("cut", range(len(WHOLE) - len(b"--\r\n")))
def test_a_form_that_is_cut_off_is_refused_wherever_it_is_cut(cut: int) -> None:
    assert refusal(TYPE, WHOLE[:cut]).code == "invalid_form"


@pytest.mark.parametrize(
    "raw",
    [
        WHOLE.replace(b"--b\r\n", b"--b\n", 1),
        WHOLE.replace(b"\xff\r\n--b", b"\xff\n--b"),
        joined(part("file", b"x\n--b\n" + HIDDEN.replace(b"\r\n", b"\n") + b"\n", '; filename="a"')),
        joined(part("file", b"x\r--b\r" + HIDDEN + b"\r", '; filename="a"')),
        joined(part("file", b"x\r\n--bb\r\n" + HIDDEN, '; filename="a"')),
        joined(part("file", b"x\r\n--b--\r\n" + HIDDEN, '; filename="a"')),
        WHOLE + b"--b\r\n" + HIDDEN + b"\r\n--b--\r\n",
        WHOLE + WHOLE,
        b"a preamble\n" + WHOLE,
        b"\n" + WHOLE,
        WHOLE.replace(b"--b\r\n", b"--b x\r\n", 1),
        WHOLE.replace(b"--b\r\n", b"--b", 1),
        WHOLE.replace(b"--b--", b"--b---"),
    ],
)
def test_what_another_reader_would_cut_otherwise_is_refused(raw: bytes) -> None:
    assert refusal(TYPE, raw).code == "invalid_form"


@pytest.mark.parametrize(
    "headers",
    [
        b"",
        b"Content-Type: text/plain",
        b"Content-Disposition: form-data",
        b"Content-Disposition: attachment; name=a",
        b"Content-Disposition: form-data; filename=a",
        b"Content-Disposition: form-data; name=a; name=model",
        b'Content-Disposition: form-data; name="a"; name="a"',
        b"Content-Disposition: form-data; name*=utf-8''model",
        b"Content-Disposition: form-data; name*0=mo; name*1=del",
        b"Content-Disposition: form-data; name=a; name*=utf-8''model",
        b'Content-Disposition: form-data; name="a\\"; name="model"',
        b'Content-Disposition: form-data; filename="a; name=model"; name="b"',
        b'Content-Disposition: form-data; name="a" model',
        b'Content-Disposition: form-data; name="a',
        b"Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=model",
        b"Content-Disposition: form-data;\r\n name=model",
        b"Content-Disposition : form-data; name=model",
        b"Content-Disposition: form-data; name=a\0",
        b"Content-Disposition: form-data; name=a\nX: y",
        b"Content-Disposition: form-data; name=a\rX: y",
    ],
)
def test_a_part_whose_name_is_not_plain_to_every_reader_is_refused(headers: bytes) -> None:
    assert refusal(TYPE, joined(headers + b"\r\n\r\nx", part("prompt", "p"))).code == "invalid_form"


@pytest.mark.parametrize(
    "spelled", [r"mo\del", "Model", " model", "model ", "%6Dodel", "model%00", "model[]", "ſtream"]
)
def test_a_deciding_name_in_another_spelling_is_refused(spelled: str) -> None:
    found = refusal(TYPE, joined(part(spelled, "x")))
    assert (found.param in ("model", "stream"), found.code) == (True, "ambiguous_field")


@pytest.mark.parametrize("name", ["model", "stream"])
def test_a_deciding_field_sent_twice_is_refused_by_name(name: str) -> None:
    found = refusal(TYPE, joined(part(name, "a"), part("x", "y"), part(name, "a")))
    assert (found.param, found.code) == (name, "duplicate_field")


@pytest.mark.parametrize(
    ("more", "headers"),
    [
        ('; filename="m.txt"', ""),
        ('; filename=""', ""),
        ("; filename*=utf-8''m", ""),
        ("", "Content-Transfer-Encoding: base64\r\n"),
        ("", "Content-Transfer-Encoding: quoted-printable\r\n"),
        ("", "Content-Type: text/plain; charset=utf-7\r\n"),
        ("", "Content-Type: text/plain; charset=utf-16\r\n"),
        ("", "Content-Type: application/octet-stream\r\n"),
    ],
)
def test_a_deciding_field_that_is_not_plain_text_to_every_reader_is_refused(more: str, headers: str) -> None:
    for name in ("model", "stream"):
        found = refusal(TYPE, joined(part(name, "x", more, headers)))
        assert (found.param, found.code) == (name, "invalid_type")
    assert len(read(part("prompt", "x", more, headers)).parts) == 1


def test_a_missing_model_is_refused_where_one_is_required() -> None:
    for raw in (joined(part("prompt", "x")), joined(part("model", "")), b"--b--"):
        found = refusal(TYPE, raw, model_required=True)
        assert (found.param, found.code) == ("model", "missing_required_parameter")
        assert read_form(TYPE, raw).model == ""


@pytest.mark.parametrize("model", [b"a" * 257, b"a\nb", b"a\0", b"\xff", "\u202egpt".encode()])
def test_a_model_s_name_that_no_ledger_could_keep_is_refused(model: bytes) -> None:
    found = refusal(TYPE, joined(part("model", model)))
    assert (found.param, found.code) == ("model", "invalid_value")


def test_the_bounds_of_parts_headers_and_fields() -> None:
    assert len(read(*[part("a", "")] * PARTS_MAX).parts) == PARTS_MAX
    assert f"more than {PARTS_MAX} parts" in str(refusal(TYPE, joined(*[part("a", "")] * (PARTS_MAX + 1))))
    long = "X: " + "y" * (HEADERS_BYTES_MAX - 100) + "\r\n"
    assert read(part("a", "", headers=long)).fields == {"a": ""}
    assert f"{HEADERS_BYTES_MAX} bytes of headers" in str(refusal(TYPE, joined(part("a", "", headers=long * 2))))
    form = read(part("prompt", b"x" * FIELD_BYTES_MAX), part("image", b"x" * (FIELD_BYTES_MAX + 1)))
    assert [*form.fields] == ["prompt"]
    assert form.parts[1].size == FIELD_BYTES_MAX + 1
    assert refusal(TYPE, joined(part("stream", b"x" * (FIELD_BYTES_MAX + 1)))).param == "stream"


@given(st.binary(max_size=60), st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_or_read(content_type: bytes, raw: bytes) -> None:
    for kind in (content_type, TYPE):
        with suppress(InvalidRequest):
            read_form(kind, raw)


SNIPPETS = st.sampled_from(
    [
        *(
            b"--b",
            b"--",
            b"\r\n",
            b"\n",
            b"\r",
            b"\r\n\r\n",
            b"--b\r\n",
            b"\r\n--b--\r\n",
            b" ",
            b";",
            b'"',
            b"\\",
            b"\0",
        ),
        *(
            b"Content-Disposition: form-data",
            b"; name=",
            b'"model"',
            b"model",
            b"; filename=",
            b"*=utf-8''",
            b"\xff",
            b"%6D",
        ),
        *(b"Content-Type: text/plain", b"; charset=", b"Content-Transfer-Encoding: base64", b"b", b":", b"=", b"x"),
    ]
)


@given(st.lists(SNIPPETS, max_size=30).map(b"".join))
def test_anything_like_a_form_is_refused_or_read_with_every_part_in_its_place(raw: bytes) -> None:
    with suppress(InvalidRequest):
        form = read_form(TYPE, raw)
        ends = 0
        for one in form.parts:
            assert ends < one.start <= one.end < len(raw)
            assert b"\n--b" not in raw[one.start : one.end]
            ends = one.end
        assert re.search(rb"--b--[ \t]*(?:\r?\n|$)", raw[ends:])


class Counted(bytes):
    """Bytes that count the searches in them."""

    searches = 0

    def find(self, *args: Any) -> int:
        type(self).searches += 1
        return super().find(*args)


def test_a_large_upload_takes_a_few_searches_and_no_copy() -> None:
    raw = Counted(joined(part("model", "m"), part("file", b"\r\n--a\n--" * 3_000_000, '; filename="a"')))
    Counted.searches = 0
    started = time.perf_counter()
    form = read_form(TYPE, raw)
    assert form.files[0].size == 24_000_000
    assert Counted.searches <= 8
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "raw",
    [
        b"--b" * 8_000_000,
        b"\n--b" * 6_000_000,
        b"--b\r\n" * 5_000_000,
        b"--b" + b" " * 20_000_000 + b"x",
        joined(part("a", b"\r\n" * 10_000_000, '; filename="a"')),
        joined(*[part("a", "", ";" + " " * 16_000 + "x")] * 400),
        joined(*[part("a", "", "; name" + " " * 16_000 + "x")] * 400),
        joined(*[part("a", "", '; b="' + "\\x" * 8_000)] * 400),
        joined(*[part("a", "", headers="X:" + " " * 16_000 + "\0\r\n")] * 400),
        joined(*[part("a", "", headers="X:\r\n" * 3_000)] * 400),
        joined(*[part("a", "", "; a=b" * 3_000)] * 400),
    ],
    ids=lambda raw: raw[:40].decode(),
)
def test_no_form_takes_longer_than_its_length(raw: bytes) -> None:
    started = time.perf_counter()
    with suppress(InvalidRequest):
        read_form(TYPE, raw)
    assert time.perf_counter() - started < 2
    for value in (b'"' + b"\\" * 60_000, b";" * 60_000, b" " * 60_000 + b"x", b"a=" * 30_000):
        started = time.perf_counter()
        refusal(b"multipart/form-data; boundary=" + value, b"")
        assert time.perf_counter() - started < 1
