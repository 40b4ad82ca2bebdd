"""Tenants with an upstream key of their own: their requests go out with it, and have the account to themselves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from proxy.gateway import followup
from proxy.store import tenants
from tests.gateway.test_followup import USAGE, response
from tests.gateway.test_forward import UPSTREAM_KEY, between
from tests.running import Running, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
OWN = "sk-CANARY-of-the-tenant"


@contextmanager
def world(
    directory: Path, default: object = None, **variables: str
) -> Iterator[tuple[Running, ScriptedUpstream, Path]]:
    """A Tollgate, and the file in which the tenant "own" has its key."""
    file = directory / "key"
    file.write_text(OWN)
    with between(directory, default=default or says_who, **variables) as (server, upstream):  # type: ignore[arg-type] # a script
        yield server, upstream, file


def says_who(peer: Peer) -> None:
    """Answers with the key that it was asked with, as an account would with what is in it."""
    while True:
        request = peer.request()
        peer.send(
            answer(orjson.dumps({"account": request.headers["authorization"][-6:]}), "content-type: application/json")
        )


def set_key(server: Running, tenant: str, reference: str) -> str:
    """A key of the tenant's here, whose upstream key is found there."""
    key = server.key(tenant)
    with server.app.database.transaction() as connection:
        tenants.set_upstream_key(connection, tenant, reference)
    return key


def credential(upstream: ScriptedUpstream) -> str:
    return upstream.requests[-1].headers["authorization"]


def test_its_requests_go_out_with_its_key_and_all_others_with_the_service_s(tmp_path: Path) -> None:
    with world(tmp_path) as (server, upstream, file), httpx.Client(base_url=server.url) as http:
        own, shared = set_key(server, "own", f"file:{file}"), server.key("shared")
        for _ in range(3):
            for key, sent in ((own, OWN), (shared, UPSTREAM_KEY)):
                http.post("/v1/chat/completions", json=ASK, headers={"x-api-key": key})
                assert credential(upstream) == f"Bearer {sent}"
                http.post("/api/generate", json={"prompt": "hi"}, headers={"x-api-key": key})
                assert credential(upstream) == f"Bearer {sent}"
        wait_until(lambda: len(server.settlements()) == 12)
        assert {(one.subject, one.provider) for one in server.settlements()} == {
            ("own", "127.0.0.1"),
            ("shared", "127.0.0.1"),
        }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/v1/files"), ("POST", "/v1/files"), ("DELETE", "/v1/files/file-1"), ("GET", "/v1/vector_stores")),
        *(("GET", "/v1/chat/completions"), ("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/conversations/conv_1")),
        *(("GET", "/v1/organization/users"), ("POST", "/v1/batches"), ("GET", "/v1/fine_tuning/jobs")),
    ],
)
def test_it_has_the_account_wide_routes_under_that_key(tmp_path: Path, method: str, path: str) -> None:
    with world(tmp_path) as (server, upstream, file), httpx.Client(base_url=server.url) as http:
        own, shared = set_key(server, "own", f"file:{file}"), server.key("shared")
        body = {"json": {"input_file_id": "file-1"}} if method == "POST" else {}
        assert http.request(method, path, headers={"x-api-key": shared}, **body).status_code in (403, 404)  # type: ignore[arg-type] # json=
        assert upstream.requests == []
        told = http.request(method, path, headers={"x-api-key": own}, **body)  # type: ignore[arg-type] # json=
        assert (told.status_code, told.json()) == (200, {"account": OWN[-6:]})


def test_its_bodies_name_whatever_its_account_holds_and_pass_as_they_came(tmp_path: Path) -> None:
    with world(tmp_path) as (server, upstream, file):
        headers = {"x-api-key": set_key(server, "own", f"file:{file}"), "idempotency-key": "order-1"}
        body = {"model": "m", "input": [{"id": "msg_1"}], "previous_response_id": "resp_1", "prompt": {"id": "p"}}
        assert httpx.post(f"{server.url}/v1/responses", json=body, headers=headers).status_code == 200
        assert orjson.loads(upstream.requests[0].body) == body
        assert upstream.requests[0].headers["idempotency-key"] == "order-1"


def test_realtime_sessions_would_go_past_the_meter_all_the_same(tmp_path: Path) -> None:
    with world(tmp_path) as (server, upstream, file):
        headers = {"x-api-key": set_key(server, "own", f"file:{file}")}
        told = httpx.post(f"{server.url}/v1/realtime/client_secrets", json={}, headers=headers)
        assert told.status_code == 501
        assert upstream.requests == []


