from __future__ import annotations

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.store import notifications
from proxy.webhooks.messages import trial
from tests.delivery.receiver import Answer, Receiver
from tests.process import command
from tests.running import Running, tollgate, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.store.samples import sums_of_events
from tests.streams import ASK, ASK_STREAM, PLAIN, SSE_HEAD, STREAM_WITH_USAGE, chunk
from tests.webhooks.hooks import variables

CHAT = "/v1/chat/completions"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Running, **headers: str) -> Samples:
    """Every sample, by name and labels, as Prometheus itself reads them."""
    said = httpx.get(f"{server.url}/metrics", headers=headers)
    assert said.status_code == 200
    assert said.headers["content-type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(said.text):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"tollgate_{name}", frozenset(labels.items())]


def labelled(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a name that are not 0, by the values of their labels in the order of the labels' names."""
    return {
        tuple(text for _, text in sorted(labels)): number
        for (sample, labels), number in samples.items()
        if sample == f"tollgate_{name}" and number
    }


def test_a_fresh_server_counts_nothing_and_is_up(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        samples = scrape(server)
    assert value(samples, "ledger_up") == 1
    assert labelled(samples, "settlements_total") == {}
    assert len([1 for name, _ in samples if name == "tollgate_settlements_total"]) == 24, "each is there from the start"
    assert not [name for name, _ in samples if "deliveries" in name], "there is no sink"
    assert not [name for name, _ in samples if "webhook" in name], "nor are there webhooks"
    assert samples["process_resident_memory_bytes", frozenset()] > 1_000_000


def test_openmetrics_is_spoken_to_who_asks_for_it(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        said = httpx.get(f"{server.url}/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert said.headers["content-type"].startswith("application/openmetrics-text")
    assert said.text.endswith("# EOF\n")


def test_after_a_hundred_mixed_requests_the_counts_are_the_ledgers(tmp_path: Path) -> None:
    def mixed(peer: Peer) -> None:
        while True:
            asked = peer.request()
            if b'"fail"' in asked.body:
                peer.send(answer(b'{"error": {"message": "no"}}', status="500 Internal Server Error"))
            elif b'"cut"' in asked.body:
                peer.send(answer(PLAIN)[:-4])
                peer.close()
                return
            elif b'"stream": true' in asked.body or b'"stream":true' in asked.body:
                peer.send(SSE_HEAD + chunk(STREAM_WITH_USAGE) + chunk(b""))
            else:
                peer.send(answer(PLAIN, "content-type: application/json"))

    with (
        ScriptedUpstream(default=mixed) as upstream,
        Receiver() as receiver,
        tollgate(tmp_path, OPENAI_BASE_URL=f"{upstream.url}/v1", KONNECT_API_URL=receiver.base_url) as server,
    ):
        key, limited = server.key(), server.key("user-002", models=("gpt-4o",))
        asked: list[tuple[dict[str, Any] | str, str]] = [
            (ASK, key),
            (ASK_STREAM, key),
            (ASK | {"user": "fail"}, key),
            (ASK | {"user": "cut"}, key),
        ]
        asked += [(ASK, "tg_unknown"), (ASK | {"model": "gpt-4.1"}, limited), ("nonsense", key)]

        def ask(number: int) -> None:
            body, bearer = asked[number % len(asked)]
            with httpx.Client(headers={"authorization": f"Bearer {bearer}"}) as client:
                try:
                    sent = {"json": body} if isinstance(body, dict) else {"content": body}
                    client.post(server.url + CHAT, **sent)
                except httpx.RemoteProtocolError:
                    assert "cut" in str(body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(98)))
        httpx.post(f"{server.url}/api/generate", json={"prompt": "Hello"}, headers={"x-api-key": key})
        httpx.post(f"{server.url}/api/generate", json={"prompt": 3}, headers={"x-api-key": key})

        settlements = server.settlements(14 * 4 + 1)
        wait_until(lambda: len(receiver.accepted) == len(settlements))
        wait_until(lambda: value(scrape(server), "events_delivered_total") == len(settlements))
        samples = scrape(server)
        counted = Counter((str(one.outcome), str(one.usage_source)) for one in settlements)
        assert labelled(samples, "settlements_total") == counted
        assert len(counted) >= 3
        assert value(samples, "tokens_total", kind="prompt") == sum(one.usage.prompt_tokens for one in settlements)
        assert value(samples, "tokens_total", kind="completion") == sum(
            one.usage.completion_tokens for one in settlements
        )
        refused = labelled(samples, "refusals_total")
        assert refused["invalid_api_key",] == refused["model_not_allowed",] == 14
        assert sum(refused.values()) == 14 * 3 + 1
        assert labelled(samples, "deliveries_total").keys() == {("accepted",)}
        assert value(samples, "requests_in_flight") == value(samples, "answers_draining") == 0
        assert value(samples, "upstream_connections") >= 1
        with closing(server.app.database.connect()) as connection:
            assert sum(row[6] for row in sums_of_events(connection)) == sum(counted.values())


def test_what_waits_and_what_was_refused_is_shown(tmp_path: Path) -> None:
    with Receiver(judge=lambda _: Answer.problem(400, detail="no")) as receiver:
        with tollgate(tmp_path, KONNECT_API_URL=receiver.base_url, TOLLGATE_SINK__LINGER_S="0") as server:
            httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": server.key()})
            wait_until(lambda: value(scrape(server), "deliveries_total", result="refused") == 1)
        with tollgate(tmp_path) as server:
            wait_until(lambda: value(scrape(server), "events_dead") == 1)
            assert value(scrape(server), "events_pending") == 0
        variables = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db"}
        command(tmp_path, "events", "replay", "--all", **variables)
        with tollgate(tmp_path) as server:
            wait_until(lambda: value(scrape(server), "events_pending") == 1)
            assert value(scrape(server), "events_oldest_pending_age_seconds") >= 0


def test_a_ledger_that_is_down_shows_and_so_does_what_it_did_not_take(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tollgate(tmp_path) as server:
        headers = {"x-api-key": server.key()}
        httpx.post(server.url + CHAT, json=ASK, headers=headers)
        with closing(sqlite3.connect(server.app.database.path)) as other:
            other.execute("ALTER TABLE events RENAME TO lost")
            httpx.post(server.url + CHAT, json=ASK, headers=headers)
            wait_until(lambda: value(scrape(server), "ledger_up") == 0)
            assert value(scrape(server), "settlements_unrecorded_total") == 1
            other.execute("ALTER TABLE lost RENAME TO events")
        wait_until(lambda: value(scrape(server), "ledger_up") == 1)
        assert labelled(scrape(server), "settlements_total") == {("completed", "reported"): 1}
    assert '{"tollgate_settlement":' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer x"}, 401),
        ({"x-api-key": "s3cret"}, 401),
        ({"authorization": "s3cret"}, 401),
    ],
)
def test_with_an_admin_token_who_has_it_may_scrape(tmp_path: Path, sent: dict[str, str], status: int) -> None:
    with tollgate(tmp_path, TOLLGATE_ADMIN_TOKEN="s3cret") as server:
        refused = httpx.get(f"{server.url}/metrics", headers=sent)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, "invalid_api_key")
        assert "s3cret" not in refused.text
        assert scrape(server, authorization="Bearer s3cret")


def test_no_tenant_key_or_model_is_in_it(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        key = server.key("canary-tenant")
        httpx.post(server.url + CHAT, json=ASK, headers={"x-api-key": key})
        server.settlement()
        said = httpx.get(f"{server.url}/metrics").text
    for word in ("canary", key, str(ASK["model"]), "key_"):
        assert word not in said


def test_webhooks_are_counted_apart(tmp_path: Path) -> None:
    with Receiver([Answer(400)]) as receiver, tollgate(tmp_path, **variables(receiver)) as server:
        with server.app.database.transaction() as connection:
            notifications.note(connection, [trial(number) for number in range(2)])
        wait_until(lambda: value(scrape(server), "webhooks_dead") == 1)
        samples = scrape(server)
        assert value(samples, "webhooks_pending") == 0
        assert labelled(samples, "webhook_deliveries_total") == {("accepted",): 1, ("refused",): 1}
        assert value(samples, "events_dead") == 0
