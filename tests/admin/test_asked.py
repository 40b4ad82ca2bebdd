from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.asked import from_body, from_query
from proxy.admin.events import list_events
from proxy.admin.keys import create_key
from proxy.admin.limits import SET, UNSET
from proxy.admin.operations import OPERATIONS
from proxy.errors import WrongInput
from proxy.model import EventState

POSTS = [one for one in OPERATIONS if not one.in_query]


def test_a_query_s_values_are_read_by_the_types_of_its_model() -> None:
    asked = from_query(list_events, {}, b"limit=5&state=dead&from=2026-11-01&error=no+meter%21")
    assert (asked.limit, asked.state, asked.begin, asked.error) == (5, EventState.DEAD, "2026-11-01", "no meter!")  # type: ignore[attr-defined]


def test_the_plus_of_an_offset_that_stands_for_itself_is_no_space() -> None:
    asked = from_query(list_events, {}, b"from=2026-11-01T00:00:00+01:00")
    assert asked.begin == "2026-11-01T00:00:00+01:00"  # type: ignore[attr-defined]


def test_a_parameter_that_is_a_list_may_stand_there_several_times() -> None:
    asked = from_query(UNSET["plan"], {"plan": "pro"}, b"limits=tokens/day&limits=inflight")
    assert (asked.limits, asked.owner) == (["tokens/day", "inflight"], "pro")  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["plan", "owner", "tenant_id"])
def test_what_stands_in_the_path_stands_nowhere_else(name: str) -> None:
    body = json.dumps({"limits": ["inflight=1"], name: "other"}).encode()
    with pytest.raises(WrongInput, match="is no member of this"):
        from_body(SET["plan"], {"plan": "pro"}, body)


@pytest.mark.parametrize("value", [1, "true", None, [True]])
def test_a_body_s_values_have_the_types_that_they_should_have(value: object) -> None:
    with pytest.raises(WrongInput):
        from_body(create_key, {"tenant_id": "acme"}, json.dumps({"trusted": value}).encode())


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5)), st.sampled_from(OPERATIONS))
def test_any_names_and_values_in_a_query_are_read_or_refused(pairs: dict[str, str], operation: Any) -> None:
    with suppress(WrongInput):
        from_query(operation, dict.fromkeys(operation.in_path, "x"), urlencode(pairs).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.data(), st.sampled_from(POSTS))
def test_any_body_is_read_or_refused(data: st.DataObject, operation: Any) -> None:
    names = st.sampled_from(sorted(operation.fields)) | st.text(max_size=5)
    body = data.draw(st.binary() | st.dictionaries(names, JSON, max_size=3).map(lambda made: json.dumps(made).encode()))
    with suppress(WrongInput):
        from_body(operation, dict.fromkeys(operation.in_path, "x"), body)
