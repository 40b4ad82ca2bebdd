from __future__ import annotations

from typing import Any

import pytest

from proxy.upstream.sandbox.fields import Refusal, include_usage, inputs, integer, model_of, objects, streaming


def _refusal(call: Any, *arguments: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value


def test_a_refusal_has_openais_shape() -> None:
    body = Refusal("no", param="n", code="c").body()
    assert body == {"error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "c"}}


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}, {"model": 3}])
def test_a_request_without_a_model_is_refused(body: dict[str, Any]) -> None:
    assert str(_refusal(model_of, body)) == "you must provide a model parameter"


def test_a_whole_number_is_read_within_its_bounds() -> None:
    assert integer({"n": 3}, "n", 1, 5) == 3
    assert integer({"n": None}, "n", 1, 5) == 1
    assert _refusal(integer, {"n": 0}, "n", 1, 5).code == "integer_below_min_value"
    assert _refusal(integer, {"n": 6}, "n", 1, 5).code == "integer_above_max_value"
    assert _refusal(integer, {"n": True}, "n", 1, 5).code == "invalid_type"


def test_stream_options_need_a_stream() -> None:
    assert streaming({"stream": True, "stream_options": {"include_usage": True}})
    assert not streaming({"stream": False, "stream_options": None})
    error = _refusal(streaming, {"stream_options": {}})
    assert str(error) == "The 'stream_options' parameter is only allowed when 'stream' is enabled."
    assert error.param == "stream_options"
    assert _refusal(streaming, {"stream": "yes"}).param == "stream"
    assert _refusal(streaming, {"stream": True, "stream_options": 1}).param == "stream_options"


def test_usage_is_included_only_when_it_is_asked_for() -> None:
    assert include_usage({"stream_options": {"include_usage": True}})
    assert not include_usage({"stream_options": {"include_usage": False}})
    assert not include_usage({})


def test_a_list_of_objects_holds_nothing_else() -> None:
    assert objects({"tools": [{}]}, "tools") == [{}]
    assert objects({}, "tools") == []
    assert _refusal(objects, {"tools": ["x"]}, "tools").param == "tools"


@pytest.mark.parametrize(
    ("value", "found"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_an_input_is_a_string_strings_tokens_or_arrays_of_tokens(value: Any, found: Any) -> None:
    assert inputs(value, "input", 10) == found


@pytest.mark.parametrize("value", [[], 3, {}, [None], [True], [[]], ["a"] * 11])
def test_any_other_input_is_refused(value: Any) -> None:
    assert _refusal(inputs, value, "input", 10).param == "input"
