"""A member of a JSON object set and every other byte left as it is; and objects without their long lists."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import members
from proxy.wire.body import with_member
from proxy.wire.members import outline


@pytest.mark.parametrize(
    ("raw", "after"),
    [
        (b"{}", b'{"n":7}'),
        (b" { } ", b' {"n":7 } '),
        (b'{"a":1}', b'{"n":7,"a":1}'),
        (b'{"a": {"n":1}, "n" : null }', b'{"a": {"n":1}, "n" : 7 }'),
        (b'{"n":"{","a":[]}', b'{"n":7,"a":[]}'),
    ],
)
def test_a_member_is_set_where_it_stands_or_comes_first(raw: bytes, after: bytes) -> None:
    assert with_member(raw, "n", b"7") == after


values = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=5), st.sampled_from([None, 2]))
def test_whatever_the_object_holds_only_that_member_changes(given_: dict[str, object], indent: int | None) -> None:
    raw = json.dumps(given_, indent=indent).encode()
    assert json.loads(with_member(raw, "n", b"7")) == given_ | {"n": 7}


LIST_BYTES_MAX = 12


@pytest.fixture(autouse=True)
def short_lists_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "_LIST_BYTES_MAX", LIST_BYTES_MAX)


def is_short(value: object) -> bool:
    return not isinstance(value, list) or len(orjson.dumps(value)) <= LIST_BYTES_MAX


@given(st.dictionaries(st.text(max_size=3), values, max_size=5))
def test_an_outline_is_the_object_without_its_long_lists(given_: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(given_)
    except TypeError:  # an integer of more than 64 bits
        return
    assert outline(b" %b\n" % raw) == {name: value for name, value in given_.items() if is_short(value)}


WHOLE = b'{"data":[{"a":"]}\\"","b":[1]},[2,3,4]],"model":"m","usage":{"total_tokens":[7]}}'


def test_of_what_is_cut_short_there_is_no_outline() -> None:
    assert outline(WHOLE) == {"model": "m", "usage": {"total_tokens": [7]}}
    assert [outline(WHOLE[:end]) for end in range(len(WHOLE))] == [None] * len(WHOLE)


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"x{}", b"{} x", b'{"usage":{]}', b'{"a":1,"b":}', b'{"a":[[[[[[[[[[1],"b":2}', b"{}}", b'{"a" 1}'],
)
def test_what_is_no_object_has_none(raw: bytes) -> None:
    assert outline(raw) is None


def test_of_two_members_of_one_name_the_last_counts() -> None:
    assert outline(b'{"a":1,"a":2}') == {"a": 2}
    assert outline(b'{"a":1,"a":[1,2,3,4,5,6,7,8]}') == {}
