from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.running import tollgate


@pytest.mark.parametrize("path", ["/nope", "/", "/healthz/", "/api/generate/"])
def test_an_unknown_route_is_refused_in_openais_shape(tmp_path: Path, path: str) -> None:
    with tollgate(tmp_path) as server:
        answer = httpx.get(f"{server.url}{path}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["code"] == "unknown_url"
    assert answer.headers["x-tollgate-request-id"] == answer.headers["x-request-id"]


def test_a_wrong_method_is_refused_in_openais_shape(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        answer = httpx.post(f"{server.url}/healthz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]
