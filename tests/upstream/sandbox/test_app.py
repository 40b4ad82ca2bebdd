from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url) as client:
        yield client


BODY: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def test_a_request_without_a_key_is_answered(http: httpx.Client) -> None:
    assert http.post("/chat/completions", json=BODY).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/models", None),
        ("POST", "/chat/completions", BODY),
        ("POST", "/chat/completions", {**BODY, "stream": True}),
        ("POST", "/chat/completions", {}),
        ("GET", "/none", None),
        ("DELETE", "/models", None),
    ],
)
def test_every_answer_carries_openais_headers(http: httpx.Client, method: str, path: str, body: Any) -> None:
    one, two = (http.request(method, path, json=body) for _ in range(2))
    assert one.headers["openai-version"] == "2020-10-01"
    assert int(one.headers["openai-processing-ms"]) >= 0
    assert one.headers["x-request-id"].startswith("req_")
    assert one.headers["x-request-id"] != two.headers["x-request-id"]


def test_a_stream_is_an_event_stream_that_ends_with_done(http: httpx.Client) -> None:
    answer = http.post("/chat/completions", json={**BODY, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.content.endswith(b"\n\ndata: [DONE]\n\n")
    assert answer.content.startswith(b'data: {"id":"chatcmpl-')


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "param"),
    [
        ("POST", "/chat/completions", b"{", 400, None),
        ("POST", "/chat/completions", b"[]", 400, None),
        ("POST", "/chat/completions", b"", 400, None),
        ("POST", "/embeddings", b"{}", 400, "model"),
        ("POST", "/chat/completions", b'{"model":"gpt-4o"}', 400, "messages"),
        ("GET", "/models/none", b"", 404, "model"),
        ("GET", "/responses/resp_1", b"", 404, None),
        ("POST", "/chat/completions/", b"{}", 404, None),
        ("GET", "/chat/completions", b"", 405, None),
    ],
)
def test_an_error_has_openais_shape(
    http: httpx.Client, method: str, path: str, content: bytes, status: int, param: str | None
) -> None:
    answer = http.request(method, path, content=content)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_a_wrong_method_is_told_the_right_one(http: httpx.Client) -> None:
    assert http.get("/chat/completions").headers["allow"] == "POST"
