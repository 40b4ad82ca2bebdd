from __future__ import annotations

import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.admin.api import BODY_BYTES_MAX
from proxy.admin.operations import OPERATIONS
from proxy.store import accounts
from proxy.store.tenants import keys, tenants
from tests.admin.asking import TOKEN, Operator, operating, problem_of
from tests.raw import RawClient
from tests.running import Running, tollgate


@pytest.mark.parametrize("path", ["/admin/tenants", "/admin/", "/admin", "/admin/nope", "/admin/tenants/x/keys"])
def test_without_a_token_all_of_it_is_off_and_says_how_to_turn_it_on(tmp_path: Path, path: str) -> None:
    with tollgate(tmp_path) as server:
        for method in ("GET", "POST"):
            answer = httpx.request(method, f"{server.url}{path}", headers={"authorization": "Bearer"})
            assert "Set TOLLGATE_ADMIN_TOKEN" in problem_of(answer, 404, "admin_off")["detail"]


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
    ],
)
def test_who_does_not_send_the_token_learns_nothing(server: Running, sent: str | None) -> None:
    headers = {} if sent is None else {"authorization": sent}
    for path in ("/admin/tenants", "/admin/nope"):
        answer = httpx.post(f"{server.url}{path}", headers=headers, content=b"x")
        assert TOKEN not in str(problem_of(answer, 401, "invalid_api_key"))
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_tenant_s_key_opens_nothing_and_the_token_is_no_key(server: Running, operator: Operator) -> None:
    key = server.key()
    for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"x-api-key": TOKEN}):
        problem_of(httpx.get(f"{server.url}/admin/tenants", headers=headers), 401, "invalid_api_key")
    assert httpx.get(f"{server.url}/api/usage", headers={"x-api-key": TOKEN}).status_code == 401
    assert operator("GET", "/tenants", headers={"authorization": f"bearer  {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "allow"),
    [
        ("GET", "/", 404, "unknown_url", None),
        ("GET", "/tenants/", 404, "unknown_url", None),
        ("GET", "/tenants/a/b/c", 404, "unknown_url", None),
        ("DELETE", "/tenants", 405, "method_not_allowed", "GET, POST"),
        ("HEAD", "/tenants", 405, "method_not_allowed", "GET, POST"),
        ("POST", "/events/req_1", 405, "method_not_allowed", "GET"),
        ("PUT", "/events/replay", 405, "method_not_allowed", "GET, POST"),
    ],
)
def test_what_is_not_served_is_told(
    operator: Operator, method: str, path: str, status: int, kind: str, allow: str | None
) -> None:
    answer = operator(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert answer.headers["x-tollgate-request-id"].startswith("req_")
    if method != "HEAD":
        problem_of(answer, status, kind)


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: one.name)
def test_every_operation_asks_for_the_token_and_answers_json(server: Running, operator: Operator, one: Any) -> None:
    path = one.path.removeprefix("/admin").replace("{", "").replace("}", "")
    problem_of(httpx.request(one.method, f"{server.url}/admin{path}"), 401, "invalid_api_key")
    answer = operator(one.method, path)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    assert answer.status_code in (200, 400, 404), answer.text


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"{", "body", "not valid JSON"),
        (b"", "id", "Field required"),
        (b"[]", "body", "must be a JSON object"),
        (b'{"id": "a", "id": "b"}', "id", "twice"),
        (b'{"id": "a", "name": {"x": 1, "x": 2}}', "x", "twice"),
        (b'{"id": "a", "nmae": "x"}', "nmae", "there are id, name, upstream_key, plan"),
        (b'{"id": 5}', "id", "valid string"),
        (b'{"id": "a", "name": NaN}', "body", "no JSON"),
        (b'{"id": "\xff"}', "body", "UTF-8"),
        (b'{"id": "a", "name": "\\ud800"}', "body", "surrogate"),
        (b'{"id": "a", "name": ' + b"[" * 100_000, "body", "not valid JSON"),
        (b'{"id": "a", "name": ' + b"9" * 5_000 + b"}", "body", "not valid JSON"),
        (b'{"id": "a", "name": "' + b"x" * 257 + b'"}', "name", "at most 256"),
        (b'{"id": "a b"}', "id", "use 1 to 128 letters"),
        (b'{"id": "a", "upstream_key": "sk-proj-CANARY"}', "upstream_key", "env:NAME"),
        (b'{"id": "a", "plan": "pro"}', "plan", "there is no plan pro"),
    ],
)
def test_a_body_that_cannot_be_is_refused_and_names_the_field(
    operator: Operator, body: bytes, field: str, words: str
) -> None:
    before = operator.all("/tenants", 1_000)
    said = operator.refused("POST", "/tenants", 400, "wrong_input", content=body)
    assert said["errors"][0]["field"] == field
    assert words in said["errors"][0]["detail"]
    assert "CANARY" not in str(said)
    assert operator.all("/tenants", 1_000) == before


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=5&limit=6", "limit"),
        ("colour=red", "colour"),
        ("after=%ff", "query"),
        ("after=" + "x" * 300, "after"),
        ("&".join(["x=1"] * 1_001), "query"),
    ],
)
def test_a_query_that_cannot_be_is_refused_and_names_the_parameter(operator: Operator, query: str, field: str) -> None:
    said = operator.refused("GET", f"/tenants?{query}", 400, "wrong_input")
    assert said["errors"][0]["field"] == field


