from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import BodyTooLarge, InvalidRequest
from proxy.wire import body
from proxy.wire.body import Ask, refuse_heavy
from proxy.wire.members import members

SPACE = st.text(" \t\r\n", max_size=2)
SCALARS = st.none() | st.booleans() | st.integers(-9, 10**12) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["model", '"', "\\", "{[,:", "a\\"]
)


@st.composite
def string(draw: st.DrawFn, text: str) -> str:
    """A JSON string for `text`, any of its characters spelled as an escape."""
    return '"' + "".join(escaped(char) if draw(st.booleans()) else json.dumps(char)[1:-1] for char in text) + '"'


def escaped(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


@st.composite
def value(draw: st.DrawFn, depth: int = 3) -> str:
    kind = draw(st.integers(0, 3 if depth else 1))
    if kind == 0:
        return json.dumps(draw(SCALARS))
    if kind == 1:
        return draw(string(draw(TEXTS)))
    if kind == 2:
        items = draw(st.lists(value(depth - 1), max_size=3))
        return "[" + draw(SPACE) + ",".join(items) + draw(SPACE) + "]"
    return draw(document(depth - 1))


@st.composite
def document(draw: st.DrawFn, depth: int = 3, names: st.SearchStrategy[str] = TEXTS) -> str:
    """A JSON object with any white space, escapes and nesting, and sometimes a name twice."""
    found = []
    for name in draw(st.lists(names, max_size=4)):
        spaced = [draw(string(name)), ":", draw(value(depth))]
        found.append("".join(draw(SPACE) + part for part in spaced) + draw(SPACE))
    return "{" + (",".join(found) or draw(SPACE)) + "}"


def read(raw: bytes | str | dict[str, Any], *, usage_on_request: bool = True) -> Ask:
    if isinstance(raw, dict):
        raw = json.dumps(raw)
    return body.read(raw.encode() if isinstance(raw, str) else raw, usage_on_request=usage_on_request)


def refusal(raw: bytes | str | dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        read(raw)
    assert found.value.status == 400
    return found.value


@given(SPACE, document(), SPACE)
def test_members_are_those_that_the_standard_library_finds(before: str, text: str, after: str) -> None:
    raw = (before + text + after).encode()
    expected: list[tuple[str, Any]] = json.loads(raw, object_pairs_hook=lambda pairs: pairs)
    found = list(members(raw))
    assert [member.name for member in found] == [name for name, _ in expected]
    for member, (name, wanted) in zip(found, expected, strict=True):
        written = raw[member.value_start : member.end]
        assert written == written.strip()
        assert json.loads(written, object_pairs_hook=lambda pairs: pairs) == wanted
        spelled = raw[member.start : member.value_start].rstrip(b" \t\r\n")
        assert json.loads(spelled.removesuffix(b":")) == name


OPTION_NAMES = st.sampled_from(["include_usage", "include_obfuscation", "x", "Include_Usage", "include_uſage"])


@given(SPACE, st.none() | document(1, OPTION_NAMES), st.lists(st.tuples(TEXTS, value(2)), max_size=3), st.data())
def test_forcing_usage_changes_stream_options_and_nothing_else(
    space: str, options: str | None, others: list[tuple[str, str]], data: st.DataObject
) -> None:
    parts = [f"{json.dumps(name)}:{text}" for name, text in others if name.casefold() not in ("model", "stream")]
    parts += ['"stream":true', *([] if options is None else [f'"stream_options"{space}:{space}{options}'])]
    text = space + "{" + f",{space}".join(data.draw(st.permutations(parts))) + space + "}"
    asked = options is not None and json.loads(options).get("include_usage") is True

    ask = read(text)

    assert ask.streamed
    assert ask.hides_usage is not asked
    before, after = json.loads(text), json.loads(ask.body)
    given_options = before.pop("stream_options", {})
    forced = after.pop("stream_options")
    assert after == before
    for name, wanted in given_options.items():
        assert forced.pop(name) == (True if name.casefold() == "include_usage" else wanted)
    assert forced in ({}, {"include_usage": True})
    if options is None:
        assert ask.body.replace(b'"stream_options":{"include_usage":true},', b"", 1) == text.encode()
    else:
        head, _, tail = text.partition(options) if text.count(options) == 1 else ("", "", "")
        assert ask.body.startswith(head.encode())
        assert ask.body.endswith(tail.encode())
        pairs = json.loads(ask.body, object_pairs_hook=lambda pairs: pairs)
        found = next(wanted for name, wanted in pairs if name == "stream_options")
        assert {wanted for name, wanted in found if name.casefold() == "include_usage"} == {True}


@pytest.mark.parametrize(
    ("options", "forced", "hides"),
    [
        ("null", '{"include_usage":true}', True),
        ("{}", '{"include_usage":true}', True),
        ("{ \n}", '{"include_usage":true \n}', True),
        ('{"include_usage":false}', '{"include_usage":true}', True),
        ('{"include_usage" : null }', '{"include_usage" : true }', True),
        ('{"include_usage":"yes"}', '{"include_usage":true}', True),
        ('{"include_usage":1}', '{"include_usage":true}', True),
        ('{"include_usage":true}', '{"include_usage":true}', False),
        ('{ "include_usage" : true }', '{ "include_usage" : true }', False),
        ('{"include_obfuscation":false}', '{"include_usage":true,"include_obfuscation":false}', True),
        (
            '{"include_usage":true,"include_obfuscation":false}',
            '{"include_usage":true,"include_obfuscation":false}',
            False,
        ),
        ('{"include_usage":true,"include_usage":false}', '{"include_usage":true,"include_usage":true}', True),
        ('{"include_usage":false,"include_usage":true}', '{"include_usage":true,"include_usage":true}', False),
        (r'{"includ\u0065_usage":false}', r'{"includ\u0065_usage":true}', True),
        (
            r'{"includ\u0065_usage":false,"include_usage":true}',
            r'{"includ\u0065_usage":true,"include_usage":true}',
            False,
        ),
        ('{"include_usage":true,"Include_Usage":false}', '{"include_usage":true,"Include_Usage":true}', False),
        ('{"INCLUDE_USAGE":false}', '{"include_usage":true,"INCLUDE_USAGE":true}', True),
        ('{"a":{"include_usage":false}}', '{"include_usage":true,"a":{"include_usage":false}}', True),
    ],
)
def test_stream_options_in_every_shape_end_up_asking_for_usage(options: str, forced: str, hides: bool) -> None:
    for frame in ('{"stream":true,"stream_options":%s}', '\n{ "stream_options" : %s , "stream" : true }\n'):
        ask = read(frame % options)
        assert ask.body.decode() == frame % forced
        assert ask.hides_usage is hides


@pytest.mark.parametrize("options", ['"yes"', "true", "[]", "1", '["include_usage"]'])
def test_stream_options_that_are_no_object_are_refused(options: str) -> None:
    assert refusal(f'{{"stream":true,"stream_options":{options}}}').param == "stream_options"


@pytest.mark.parametrize(
    "raw",
    [
        '{"model":"gpt-4o","messages":[]}',
        '{"model":"gpt-4o","stream":false,"stream_options":{"include_usage":true}}',
        '{"stream":null , "model":"m"}',
        '{"unknown":{"stream":true},"model":"org/m:x (preview)"}',
        '{"input":"\\u00e9 \\u0065","model":"m"}',
        "{}",
        " {\n} ",
        '{"n":123456789012345678901234567890,"x":1e-999}',
    ],
)
def test_a_body_that_asks_for_no_stream_passes_untouched(raw: str) -> None:
    ask = read(raw)
    assert ask == Ask(raw.encode(), json.loads(raw).get("model", ""), streamed=False, hides_usage=False)


@given(document())
def test_any_object_is_read_or_refused_and_never_changed_where_usage_needs_no_asking(text: str) -> None:
    with suppress(InvalidRequest):
        assert read(text, usage_on_request=False).body == text.encode()


def test_where_usage_needs_no_asking_a_stream_is_not_told_to_report_it() -> None:
    raw = b'{"stream":true,"stream_options":{"include_usage":false}}'
    assert read(raw, usage_on_request=False) == Ask(raw, "", streamed=True, hides_usage=False)


@pytest.mark.parametrize("name", ["model", "stream", "stream_options"])
@pytest.mark.parametrize("other", ["plain", "escaped"])
def test_a_deciding_field_sent_twice_is_refused_by_name(name: str, other: str) -> None:
    second = escaped(name[0]) + name[1:] if other == "escaped" else name
    values = {"model": '"a"', "stream": "true", "stream_options": "{}"}
    for first, last in ((name, second), (second, name)):
        error = refusal(f'{{"{first}":{values[name]},"x":[{{}}],"{last}":{values[name]}}}')
        assert (error.param, error.code) == (name, "duplicate_field")


@pytest.mark.parametrize("name", ["Model", "STREAM", "Stream_Options", "ſtream", "stream_optionſ", "MODEL"])
def test_a_deciding_field_in_another_spelling_is_refused_by_name(name: str) -> None:
    error = refusal({"model": "a", name: None})
    assert (error.param, error.code) == (name.casefold(), "ambiguous_field")


@pytest.mark.parametrize(
    "raw",
    [
        '{"model":"a","tools":[{"model":"b","stream":false}],"metadata":{"model":"c","Model":"d"}}',
        '{"model":"a","role":"model","x":"\\"model\\":"}',
        '{"model":"model","x":"stream","y":["stream","stream_options"]}',
        '{"model":"a","user":"\\u006d\\u006f","user":"twice is their matter"}',
    ],
)
def test_what_only_looks_like_a_deciding_field_is_none(raw: str) -> None:
    assert read(raw).body == raw.encode()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *zip(["model"] * 5, [1, True, [], {}, 1.5], strict=True),
        *zip(["model"] * 4, ["a" * 257, "a\nb", "a\0", "\u202egpt"], strict=True),
        *zip(["stream"] * 6, [1, 0, "true", "", [], {}], strict=True),
    ],
)
def test_a_field_of_a_wrong_type_is_refused_by_name(field: str, wrong: object) -> None:
    assert refusal({field: wrong}).param == field


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"null", b"[]", b'"{}"', b"1", b"true", b"{", b"{}}", b"{}x", b"{'a':1}", b'{"a":1,}', b"{}\0"),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":1e999}', b'{"a":01}', b'{"a":"\n"}'),
        *(b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b'{"\\udc00":1}', b"\xef\xbb\xbf{}"),
        *(b"\xff\xfe{\0}\0", b'{"a":' * 100_000, b"[" * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
    ids=lambda raw: raw[:12].hex(),
)
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    error = refusal(raw)
    assert error.code == "invalid_json"
    assert len(str(error)) < 200


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_refused_or_read(raw: bytes) -> None:
    with suppress(InvalidRequest):
        assert read(raw).model == ""


