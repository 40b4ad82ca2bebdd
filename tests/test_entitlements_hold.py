"""Tenants that are customers of a metering engine: held to what it grants, by a real server that asks a real one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from proxy.model import Outcome
from tests.billing.engine import problem
from tests.billing.granting import FEATURE, Granting
from tests.gateway.test_forward import CHAT, plain
from tests.gateway.test_stop import events, stream, words
from tests.running import Running, tollgate, wait_until
from tests.scripted import Script, ScriptedUpstream
from tests.streams import ASK
from tests.test_limits_hold import limit

SOON = {"TOLLGATE_ENTITLEMENTS__REFRESH_S": "0.3", "TOLLGATE_ENTITLEMENTS__LAG_S": "0.3"}


@pytest.fixture
def engine() -> Iterator[Granting]:
    engine = Granting()
    with engine.running():
        yield engine
    assert engine.faults == []


@contextmanager
def entitled(directory: Path, url: str, script: Script, **more: str) -> Iterator[Running]:
    with ScriptedUpstream(default=script) as upstream:
        variables = {"TOLLGATE_ENTITLEMENTS__FEATURE": FEATURE, "TOLLGATE_ENTITLEMENTS__URL": url, **SOON, **more}
        with tollgate(directory, OPENAI_API_KEY="sk-x", OPENAI_BASE_URL=f"{upstream.url}/v1", **variables) as server:
            yield server


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    # As many kept connections as there are clients: those beyond, httpcore closes, also where another thread has just
    # been given one.
    with httpx.Client(timeout=30, limits=httpx.Limits(max_connections=100, max_keepalive_connections=100)) as client:
        yield client


def ask(client: httpx.Client, server: Running, key: str) -> httpx.Response:
    return client.post(server.url + CHAT, json=ASK | {"max_tokens": 4}, headers={"x-api-key": key})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("is_delivered", [True, False])
def test_fifty_clients_at_once_use_a_balance_up_and_never_more(
    tmp_path: Path, engine: Granting, is_delivered: bool, client: httpx.Client
) -> None:
    """Also where the engine hears of it at once, and where it never does."""
    customer = engine.add("user-001", balance=2_000)
    sink = {"KONNECT_API_URL": engine.v3} if is_delivered else {}
    with entitled(tmp_path, engine.v1, plain(), **sink) as server:
        key = server.key()

        def spend(_: int) -> int:
            served = 0
            while (answer := ask(client, server, key)).status_code == 200:
                served += 1
            assert answer.json()["error"]["code"] == "insufficient_quota", answer.text
            return served

        with ThreadPoolExecutor(50) as clients:
            served = sum(clients.map(spend, range(50)))
        used = sum(one.usage.total_tokens for one in server.settlements(served))
        assert used <= 2_000
        if is_delivered:
            # What was refused was what the engine might not have seen: asked again, all is used.
            wait_until(lambda: ask(client, server, key).status_code == 429 and 2_000 - customer.used < 15)
            assert customer.used <= 2_000
            customer.used = 0
            wait_until(lambda: ask(client, server, key).status_code == 200)
        assert client.get(f"{server.url}/api/usage", headers={"x-api-key": key}).json()["limits"] == []


def test_access_that_ends_is_noticed_and_so_is_its_renewal(
    tmp_path: Path, engine: Granting, client: httpx.Client
) -> None:
    customer = engine.add("user-001", balance=100)
    with entitled(tmp_path, engine.v3, plain()) as server:
        key, other = server.key(), server.key("no-customer")
        assert ask(client, server, key).status_code == 200
        customer.used = 100
        wait_until(lambda: ask(client, server, key).status_code == 429)
        refused = ask(client, server, key)
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert "entitlement ai_tokens is used up" in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert ask(client, server, other).status_code == 200
        assert client.get(f"{server.url}/v1/models", headers={"x-api-key": key}).status_code == 200  # free
        customer.used = 0
        wait_until(lambda: ask(client, server, key).status_code == 200)
        customer.granted = None
        wait_until(lambda: ask(client, server, key).status_code == 403)
        assert ask(client, server, key).json()["error"]["code"] == "not_entitled"


def test_a_stream_is_stopped_where_the_balance_is_used_up(tmp_path: Path, engine: Granting) -> None:
    engine.add("user-001", balance=200)
    with entitled(tmp_path, engine.v1, words(1000), TOLLGATE_LIMITS__STOP_STREAMS="true") as server:
        raw = stream(server, server.key())
        assert b": stopped by tollgate, used up: entitlement ai_tokens\n" in raw
        assert events(raw)[-1]["choices"][0]["finish_reason"] == "length"
        one = server.settlement()
        assert one.outcome is Outcome.STOPPED
        assert 190 <= one.usage.total_tokens <= 202


def test_limits_that_are_set_here_hold_as_well(tmp_path: Path, engine: Granting, client: httpx.Client) -> None:
    engine.add("user-001", balance=1_000_000)
    with entitled(tmp_path, engine.v1, plain()) as server:
        key = server.key()
        limit(server.app.database, "requests/day=2")
        assert [ask(client, server, key).status_code for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize("when_unknown", ["allow", "refuse"])
def test_an_engine_that_is_down_at_the_start_comes_and_goes(
    tmp_path: Path, when_unknown: str, client: httpx.Client
) -> None:
    port = free_port()
    engine = Granting()
    engine.add("user-001", balance=1_000, used=1_000)
    url = f"http://127.0.0.1:{port}/api/v1"
    more = {"TOLLGATE_ENTITLEMENTS__WHEN_UNKNOWN": when_unknown, "TOLLGATE_ENTITLEMENTS__STALE_S": "0.7"}
    unknown = 200 if when_unknown == "allow" else 503
    with entitled(tmp_path, url, plain(), **more) as server:
        key = server.key()
        assert ask(client, server, key).status_code == unknown
        if unknown == 503:
            assert ask(client, server, key).json()["error"]["code"] == "entitlement_unknown"
        ready = client.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.json()["entitlements"]["state"]) == (200, "failing")
        assert "\ntollgate_entitlements_up 0.0\n" in client.get(f"{server.url}/metrics").text
        with engine.running(port):
            wait_until(lambda: ask(client, server, key).status_code == 429)
            assert client.get(f"{server.url}/readyz").json()["entitlements"] == {"state": "ok", "trouble": ""}
            said = client.get(f"{server.url}/metrics").text
            assert 'tollgate_entitlement_questions_total{result="answered"}' in said
            engine.answers = lambda _: problem(503)
            wait_until(lambda: ask(client, server, key).status_code == unknown)
            engine.answers = lambda _: None
            wait_until(lambda: ask(client, server, key).status_code == 429)
    assert engine.faults == []


def test_without_the_setting_nobody_is_asked(tmp_path: Path, engine: Granting, client: httpx.Client) -> None:
    with entitled(tmp_path, engine.v1, plain(), TOLLGATE_ENTITLEMENTS__FEATURE="") as server:
        assert ask(client, server, server.key()).status_code == 200
        assert client.get(f"{server.url}/readyz").json()["entitlements"]["state"] == "off"
        assert "entitlement" not in client.get(f"{server.url}/metrics").text
    assert engine.asked == []
