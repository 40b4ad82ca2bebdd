from __future__ import annotations

import base64
import email.parser
import email.policy
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.form import Form, read_form
from tests import corpus
from tests.wire.forms import TYPE, WHOLE, joined, part, read, refusal


def by_email(content_type: bytes, raw: bytes) -> list[tuple[str, str | None, bytes]]:
    """Name, file name and content of each part, as the standard library's mail parser reads them."""
    head = b"Content-Type: " + content_type + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
    found = []
    for one in message.iter_parts():
        name = one.get_param("name", header="content-disposition")
        content = one.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((str(name), one.get_filename(), content))
    return found


def by_us(content_type: bytes, raw: bytes) -> list[tuple[str, str | None, bytes]]:
    return [(one.name, one.filename, raw[one.start : one.end]) for one in read_form(content_type, raw).parts]


NAMES = st.text("abnz_[]. -", min_size=1, max_size=12).map(str.strip).filter(lambda name: name not in ("", "n"))
BOUNDARIES = st.text("abYZ019'()+_,-./:=?", min_size=6, max_size=70)
#: No bare CR or LF, at which the mail parser cuts lines as well.
CONTENTS = st.lists(st.sampled_from([b"\r\n", b"--", b"x", b"\0\xff", b"\xe2\x82\xac", b"a\r\nb"]), max_size=8).map(
    b"".join
)
FILENAMES = st.none() | st.text("abc.é ()'", min_size=1, max_size=10).map(str.strip).filter(bool)


@given(st.lists(st.tuples(NAMES, FILENAMES, CONTENTS), min_size=1, max_size=6), BOUNDARIES, st.data())
def test_a_form_is_read_as_an_independent_reader_reads_it(
    wanted: list[tuple[str, str | None, bytes]], boundary: str, data: st.DataObject
) -> None:
    pieces = []
    for name, filename, content in wanted:
        more = "" if filename is None else f'; filename="{filename}"'
        kind = "" if filename is None else "Content-Type: application/octet-stream\r\n"
        pieces.append(part(name, content, more, kind))
    raw = joined(*pieces, boundary=boundary.encode())
    if b"--" + boundary.encode() in b"".join(pieces):
        return
    raw = data.draw(st.sampled_from([b"", b"\r\n", b"a preamble\r\n"])) + raw
    raw += data.draw(st.sampled_from([b"", b"\r\n", b"an epilogue\r\n--"]))
    content_type = f'multipart/form-data; charset=utf-8; boundary="{boundary}"'.encode()

    assert by_us(content_type, raw) == wanted
    assert [(name, content) for name, _, content in by_email(content_type, raw)] == [
        (name, content) for name, _, content in wanted
    ]


FIELDS = st.dictionaries(
    st.sampled_from(["model", "stream", "prompt", "n", "size", "a b", "timestamp_granularities[]"]),
    st.text(max_size=20),
    max_size=6,
)


@given(FIELDS, st.binary(max_size=300), st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9))
def test_what_httpx_sends_is_read_whole(fields: dict[str, str], content: bytes, filename: str) -> None:
    files: dict[str, Any] = {"file": (filename, content, "audio/mpeg"), "image[]": ("", b"x")}
    request = httpx.Request("POST", "http://x/", data=fields, files=files)
    raw, content_type = request.read(), request.headers["content-type"].encode()
    if not fields.get("model", "").isprintable():
        assert refusal(content_type, raw).param == "model"
        return
    form = read_form(content_type, raw)
    assert form.fields == {**fields, "image[]": "x"}  # a nameless file has no file name, and so is a field
    assert (form.model, form.repeated) == (fields.get("model", ""), ())
    file = form.files[0]
    assert (file.name, file.size, raw[file.start : file.end]) == ("file", len(content), content)


def test_what_the_official_client_sends_is_read() -> None:
    seen: list[Form] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(read_form(request.headers["content-type"].encode(), request.read()))
        return httpx.Response(200, json={"text": "", "data": [], "created": 1})

    http: Any = httpx.Client(transport=httpx.MockTransport(answer))
    with openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=http) as client:
        client.audio.transcriptions.create(
            model="whisper-1", file=("a b.mp3", b"\0" * 999), timestamp_granularities=["word", "segment"]
        )
        client.audio.transcriptions.create(model="gpt-4o-transcribe", file=b"x", stream=True).close()
        client.images.edit(model="gpt-image-1", image=[b"1", b"22"], mask=b"3", prompt="é", n=2, size="1024x1024")
        with pytest.deprecated_call():
            client.images.create_variation(image=b"123")

    words, streamed, edit, variation = seen
    assert (words.model, words.streamed, words.repeated) == ("whisper-1", False, ("timestamp_granularities[]",))
    assert [(file.name, file.filename, file.size) for file in words.files] == [("file", "a b.mp3", 999)]
    assert (streamed.model, streamed.streamed) == ("gpt-4o-transcribe", True)
    assert edit.fields == {"model": "gpt-image-1", "prompt": "é", "n": "2", "size": "1024x1024"}
    assert [(file.name, file.size) for file in edit.files] == [("image[]", 1), ("image[]", 2), ("mask", 1)]
    assert (variation.model, len(variation.files)) == ("", 1)


