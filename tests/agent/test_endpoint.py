"""The agent endpoints through a real server, with the sandbox behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.model import Outcome, UsageSource
from tests.running import Running, tollgate

BODIES: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "Write a haiku."},
    "/api/summarize": {"text": "A long text about tolls and gates."},
    "/api/analyze": {"text": "The gate is open.", "query": "Is it open?"},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with tollgate(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": server.key()}) as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
def test_a_call_is_answered_in_one_object_and_leaves_one_event(
    server: Running, client: httpx.Client, path: str
) -> None:
    answer = client.post(path, json=BODIES[path])
    assert answer.status_code == 200
    assert set(answer.json()) == {"content", "model", "usage"}
    usage = answer.json()["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    event = server.settlement()
    assert event.id == answer.headers["x-tollgate-request-id"]
    assert (event.endpoint, event.subject, event.outcome) == (path, "user-001", Outcome.COMPLETED)
    assert (event.requested_model, event.model) == ("gpt-4o-mini", answer.json()["model"])
    assert event.usage_source is UsageSource.REPORTED
    assert event.usage.total_tokens == usage["total_tokens"]


def test_a_stream_gives_deltas_and_ends_with_the_whole_object(server: Running, client: httpx.Client) -> None:
    whole = client.post("/api/generate", json=BODIES["/api/generate"]).json()
    streamed = client.post("/api/generate", json=BODIES["/api/generate"] | {"stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *deltas, last = [orjson.loads(event.removeprefix("data: ")) for event in streamed.text.strip().split("\n\n")]
    assert len(deltas) > 1
    assert "".join(delta["delta"] for delta in deltas) == whole["content"]
    assert last == whole
    first, second = server.settlements(2)
    assert second.streamed
    assert second.usage == first.usage


def test_the_token_limit_reaches_the_upstream(server: Running, client: httpx.Client) -> None:
    answer = client.post("/api/generate", json={"prompt": "Write a haiku.", "max_tokens": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", BODIES)
def test_a_missing_field_is_named_and_leaves_no_event(server: Running, client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", next(iter(BODIES[path])))
    assert server.settlements() == []


def test_the_same_keys_and_model_lists_hold(server: Running) -> None:
    limited = server.key("user-002", models=("gpt-4o",))
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/api/generate", json={"prompt": "p"}).status_code == 401
        refused = client.post("/api/generate", json={"prompt": "p"}, headers={"x-api-key": limited})
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model")
        served = client.post("/api/generate", json={"prompt": "p", "model": "gpt-4o"}, headers={"x-api-key": limited})
        assert served.status_code == 200


def test_only_post_is_served(client: httpx.Client) -> None:
    answer = client.get("/api/generate")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["code"] == "method_not_allowed"
