from __future__ import annotations

from pathlib import Path

import httpx
import orjson
import pytest

from tests.delivery.receiver import Receiver
from tests.process import command
from tests.running import tollgate, wait_until
from tests.streams import ASK


def test_a_request_is_explained_from_what_was_asked_to_what_the_sink_said(tmp_path: Path) -> None:
    with Receiver() as receiver, tollgate(tmp_path, KONNECT_API_URL=receiver.base_url) as server:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": server.key()})
        wait_until(lambda: server.pending() == 0 and len(receiver.accepted) == 1)
    variables = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db"}
    request_id = answer.headers["x-tollgate-request-id"]
    told = orjson.loads(command(tmp_path, "explain", request_id, "--json", **variables))
    assert told["asked"]["model"] == "gpt-4o-mini"
    assert told["answered"]["model_family"] == "gpt-4o-mini"
    assert told["answered"]["upstream"].startswith("127.0.0.1:")
    assert told["usage"]["total_tokens"] == answer.json()["usage"]["total_tokens"]
    assert sum(told["usage"]["buckets"].values()) == told["usage"]["total_tokens"]
    assert "`usage`" in told["usage"]["rule"]
    assert told["delivery"]["state"] == "accepted"
    assert told["delivery"]["events"] == receiver.accepted
    for_people = command(tmp_path, "explain", request_id, **variables)
    assert "reported by the upstream, read from `usage` of its answer" in for_people


def test_a_request_that_never_was_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="there is no event req_none"):
        command(tmp_path, "explain", "req_none")
