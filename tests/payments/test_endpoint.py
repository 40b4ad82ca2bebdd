"""Notifications end to end: a real server, signed requests over real sockets, and the official SDK that feels them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.payments.endpoint import BODY_BYTES_MAX
from proxy.store import notifications, payments
from proxy.store.tenants import set_active
from tests.delivery.receiver import Receiver
from tests.payments.senders import (
    HOOKS,
    PERSON,
    STRIPE_SECRET,
    TIME_S,
    of_tenant,
    openmeter_event,
    openmeter_failed,
    send,
    stripe_event,
    stripe_headers,
    svix_headers,
)
from tests.running import Running, tollgate, wait_until
from tests.webhooks.hooks import hooks, until_told, variables

ROOT = Path(__file__).parents[2]
SUSPENDS = {**HOOKS, "TOLLGATE_HOOKS__SUSPENDS": "true"}
FAILED = stripe_event("invoice.payment_failed", metadata=of_tenant())
PAID = stripe_event("invoice.paid", event="evt_2", created=TIME_S + 60, metadata=of_tenant())
PATHS = ("/hooks/openmeter", "/hooks/stripe")


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that is told, tells on, and suspends."""
    directory = tmp_path_factory.mktemp("payments")
    with tollgate(directory, **variables(receiver, **SUSPENDS), TOLLGATE_SERVER__BODY_TIMEOUT_S="0.4") as server:
        yield server


def told(server: Running) -> list[str]:
    """The types of what is noted for webhooks, the oldest first."""
    with closing(server.app.database.connect(read_only=True)) as connection:
        return [str(sent.notification.topic) for sent in reversed(notifications.newest(connection, limit=999))]


def ask(server: Running, key: str) -> int:
    """The status of a request to the sandbox, by the SDK, which does not try again what is refused."""
    before = server.app.gateway.refusals.total()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key) as client:
        try:
            client.embeddings.create(model="text-embedding-3-small", input="hi")
        except openai.APIStatusError as error:
            status = error.status_code
        else:
            return 200
    assert server.app.gateway.refusals.total() == before + 1
    return status


def test_a_failed_payment_is_told_and_refuses_the_tenant_until_it_is_paid(server: Running, receiver: Receiver) -> None:
    key, other = server.key("acme"), server.key("other")
    trusted = server.key("gateway", trusted=True)
    assert ask(server, key) == 200
    before = len(receiver.received)
    of_acme: dict[str, Any] = {"invoice": "in_acme", "metadata": of_tenant("acme")}
    at = stripe_event("invoice.payment_failed", event="evt_acme", **of_acme)
    assert send(server.url, at).status_code == 204
    wait_until(lambda: ask(server, key) == 402)
    assert ask(server, other) == 200
    on_behalf = {"x-api-key": trusted, "x-tollgate-subject": "acme"}
    answer = httpx.get(f"{server.url}/api/usage", headers=on_behalf)
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "payment_required")
    assert answer.headers["x-should-retry"] == "false"
    at = stripe_event(
        "invoice.paid", event="evt_ac2", created=TIME_S + 9, invoice="in_acme", metadata=of_tenant("acme")
    )
    assert send(server.url, at).status_code == 204
    wait_until(lambda: ask(server, key) == 200)
    until_told(receiver, before + 2)
    got = [(hook.type, hook.data["tenant"], hook.data["suspended"]) for hook in hooks(receiver)[before:]]
    assert got == [("invoice.payment_failed", "acme", True), ("invoice.paid", "acme", False)]


