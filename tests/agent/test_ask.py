from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.agent.ask import Analyze, Generate, Summarize, completion, read
from proxy.errors import InvalidRequest


def test_the_defaults_are_the_documented_ones() -> None:
    assert read(Generate, b'{"prompt":"p"}').max_tokens == 1024
    assert read(Summarize, b'{"text":"t"}').max_tokens == 512
    assert read(Analyze, b'{"text":"t","query":"q"}').max_tokens == 512


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (Generate, {}, "prompt"),
        (Generate, {"prompt": ""}, "prompt"),
        (Generate, {"prompt": 7}, "prompt"),
        (Generate, {"prompt": "p", "max_tokens": 0}, "max_tokens"),
        (Generate, {"prompt": "p", "max_tokens": "12"}, "max_tokens"),
        (Generate, {"prompt": "p", "max_tokens": True}, "max_tokens"),
        (Generate, {"prompt": "p", "model": ""}, "model"),
        (Generate, {"prompt": "p", "stream": "yes"}, "stream"),
        (Generate, {"prompt": "p", "temprature": 1}, "temprature"),
        (Summarize, {"prompt": "p"}, "text"),
        (Analyze, {"text": "t"}, "query"),
    ],
)
def test_a_wrong_body_is_refused_and_the_field_is_named(kind: Any, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(kind, orjson.dumps(body))
    assert caught.value.param == field
    assert f"'{field}'" in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'"prompt"', b"\xff"])
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(Generate, raw)


def test_the_completion_holds_the_text_and_the_limit_under_the_upstreams_name() -> None:
    asked = read(Analyze, b'{"text":"The sky is blue.","query":"What colour?","stream":true}')
    document = orjson.loads(completion(asked, model="m", token_limit_field="max_completion_tokens"))
    assert document["model"] == "m"
    assert document["max_completion_tokens"] == 512
    assert document["stream_options"] == {"include_usage": True}
    assert "The sky is blue." in document["messages"][-1]["content"]
    assert "What colour?" in document["messages"][-1]["content"]
