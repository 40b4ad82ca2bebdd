from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import document
from proxy.wire.document import json_object

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
    ],
    ids=["half an emoji", "bad UTF-8", "a logprob", "a long integer", "a longer one", "a name twice"],
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