def recorded() -> Iterator[tuple[bytes, bytes]]:
    for path in sorted(corpus.ROOT.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            for request in (json.loads(line)["request"] for line in lines):
                kinds = [value for name, value in request["headers"] or [] if name.lower() == "content-type"]
                if kinds and kinds[0].startswith("multipart/") and request.get("body_b64"):
                    yield kinds[0].encode(), base64.b64decode(request["body_b64"])


@corpus.needed
def test_recorded_forms_are_read_as_an_independent_reader_reads_them() -> None:
    forms = list(recorded())
    assert len(forms) >= 8
    for content_type, raw in forms:
        found = by_us(content_type, raw)
        assert [(name, len(content)) for name, _, content in found if name != "file"] == [
            (name, len(content)) for name, _, content in by_email(content_type, raw) if name != "file"
        ]
        assert read_form(content_type, raw, model_required=True).model
        assert [file.name for file in read_form(content_type, raw).files] == ["file"]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=b", b"b"),
        (b"Multipart/Form-Data;BOUNDARY=aB", b"aB"),
        (b'multipart/form-data; boundary="b"', b"b"),
        (b'multipart/form-data; boundary="a b"', b"a b"),
        (b'multipart/form-data; boundary="=_a:b?c/d(e)"; charset="utf-8"', b"=_a:b?c/d(e)"),
        (b"multipart/form-data; charset=utf-8; boundary=----=_Part_1.2:3", b"----=_Part_1.2:3"),
        (b"multipart/form-data; boundary = b ; ", b"b"),
        (b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70),
    ],
)
def test_a_boundary_is_read_quoted_or_not(content_type: bytes, boundary: bytes) -> None:
    assert read_form(content_type, joined(part("model", "m"), boundary=boundary)).model == "m"


@pytest.mark.parametrize(
    "raw",
    [
        WHOLE,
        WHOLE[:-2],
        b"\r\n" + WHOLE,
        b"This is a message with multiple parts.\r\nb\r\n-b\r\n" + WHOLE + b"and goodbye",
        WHOLE.replace(b"--b\r\n", b"--b \t\r\n").replace(b"--b--", b"--b-- "),
        WHOLE.replace(b"\r\n", b"\n"),
        WHOLE.replace(b"Content-Disposition:", b"content-disposition:").replace(b": ", b":"),
    ],
)
def test_preamble_epilogue_padding_and_bare_line_feeds_are_read(raw: bytes) -> None:
    form = read_form(TYPE, raw)
    assert form.fields == {"model": "m"}
    assert [file.name for file in form.files] == ["file"]


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ('"a b"', "a b"),
        ("token", "token"),
        (r'"say \"hi\""', 'say "hi"'),
        (r'"back\\slash"', r"back\slash"),
        ('"semi;colon=x"', "semi;colon=x"),
        ('"é€"', "é€"),
        ('"models"', "models"),
        ('"image[]"', "image[]"),
        ('"100%"', "100%"),
        ('""', ""),
    ],
)
def test_a_name_is_read_quoted_and_escaped(spelled: str, name: str) -> None:
    raw = joined(f"Content-Disposition: form-data; name={spelled}\r\n\r\nx".encode())
    assert read_form(TYPE, raw).fields == {name: "x"}


@pytest.mark.parametrize(
    ("more", "filename"),
    [
        ('; filename="a.mp3"', "a.mp3"),
        ("; filename=a.mp3", "a.mp3"),
        ('; filename=""', ""),
        (r'; filename="a\"b.mp3"', 'a"b.mp3'),
        ("; filename*=utf-8''%e2%82%ac.mp3", "€.mp3"),
        ("; filename=\"x.mp3\"; filename*=UTF-8'en'%C3%A9.mp3", "é.mp3"),
        ('; FileName="é.mp3"', "é.mp3"),
    ],
)
def test_a_filename_makes_a_part_a_file(more: str, filename: str) -> None:
    form = read(part("file", "abc", more))
    assert [(file.name, file.filename, file.size) for file in form.files] == [("file", filename, 3)]
    assert form.fields == {}


def test_of_other_fields_the_first_counts_and_all_that_repeat_are_named() -> None:
    form = read(part("a", "1"), part("b", "2"), part("a", "3"), part("i[]", "x", "; filename=x"), part("i[]", "y"))
    assert form.fields == {"a": "1", "b": "2", "i[]": "y"}
    assert form.repeated == ("a", "i[]")


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Type: text/plain\r\n",
        'Content-Type: text/plain;charset="UTF-8"\r\nContent-Transfer-Encoding: 8bit\r\nContent-Length: 1\r\n',
        "Content-Type: text/plain; charset=ISO-8859-1\r\n",
        "Content-Transfer-Encoding: binary\r\n",
    ],
)
def test_the_headers_that_real_clients_add_to_a_field_are_accepted(headers: str) -> None:
    assert read(part("model", "m", headers=headers)).model == "m"


@pytest.mark.parametrize(
    ("text", "streamed"), [*((t, True) for t in ("true", "True", "1")), *((t, False) for t in ("false", "0", "", "x"))]
)
def test_whether_a_stream_is_asked_for(text: str, streamed: bool) -> None:
    assert read(part("stream", text)).streamed is streamed