@pytest.mark.parametrize("reference", ["env:TOLLGATE_TEST_NOT_SET", "file:/not/there"])
def test_a_key_that_is_not_there_is_never_replaced_by_the_service_s(
    tmp_path: Path, reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    with world(tmp_path) as (server, upstream, _), caplog.at_level(logging.ERROR):
        headers = {"x-api-key": set_key(server, "own", reference)}
        for _ in range(2):
            told = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers)
            assert (told.status_code, told.json()["error"]["code"]) == (502, "upstream_key_missing")
            assert reference not in told.text
        assert upstream.requests == []
        assert server.settlements() == []
        assert [reference in record.message for record in caplog.records] == [True]
        shared = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": server.key("other")})
        assert shared.status_code == 200


def test_a_key_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_OPENAI_KEY", OWN)
    with world(tmp_path) as (server, upstream, _):
        headers = {"x-api-key": set_key(server, "own", "env:ACME_OPENAI_KEY")}
        httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers)
        assert credential(upstream) == f"Bearer {OWN}"


def test_a_running_server_takes_a_new_place_and_a_new_key_within_a_second_or_so(tmp_path: Path) -> None:
    with world(tmp_path) as (server, upstream, file), httpx.Client(base_url=server.url) as http:
        headers = {"x-api-key": server.key("own")}

        def sent() -> str:
            http.post("/v1/chat/completions", json=ASK, headers=headers)
            return credential(upstream).removeprefix("Bearer ")

        assert sent() == UPSTREAM_KEY
        since = time.monotonic()
        set_key(server, "own", f"file:{file}")
        wait_until(lambda: sent() == OWN)
        assert time.monotonic() - since < 5
        file.write_text("sk-rotated")
        wait_until(lambda: sent() == "sk-rotated")
        set_key(server, "own", "")
        wait_until(lambda: sent() == UPSTREAM_KEY)


def test_a_refused_key_is_said_to_be_the_tenant_s_and_starred_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(peer: Peer) -> None:
        while True:
            request = peer.request()
            status = "401 No" if "completions" in request.target else "400 No"
            peer.send(answer(request.headers["authorization"].encode(), status=status))

    with world(tmp_path, refuses) as (server, _, file), caplog.at_level(logging.ERROR):
        headers = {"x-api-key": set_key(server, "own", f"file:{file}")}
        told = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers)
        assert (told.status_code, told.json()["error"]["code"]) == (502, "upstream_key_refused")
        assert "the key that is set for your account" in told.json()["error"]["message"]
        assert f"file:{file}" in caplog.text
        repeated = httpx.get(f"{server.url}/v1/files", headers=headers)
        assert repeated.text == "Bearer " + "*" * len(OWN)
    assert "CANARY" not in caplog.text
    assert "CANARY" not in (tmp_path / "tollgate.db").read_bytes().decode("latin-1")


def test_a_background_response_is_asked_for_with_the_key_that_it_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followup, "FIRST_MS", 50)

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.method == "POST":
                peer.send(response("queued"))
            elif request.headers["authorization"].endswith(OWN) and (tmp_path / "ended").exists():
                peer.send(response("completed", usage=USAGE))
            elif request.headers["authorization"].endswith(OWN):
                peer.send(response("in_progress"))
            else:
                peer.send(answer(b"{}", status="404 Not Found"))

    with world(tmp_path, script) as (server, upstream, file):
        headers = {"x-api-key": set_key(server, "own", f"file:{file}")}
        asked = {"model": "gpt-4o", "input": "x", "background": True}
        httpx.post(f"{server.url}/v1/responses", json=asked, headers=headers)
        set_key(server, "own", "")  # what comes now goes elsewhere; what was made stays where it is
        wait_until(lambda: len(upstream.requests) >= 3)
        (tmp_path / "ended").touch()
        assert server.settlement().usage.total_tokens == 13


def test_those_whom_a_tenant_speaks_for_share_its_account_and_are_kept_apart_in_it(tmp_path: Path) -> None:
    def makes(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(answer(orjson.dumps({"id": "resp_1", "object": "response", "status": "completed"})))

    with world(tmp_path, makes) as (server, upstream, file), httpx.Client(base_url=server.url) as http:
        set_key(server, "platform", f"file:{file}")
        key = server.key("platform", trusted=True)

        def headers(subject: str) -> dict[str, str]:
            return {"x-api-key": key, "x-tollgate-subject": subject}

        http.post("/v1/responses", json={"model": "m", "input": "x"}, headers=headers("user-1"))
        assert credential(upstream) == f"Bearer {OWN}"
        assert http.get("/v1/responses/resp_1", headers=headers("user-1")).status_code == 200
        assert http.get("/v1/responses/resp_1", headers=headers("user-2")).status_code == 404
        assert http.get("/v1/files", headers=headers("user-1")).status_code == 403
        assert http.get("/v1/files", headers=headers("platform")).status_code == 200