def test_an_id_in_a_path_may_have_a_slash_and_must_be_utf_8(operator: Operator) -> None:
    assert "there is no event a/b" in operator.refused("GET", "/events/a%2Fb", 404, "no_such")["detail"]
    assert operator.refused("GET", "/events/%ff", 400, "wrong_input")["errors"][0]["field"] == "event_id"


def test_a_large_body_is_refused_and_the_next_request_is_served(operator: Operator) -> None:
    operator.refused("POST", "/tenants", 413, "request_too_large", content=b" " * (BODY_BYTES_MAX + 1))
    operator.refused("POST", "/tenants", 415, "unsupported_content_encoding", headers={"content-encoding": "gzip"})
    operator.done("GET", "/tenants")


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    with operating(tmp_path, TOLLGATE_SERVER__BODY_TIMEOUT_S="0.2") as (server, operator):
        with RawClient(server.port) as client:
            client.send(
                b"POST /admin/tenants HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n"
                b"authorization: Bearer %b\r\n\r\n{" % TOKEN.encode()
            )
            assert b"/docs#request_timeout" in client.read_until(b"}")
        operator.done("GET", "/tenants")


def test_a_repeated_request_changes_nothing_and_is_answered_the_same(operator: Operator) -> None:
    again: dict[str, Any] = {"headers": {"idempotency-key": "setup-1"}, "json": {"id": "acme"}}
    first = operator("POST", "/tenants", **again)
    second = operator("POST", "/tenants", **again)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert [one.headers.get("idempotent-replayed") for one in (first, second)] == [None, "true"]
    operator.refused("POST", "/tenants", 409, "refused", json={"id": "acme"})
    said = operator.refused("POST", "/tenants", 409, "refused", headers=again["headers"], json={"id": "other"})
    assert "stood for another request" in said["detail"]
    assert operator.refused(
        "POST", "/tenants", 400, "wrong_input", headers={"idempotency-key": "a b"}, json={"id": "b"}
    )


def test_a_repeated_creation_of_a_key_makes_no_other_and_never_shows_the_secret_again(
    directory: Path, server: Running, operator: Operator, tenant: str
) -> None:
    again: dict[str, Any] = {"headers": {"idempotency-key": "k1"}, "json": {"name": "ci"}}
    made = operator.done("POST", f"/tenants/{tenant}/keys", 201, **again)
    repeated = operator.done("POST", f"/tenants/{tenant}/keys", 201, **again)
    assert repeated == made | {"key": None}
    rotate: dict[str, Any] = {"headers": {"idempotency-key": "k2"}}
    rotated = operator.done("POST", f"/keys/{made['id']}/rotate", 201, **rotate)
    assert operator.done("POST", f"/keys/{made['id']}/rotate", 201, **rotate) == rotated | {"key": None}
    with closing(server.app.database.connect()) as connection:
        assert len(keys(connection, tenant)) == 2
    on_disk = b"".join(path.read_bytes() for path in directory.glob("tollgate.db*"))
    for secret in (made["key"], rotated["key"]):
        assert secret.encode() not in on_disk


def test_a_request_that_was_refused_may_be_made_again_with_its_key(operator: Operator) -> None:
    again: dict[str, Any] = {"headers": {"idempotency-key": "k"}, "json": {"name": "ci"}}
    operator.refused("POST", "/tenants/later/keys", 404, "no_such", **again)
    operator.done("POST", "/tenants", 201, json={"id": "later"})
    assert operator.done("POST", "/tenants/later/keys", 201, **again)["key"] is not None


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "same"}])
def test_of_many_creations_at_once_one_is_made(server: Running, headers: dict[str, str]) -> None:
    statuses: list[int] = []
    tenant_id = f"at-once-{len(headers)}"

    def create() -> None:
        more = {"authorization": f"Bearer {TOKEN}", **headers}
        answer = httpx.post(f"{server.url}/admin/tenants", headers=more, json={"id": tenant_id})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == ([201] * 12 if headers else [201, *[409] * 11])
    with closing(server.app.database.connect()) as connection:
        assert [one.id for one in tenants(connection)].count(tenant_id) == 1


def test_a_client_that_leaves_in_the_middle_changes_nothing(server: Running, operator: Operator) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        head = b"POST /admin/tenants HTTP/1.1\r\nhost: t\r\ncontent-length: 50\r\nauthorization: Bearer %b\r\n\r\n"
        client.sendall(head % TOKEN.encode() + b'{"id": "left"')
    assert "left" not in [one["id"] for one in operator.all("/tenants", 1)]


def test_what_fails_inside_is_told_as_our_fault_and_no_more(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_oddly = "SELECT 'a', 5, 'active', 0, '', '', 0 WHERE ? < 'x' LIMIT ?"
    for query in (5, answers_oddly):  # a call that is wrong, and an answer that does not fit its model
        monkeypatch.setattr(accounts, "TENANTS", query)
        said = operator.refused("GET", "/tenants", 500, "internal_error")
        assert said["detail"] == "This service failed to serve your request."
