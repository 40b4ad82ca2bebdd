from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.unasked import tells_usage, without_null_usage

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(['"usage":null', "}", "\n", "é", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["usage", "a", "b"]), inner),
    max_leaves=6,
)


@given(event=st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES), at=st.integers(0, 3), spaces=st.booleans())
def test_the_outermost_member_goes_and_every_other_stays(event: dict[str, Any], at: int, spaces: bool) -> None:
    members = [*event.items()]
    separators = (", ", ": ") if spaces else (",", ":")
    with_usage = dict([*members[:at], ("usage", None), *members[at:]])
    cut = without_null_usage(b"data: %b\n\n" % json.dumps(with_usage, separators=separators).encode())
    assert json.loads(cut[5:]) == event


@pytest.mark.parametrize(
    ("event", "tells"),
    [
        (b'data: {"a":1}\n\n', False),
        (b'data: {"a":1,"usage":null}\n\n', False),
        (b'data: {"usage":null,"a":{"usage":null}}\n\n', False),
        (b'data: {"usage":{"total_tokens":1}}\n\n', True),
        (b'data: {"usage":null,"x_groq":{"usage":{"total_tokens":1}}}\n\n', True),
        (b'data: {"usage" : null}\n\n', True),  # perhaps: to be looked at
    ],
)
def test_usage_is_looked_for_where_it_may_be(event: bytes, tells: bool) -> None:
    assert tells_usage(event) is tells
