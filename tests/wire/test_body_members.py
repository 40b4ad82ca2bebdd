"""A member of a JSON object set, and every other byte left as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.body import with_member


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
