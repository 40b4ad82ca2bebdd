from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import document
from proxy.wire.document import beginning, json_object

members = st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(0, 2**63 - 1) | st.text())


@given(members)
def test_an_object_is_read_as_any_reader_would(written: dict[str, object]) -> None:
    assert json_object(orjson.dumps(written)) == written


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    found = json_object(data)
    assert found is None or isinstance(found, dict)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":-Infinity}', {"a": -math.inf}),
        (b'{"a":%b,"b":NaN}' % (b"9" * 1_000), None),
        (b'{"a":%b}' % (b"9" * 5_000), {"a": math.inf}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
    ],
    ids=["half an emoji", "bad UTF-8", "a logprob", "a long integer", "a longer one", "a name twice", "a BOM"],
)
def test_what_strict_json_forbids_is_read_as_clients_read_it(written: bytes, read: dict[str, object] | None) -> None:
    found = json_object(written)
    assert found is not None
    if read is not None:
        assert found == read


@pytest.mark.parametrize("written", [b"", b"[]", b"1", b"null", b"{", b"{} {}", b'{"a":' * 100_000])
def test_anything_else_is_none(written: bytes) -> None:
    assert json_object(written) is None


def test_what_would_unfold_in_memory_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = b'{"a":[%b0]}' % (b"[]," * 1_000)
    assert json_object(heavy) is not None
    monkeypatch.setattr(document, "WEIGHED_FROM_BYTES", 1_000)
    monkeypatch.setattr(document, "PARSED_BYTES_MAX", 50_000)
    assert json_object(heavy) is None


#: Half a character, where a text breaks off.
HALF = re.compile("[\ud800-\udbff\ufffd]+\\Z")
TEXT = 'It said: "C:\\temp\\" \U0001f600\n\u00e9\\u00e9 {[,]} end'
CHAT: dict[str, Any] = {"id": "c", "choices": [{"index": 0, "message": {"content": TEXT}, "n": -12.5e3}], "ok": True}


@pytest.mark.parametrize("raw", [json.dumps(CHAT).encode(), orjson.dumps(CHAT)], ids=["escaped", "plain"])
def test_wherever_an_answer_breaks_off_its_text_is_known_so_far(raw: bytes) -> None:
    begins, ends = raw.index(b"It said"), raw.index(b'"}, "n"' if b", " in raw[:20] else b'"},"n"')
    seen = []
    for end in range(1, len(raw)):
        found = beginning(raw[:end])
        assert found is not None
        text = next((one.get("message", {}).get("content", "") for one in found.get("choices", [])), "")
        seen.append(text)
        came = raw[begins : max(begins, min(end, ends))]
        assert TEXT.startswith(HALF.sub("", text))
        assert len(text.encode(errors="replace")) * 6 >= len(came) - 11, "all of it but half a character"
    assert seen[-1] == TEXT
    assert sorted(seen, key=len) == seen


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), st.data())
def test_the_beginning_of_any_object_holds_nothing_else(whole: dict[str, Any], data: st.DataObject) -> None:
    raw = json.dumps(whole, ensure_ascii=data.draw(st.booleans())).encode()
    found = beginning(raw[: data.draw(st.integers(1, len(raw)))])
    assert found is not None
    assert is_within(found, whole)


def is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and is_within(part[name], whole[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and all(map(is_within, part, whole)) and len(part) <= len(whole)
    if isinstance(part, str):
        return isinstance(whole, str) and whole.startswith(HALF.sub("", part))
    return bool(str(whole).startswith(str(part)))


@pytest.mark.parametrize("raw", [b"", b"x", b"[1", b'"{', b"<html>", b"data: {", b"]{"])
def test_what_begins_no_object_has_no_beginning(raw: bytes) -> None:
    assert beginning(raw) is None
