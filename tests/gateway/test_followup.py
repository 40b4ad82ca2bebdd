"""Background responses: one event each, when their usage becomes known, whatever happens in between."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.gateway import followup
from proxy.model import Outcome, UsageSource
from tests.gateway.test_forward import between
from tests.running import Running, wait_until
from tests.scripted import Peer, Script, answer

ASK = {"model": "gpt-4o", "input": "Hello", "background": True}
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followup, "FIRST_MS", 50)


def response(status: str, **more: Any) -> bytes:
    known = {"id": "resp_1", "object": "response", "background": True, "model": "gpt-4o-2024-08-06", "status": status}
    return answer(orjson.dumps(known | {"usage": None} | more), "content-type: application/json")


def states(done: threading.Event, *after: bytes) -> Script:
    """A script that answers a POST with `queued`, a GET with `in_progress` until `done`, and then with these."""
    left = list(after)

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.method == "POST":
                peer.send(response("queued"))
            elif not done.is_set():
                peer.send(response("in_progress"))
            else:
                peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def ask(server: Running) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/responses", json=ASK, headers={"x-api-key": server.key()})


@pytest.mark.parametrize(
    ("end", "outcome", "total"),
    [
        (response("completed", usage=USAGE), Outcome.COMPLETED, 13),
        (response("incomplete", usage=USAGE), Outcome.COMPLETED, 13),
        (response("failed", error={"message": "no"}), Outcome.UPSTREAM_ERROR, 0),
        (answer(b"{}", status="404 Not Found"), Outcome.UPSTREAM_ERROR, 0),
    ],
)
def test_it_is_settled_once_when_it_has_ended(tmp_path: Path, end: bytes, outcome: Outcome, total: int) -> None:
    done = threading.Event()
    with between(tmp_path, default=states(done, end)) as (server, upstream):
        first = ask(server)
        assert first.json()["status"] == "queued"
        wait_until(lambda: len(upstream.requests) >= 3)  # it was asked for, and goes on
        assert server.settlements() == []
        done.set()
        event = server.settlement()
        assert (event.outcome, event.usage.total_tokens) == (outcome, total)
        assert event.usage_source is (UsageSource.REPORTED if total else UsageSource.NONE)
        assert (event.id, event.response_id) == (first.headers["x-tollgate-request-id"], "resp_1")
        assert {request.target for request in upstream.requests[1:]} == {"/v1/responses/resp_1"}
        assert upstream.requests[1].headers["authorization"] == "Bearer sk-upstream-key"


WRITTEN = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello there, you."}]}]


@pytest.mark.parametrize(("output", "written"), [([], 0), (WRITTEN, 5)])
def test_one_that_is_cancelled_is_estimated_from_what_was_asked_and_written(
    tmp_path: Path, output: list[Any], written: int
) -> None:
    done = threading.Event()
    done.set()
    with between(tmp_path, default=states(done, response("cancelled", output=output))) as (server, _):
        ask(server)
        event = server.settlement()
    assert (event.outcome, event.usage_source) == (Outcome.COMPLETED, UsageSource.ESTIMATED)
    assert event.estimator == "bytes/4"
    assert event.usage.uncached_input > 0
    assert written <= event.usage.completion_tokens <= written + 5  # with what a model writes around its text


def test_one_cannot_be_deleted_before_its_usage_is_known(tmp_path: Path) -> None:
    ended = threading.Event()
    with between(tmp_path, default=states(ended, response("completed", usage=USAGE))) as (server, upstream):
        ask(server)
        url, headers = f"{server.url}/v1/responses/resp_1", {"x-api-key": server.key()}
        early = httpx.delete(url, headers=headers)
        assert (early.status_code, early.json()["error"]["code"]) == (400, "response_not_ended")
        assert "DELETE" not in {request.method for request in upstream.requests}
        ended.set()
        assert httpx.delete(url, headers=headers).status_code == 200
        assert [one.usage.total_tokens for one in server.settlements()] == [13]
        assert upstream.requests[-1].method == "DELETE"


def test_an_upstream_in_trouble_is_asked_again(tmp_path: Path) -> None:
    done = threading.Event()
    done.set()
    troubled = (answer(b"", status="500 No"), answer(b"not json"), answer(b"", status="429 Slow"))
    with between(tmp_path, default=states(done, *troubled, response("completed", usage=USAGE))) as (server, _):
        ask(server)
        assert server.settlement().usage.total_tokens == 13


def test_a_tenants_own_polling_changes_nothing(tmp_path: Path) -> None:
    done = threading.Event()
    with between(tmp_path, default=states(done, response("completed", usage=USAGE))) as (server, _):
        ask(server)
        done.set()
        headers = {"x-api-key": server.key()}
        for _ in range(3):
            polled = httpx.get(f"{server.url}/v1/responses/resp_1", headers=headers)
            assert polled.json()["usage"] == USAGE
        assert server.settlement().usage.total_tokens == 13
        assert [line.requests for line in server.usage()] == [1]


def test_a_restart_forgets_none(tmp_path: Path) -> None:
    done = threading.Event()
    with between(tmp_path, default=states(done, response("completed", usage=USAGE))) as (server, _):
        ask(server)
        assert server.settlements() == []
    done.set()
    with between(tmp_path, default=states(done, response("completed", usage=USAGE))) as (server, _):
        assert server.settlement().usage.total_tokens == 13


def test_one_that_is_answered_at_once_is_settled_at_once(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(response("completed", usage=USAGE))

    with between(tmp_path, default=script) as (server, upstream):
        ask(server)
        assert server.settlement().usage.total_tokens == 13
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("response_id", ["", "../files", "a b", "x\r\nevil: 1"])
def test_an_id_that_cannot_stand_in_a_path_is_not_asked_for(tmp_path: Path, response_id: str) -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(response("queued", id=response_id))

    with between(tmp_path, default=script) as (server, upstream):
        ask(server)
        assert server.settlement().usage_source is UsageSource.ESTIMATED
        assert len(upstream.requests) == 1
