from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from proxy.app import create_app
from proxy.errors import ConfigurationError
from proxy.settings import load
from proxy.store import tenants
from tests.delivery.receiver import Receiver
from tests.running import tollgate, wait_until
from tests.scripted import ScriptedUpstream
from tests.streams import ASK

CHAT = "/v1/chat/completions"


def test_the_demo_key_is_made_at_the_first_start_only(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        key = server.app.demo_key
        assert httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": key}).status_code == 200
    with tollgate(tmp_path) as server:
        assert server.app.demo_key == ""
        assert httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": key}).status_code == 200


def test_with_a_real_upstream_there_is_no_demo_and_an_old_demo_key_spends_nothing(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        key = server.app.demo_key
    with (
        ScriptedUpstream() as upstream,
        tollgate(tmp_path, OPENAI_API_KEY="sk-x", OPENAI_BASE_URL=f"{upstream.url}/v1") as server,
    ):
        assert server.app.demo_key == ""
        assert httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": key}).status_code == 401
        assert upstream.requests == []
        with server.app.database.transaction() as connection:
            assert tenants.keys(connection, "demo")[0].revoked_ms is not None


def test_an_upstream_that_needs_no_key_is_sent_none(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, tollgate(tmp_path, OPENAI_BASE_URL=f"{upstream.url}/v1") as server:
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert "authorization" not in upstream.requests[0].headers


def test_events_go_out_before_the_server_stops(tmp_path: Path) -> None:
    with Receiver() as receiver:
        with tollgate(tmp_path, KONNECT_API_URL=receiver.base_url, TOLLGATE_SINK__LINGER_S="30") as server:
            httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert len(receiver.accepted) == 1


def test_what_was_left_over_goes_out_at_the_next_start(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
        assert server.pending() == 1
    with Receiver() as receiver, tollgate(tmp_path, KONNECT_API_URL=receiver.base_url) as server:
        wait_until(lambda: len(receiver.accepted) == 1)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TOLLGATE_DATABASE_URL": "postgresql://x/y"}, "database_url"),
        ({"TOLLGATE_UPSTREAM__BASE_URL": "http://h/v1?a=b"}, "upstream.base_url"),
        ({"KONNECT_API_URL": "http://a/b", "TOLLGATE_SINK__FILE": "x"}, "sink."),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name_before_anything_starts(
    tmp_path: Path, variables: dict[str, str], named: str
) -> None:
    given = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/t.db"} | variables
    with pytest.raises(ConfigurationError, match=named):
        create_app(load(given, directory=tmp_path))
