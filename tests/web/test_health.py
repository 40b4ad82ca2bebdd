from __future__ import annotations

from pathlib import Path

import httpx

from tests.running import tollgate, wait_until


def test_a_process_that_lives_says_so_without_a_key(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_a_server_that_can_record_is_ready(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        answer = httpx.get(f"{server.url}/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")


def test_a_sink_in_trouble_is_told_and_keeps_nobody_from_serving(tmp_path: Path) -> None:
    with tollgate(tmp_path, KONNECT_API_URL="http://127.0.0.1:9/v3/openmeter", TOLLGATE_SINK__LINGER_S="0") as server:
        headers = {"x-api-key": server.key()}
        asked = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=asked, headers=headers).status_code == 200
        wait_until(lambda: httpx.get(f"{server.url}/readyz").json()["delivery"] != "ok")
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert server.pending() == 1
