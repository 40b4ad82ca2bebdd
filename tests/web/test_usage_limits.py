"""`GET /api/usage`: how limits stand, and what happens when it cannot be answered."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.gateway.counters import Counter
from proxy.instants import parse_instant
from proxy.limits import Calendar
from proxy.model import Counted, Limit, Unit, Window
from proxy.store.sums import Remembered
from proxy.store.tenants import set_plan
from proxy.store.usage import Report
from proxy.web.usage import standing_json
from tests.running import Running, tollgate, wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, PLAIN
from tests.web.asking import CHAT, key_id, limit, usage


def test_limits_are_told_with_what_is_used_and_left_and_when_they_renew(server: Running, client: httpx.Client) -> None:
    with server.app.database.transaction() as connection:
        set_plan(connection, "user-001", "free")
    limit(server, "tokens/month=10000", "inflight=5", kind="plan", owner="free")
    limit(server, "requests/minute=60", "max_tokens=100", "tokens/total=1000")
    limit(server, "requests/day=1", soft=True)
    limit(server, "tokens/hour=777", kind="key", owner=key_id(server, "user-001"))
    client.post(CHAT, json=ASK | {"max_tokens": 20})
    client.post(CHAT, json=ASK | {"max_tokens": 20})
    used = usage(client)["totals"]["total_tokens"]
    found = usage(client)
    by_name = {one.pop("limit"): one for one in found["limits"]}
    month = found["to"]
    assert by_name["tokens/month"] == {
        "unit": "tokens",
        "window": "month",
        "model": None,
        "kind": None,
        "origin": "plan free",
        "value": 10_000,
        "used": used,
        "reserved": 0,
        "remaining": 10_000 - used,
        "renews_at": month,
        "soft": False,
    }
    assert (by_name["tokens/total"]["remaining"], by_name["tokens/total"]["renews_at"]) == (1000 - used, None)
    day = by_name["requests/day"]
    assert (day["used"], day["remaining"], day["soft"]) == (2, 0, True)
    assert day["renews_at"].endswith("T00:00:00.000Z")
    assert (by_name["tokens/hour"]["origin"], by_name["tokens/hour"]["used"]) == ("key", used)
    assert (by_name["requests/minute"]["used"], by_name["requests/minute"]["renews_at"]) == (2, None)
    assert (by_name["inflight"]["remaining"], by_name["max_tokens"]["remaining"]) == (5, 100)
    assert len(by_name) == 7


def test_what_renews_has_renewed_also_where_nothing_was_asked_since() -> None:
    now_ms = parse_instant("2026-04-13T10:59:59Z")
    counted = Counted("tenant", "user-001", Unit.TOKENS, Window.HOUR)
    counter = Counter(counted, Calendar(), now_ms)
    counter.use(now_ms, 120)
    before, after = (
        standing_json(Limit(counted, 100, "tenant"), counter, now_ms + later_ms) for later_ms in (0, 1_000)
    )
    assert (before["used"], before["remaining"], before["renews_at"]) == (120, 0, "2026-04-13T11:00:00.000Z")
    assert (after["used"], after["remaining"], after["renews_at"]) == (0, 100, "2026-04-13T12:00:00.000Z")


def test_what_is_in_flight_is_reserved_and_not_used(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(peer: Peer) -> None:
        peer.request()
        assert go_on.wait(10)
        peer.send(answer(PLAIN))

    with (
        ScriptedUpstream(default=slow) as upstream,
        tollgate(tmp_path, OPENAI_BASE_URL=f"{upstream.url}/v1") as server,
        httpx.Client(base_url=server.url, headers={"x-api-key": server.key()}) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        limit(server, "tokens/month=10000", "inflight=3")
        asking = pool.submit(httpx.post, f"{server.url}{CHAT}", json=ASK | {"max_tokens": 500}, headers=client.headers)
        wait_until(lambda: server.app.admission.in_flight == 1)
        by_name = {one["limit"]: one for one in usage(client)["limits"]}
        tokens, places = by_name["tokens/month"], by_name["inflight"]
        assert tokens["used"] == 0
        assert 500 < tokens["reserved"] == 10_000 - tokens["remaining"]
        assert (places["used"], places["reserved"], places["remaining"]) == (0, 1, 2)
        go_on.set()
        assert asking.result().status_code == 200
        (tokens,) = [one for one in usage(client)["limits"] if one["limit"] == "tokens/month"]
        assert (tokens["used"], tokens["reserved"]) == (13, 0)


def test_a_ledger_that_cannot_be_read_is_503(
    server: Running, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert usage(client)["data"] == []
    with closing(sqlite3.connect(server.app.database.path)) as other:
        other.execute("ALTER TABLE rollups RENAME TO lost")
        refused = client.get("/api/usage")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert refused.headers["retry-after"] == "5"
        other.execute("ALTER TABLE lost RENAME TO rollups")
    assert "usage could not be read" in caplog.text
    assert "rollups" not in refused.text
    wait_until(lambda: client.get("/api/usage").status_code == 200)


def test_one_tenant_cannot_fill_the_queue(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    report = Remembered.report

    def slow(*arguments: Any, **options: Any) -> Report:
        assert go_on.wait(10)
        return report(*arguments, **options)

    monkeypatch.setattr(Remembered, "report", slow)
    refused: list[httpx.Response] = []

    def ask(secret: str) -> int:
        said = httpx.get(f"{server.url}/api/usage", headers={"x-api-key": secret}, timeout=30)
        if said.status_code == 429:
            refused.append(said)
        return said.status_code

    mine, other = server.key(), server.key("user-002")
    with ThreadPoolExecutor(13) as pool:
        asked = [pool.submit(ask, mine) for _ in range(12)]
        wait_until(lambda: len(refused) == 8)
        others = pool.submit(ask, other)
        assert not wait([others], timeout=0.2).done, "it waits, and is not refused"
        go_on.set()
        assert others.result() == 200
        assert sorted(one.result() for one in asked) == [200] * 4 + [429] * 8
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert refused[0].headers["retry-after"] == "1"
    assert ask(mine) == 200