def test_openmeter_is_heard_as_well_and_one_that_was_disabled_by_hand_stays_so(server: Running) -> None:
    key = server.key("manual")
    assert send(server.url, openmeter_failed(key="manual", invoice="01G65Z755AFWAKHE12NY0000AA")).status_code == 204
    wait_until(lambda: ask(server, key) == 402)
    with server.app.database.transaction() as connection:
        set_active(connection, "manual", active=False)
    paid = openmeter_event(
        status="paid", key="manual", invoice="01G65Z755AFWAKHE12NY0000AA", time_s=TIME_S + 60, event="0" * 26
    )
    assert send(server.url, paid).status_code == 204
    with closing(server.app.database.connect(read_only=True)) as connection:
        assert not payments.is_suspended(connection, "manual")
    wait_until(lambda: ask(server, key) == 403)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_secret_there_is_no_such_route_and_it_says_how_to_turn_it_on(path: str, tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        answer = httpx.post(server.url + path, content=b"{}")
    name = path.rpartition("/")[2]
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == (
        f"Notifications are not taken here. To turn that on, set hooks.{name}_secret"
        f" (TOLLGATE_HOOKS__{name.upper()}_SECRET)."
    )


@pytest.mark.parametrize("path", PATHS)
def test_only_a_post_is_served(server: Running, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def signed(path: str, body: bytes, **given: Any) -> dict[str, str]:
    return stripe_headers(body, **given) if path.endswith("stripe") else svix_headers(body, **given)


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_signature_is_a_401_in_openais_shape_and_leaves_nothing(server: Running, path: str) -> None:
    body = orjson.dumps(FAILED)
    before = told(server)
    old = signed(path, body, at=time.time() - 310)
    other = signed(path, body, secret="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
    for headers in ({}, old, other, signed(path, body + b" ")):
        answer = httpx.post(server.url + path, content=body, headers=headers)
        assert answer.status_code == 401
        error = answer.json()["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        assert error["code"] == "invalid_signature"
        assert "whsec_" not in answer.text
    assert told(server) == before
    assert 'tollgate_refusals_total{code="invalid_signature"}' in httpx.get(f"{server.url}/metrics").text


@pytest.mark.parametrize("path", PATHS)
def test_what_is_right_and_for_nobody_is_taken_and_ignored(server: Running, path: str) -> None:
    before = told(server)
    for document in ({"type": "entitlements.reset"}, {"type": "invoice.upcoming", "data": []}, {}):
        body = orjson.dumps(document)
        assert httpx.post(server.url + path, content=body, headers=signed(path, body)).status_code == 204
    assert told(server) == before


@pytest.mark.parametrize("path", PATHS)
def test_what_is_signed_and_cannot_be_read_is_a_400_that_names_the_field(server: Running, path: str) -> None:
    body = orjson.dumps({"id": "evt_1", "type": "invoice.paid" if "stripe" in path else "invoice.created"})
    answer = httpx.post(server.url + path, content=body, headers=signed(path, body))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "data")


def test_a_body_that_is_no_utf_8_is_refused(server: Running) -> None:
    body = b'{"type":"\xff"}'
    assert httpx.post(f"{server.url}/hooks/stripe", content=body, headers=stripe_headers(body)).status_code == 400
    headers = svix_headers(b"") | {"svix-signature": "v1,AAAA"}
    assert httpx.post(f"{server.url}/hooks/openmeter", content=body, headers=headers).status_code == 401


@pytest.mark.parametrize("path", PATHS)
def test_a_huge_body_is_refused_before_it_is_whole(server: Running, path: str) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * (BODY_BYTES_MAX // 16)

    try:
        answer = httpx.post(server.url + path, content=parts())
    except httpx.WriteError:
        return  # it hung up while we wrote
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_the_largest_body_is_taken(server: Running) -> None:
    body = orjson.dumps(FAILED)
    body += b" " * (BODY_BYTES_MAX - len(body))
    assert httpx.post(f"{server.url}/hooks/stripe", content=body, headers=stripe_headers(body)).status_code == 204


def test_a_body_that_is_cut_or_slow_leaves_nothing(server: Running) -> None:
    before = told(server)
    body = orjson.dumps(PAID)
    head = "".join(f"{name}: {value}\r\n" for name, value in stripe_headers(body).items())
    request = f"POST /hooks/stripe HTTP/1.1\r\nhost: a\r\n{head}content-length: {len(body) + 1}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", server.port)) as cut:
        cut.sendall(request)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(request)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
    assert told(server) == before


def test_duplicates_at_once_are_all_taken_and_told_once(server: Running) -> None:
    server.key("twice")
    document = stripe_event("invoice.payment_failed", event="evt_twice", invoice="in_tw", metadata=of_tenant("twice"))
    before = told(server)
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda _: send(server.url, document).status_code, range(48))]
    assert answers == [204] * 48
    assert told(server) == [*before, "invoice.payment_failed"]
    with closing(server.app.database.connect(read_only=True)) as connection:
        assert len(payments.suspensions(connection, "twice", limit=9)) == 1


def test_who_pays_is_neither_logged_nor_told(
    server: Running, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(receiver.received)
    with caplog.at_level("INFO"):
        send(server.url, openmeter_failed(key="Ada-Canary", invoice="01G65Z755AFWAKHE12NY0000BB"))
        send(server.url, stripe_event(event="evt_ada", invoice="in_ada"))
    assert "no tenant is known to be whose this is" in caplog.text
    until_told(receiver, before + 2)
    sent = b"".join(request.body for request in receiver.received[before:]).decode()
    for word in (*PERSON.values(), "Ada-Canary", STRIPE_SECRET):
        assert word not in caplog.text
        assert word not in sent


def test_while_the_ledger_is_in_trouble_the_sender_is_asked_to_send_again(tmp_path: Path) -> None:
    with tollgate(tmp_path, **SUSPENDS) as server:
        key = server.key()
        with closing(server.app.database.connect()) as connection:
            connection.execute("ALTER TABLE payments RENAME TO elsewhere")
            answer = send(server.url, FAILED)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
            connection.execute("ALTER TABLE elsewhere RENAME TO payments")
        server.app.commit.trouble = "the disk is full"
        assert send(server.url, FAILED).status_code == 503
        wait_until(lambda: not server.app.commit.trouble)
        assert ask(server, key) == 200
        assert send(server.url, FAILED).status_code == 204
        wait_until(lambda: ask(server, key) == 402)


@pytest.mark.parametrize(
    ("step", "survives"),
    [("before what was told of a payment is on disk", False), ("after what was told of a payment is on disk", True)],
)
def test_killed_on_the_way_it_is_sent_again_and_told_and_suspends_once(
    tmp_path: Path, step: str, survives: bool
) -> None:
    log = (tmp_path / "tollgate.log").open("wb")
    with Receiver() as receiver, log:
        settings = variables(receiver, **SUSPENDS)
        with tollgate(tmp_path, **settings) as server:
            key = server.key()
        killed = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server", step, "serve", "--port", "0"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db", **settings},
            stderr=log,
        )
        wait_until(lambda: b"listens on" in (tmp_path / "tollgate.log").read_bytes() or killed.poll() is not None)
        url = (tmp_path / "tollgate.log").read_text().split("listens on ")[1].split()[0]
        with pytest.raises(httpx.TransportError):
            send(url, FAILED)
        assert killed.wait(10) == -signal.SIGKILL
        with tollgate(tmp_path, **settings) as server:
            assert ask(server, key) == (402 if survives else 200)
            assert send(server.url, FAILED).status_code == 204
            wait_until(lambda: ask(server, key) == 402)
            until_told(receiver, 1)
            assert told(server) == ["invoice.payment_failed"]
            with closing(server.app.database.connect(read_only=True)) as connection:
                assert len(payments.suspensions(connection, limit=9)) == 1
    assert {hook.type for hook in hooks(receiver)} == {"invoice.payment_failed"}
