from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from proxy.store import notifications
from proxy.webhooks.messages import trial
from tests.delivery.receiver import Answer, Receiver
from tests.running import Running, tollgate, wait_until
from tests.streams import ASK
from tests.webhooks.hooks import variables


def delivery(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/readyz").json()["delivery"]
    return found


def webhooks(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/readyz").json()["webhooks"]
    return found


def test_a_process_that_lives_says_so_without_a_key(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_a_server_that_can_record_is_ready(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        answer = httpx.get(f"{server.url}/readyz")
    assert answer.status_code == 200
    nothing = {"pending": 0, "oldest_pending_age_s": None, "dead": 0, "warning": ""}
    off = {"state": "off", "trouble": ""}
    assert answer.json() == {
        "status": "ready",
        "ledger": "ok",
        "delivery": off | nothing,
        "webhooks": off,
        "entitlements": off,
        "declaration": off,
    }


def test_a_sink_in_trouble_is_told_and_keeps_nobody_from_serving(tmp_path: Path) -> None:
    with tollgate(tmp_path, KONNECT_API_URL="http://127.0.0.1:9/v3/openmeter", TOLLGATE_SINK__LINGER_S="0") as server:
        headers = {"x-api-key": server.key()}
        assert delivery(server)["state"] == "ok"
        assert httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers).status_code == 200
        wait_until(lambda: delivery(server)["state"] == "failing")
        assert "the sink takes no events" in delivery(server)["trouble"]
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert server.pending() == 1


def test_a_backlog_is_told_with_its_age(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": server.key()})
        server.settlements(1)
    with tollgate(tmp_path, KONNECT_API_URL="http://127.0.0.1:9/v3/openmeter") as server:
        wait_until(lambda: delivery(server)["pending"] == 1)
        assert 0 <= delivery(server)["oldest_pending_age_s"] < 60
        assert delivery(server)["warning"] == ""


def test_a_receiver_of_webhooks_in_trouble_is_told_and_keeps_nobody_from_serving(tmp_path: Path) -> None:
    with Receiver(judge=lambda _: Answer(403)) as receiver, tollgate(tmp_path, **variables(receiver)) as server:
        with server.app.database.transaction() as connection:
            notifications.note(connection, [trial(0)])
        wait_until(lambda: webhooks(server)["state"] == "failing" and webhooks(server)["pending"] == 1)
        answer = httpx.get(f"{server.url}/readyz")
        assert (answer.status_code, answer.json()["delivery"]["state"]) == (200, "off")
        assert webhooks(server)["dead"] == 0
        assert "delivery is paused: 403 Forbidden: the receiver refuses the signature" in webhooks(server)["trouble"]