class Counted(bytes):
    """Bytes that count the passes over them."""

    passes = 0

    def count(self, *args: Any) -> int:
        type(self).passes += 1
        return super().count(*args)


@pytest.mark.parametrize("frame", ['{"model":"m","input":%s}', '{"model":"m","stream":true,"messages":%s}'])
@pytest.mark.parametrize("shape", ["text", "tokens", "escapes"])
def test_a_large_body_takes_one_parse_and_few_scans(frame: str, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parses: list[int] = []
    loads = orjson.loads

    def counted(raw: bytes) -> Any:
        parses.append(len(raw))
        return loads(bytes(raw))

    monkeypatch.setattr(orjson, "loads", counted)
    monkeypatch.setattr(body, "members", lambda raw: pytest.fail("scanned member by member"))
    shapes = {"text": '"' + "x" * 20_000_000 + '"', "tokens": str([1234] * 3_000_000)}
    shapes["escapes"] = '"' + r"\n\"\u00e9" * 2_000_000 + '"'
    raw = Counted((frame % shapes[shape]).encode())
    Counted.passes = 0
    assert read(raw).model == "m"
    assert parses == [len(raw)]
    assert Counted.passes <= 2


@pytest.mark.parametrize("shape", ["tokens", "escapes"])
def test_a_large_body_that_must_be_scanned_is_scanned_in_one_pass(shape: str) -> None:
    content = str([1234] * 300_000) if shape == "tokens" else '"' + r"\n\"" * 1_000_000 + '"'
    raw = f'{{"role":"model","model":"m","input":{content},"stream":true,"stream_options":{{}}}}'
    assert read(raw).body.endswith(b'"stream_options":{"include_usage":true}}')


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, b"", b"application/json", b"application/json; charset=utf-8", b"application/json;charset=UTF-8"),
        *(
            b'application/json; charset="utf-8"',
            b"application/json; charset=iso-8859-1",
            b"text/plain; charset=us-ascii",
        ),
    ],
)
def test_a_charset_in_which_ascii_is_ascii_passes(content_type: bytes | None) -> None:
    body.refuse_charset(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        *(b"application/json; charset=utf-7", b"application/json; CHARSET=UTF-16", b"application/json; charset=''"),
        *(b"application/json; charset*=utf-7", b"application/json; charset=utf-8; charset=utf-7", b"text/x; charset"),
    ],
)
def test_any_other_charset_is_refused(content_type: bytes) -> None:
    with pytest.raises(InvalidRequest):
        body.refuse_charset(content_type)


def test_a_million_tokens_are_taken_and_two_million_are_too_much() -> None:
    refuse_heavy(b'{"model":"m","input":[%b7]}' % (b"7," * 1_000_000))
    with pytest.raises(BodyTooLarge, match="too many"):
        refuse_heavy(b'{"model":"m","input":[%b7]}' % (b"7," * 2_000_000))
    refuse_heavy(b'{"model":"m","input":"%b"}' % (b"7" * 60_000_000))
