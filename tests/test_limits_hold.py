"""Limits under load: never over, the last token that fits is used, and the counters equal the ledger.

`ROUNDS=100` repeats the first of them as often.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.limits import Calendar, Written
from proxy.model import Outcome, Unit
from proxy.money import PICO, dollars
from proxy.store import limits as stored
from proxy.store.database import Database
from proxy.store.spent import spent
from proxy.store.tenants import create_key, create_tenant, tenants
from tests.gateway.test_forward import between, plain
from tests.process import process
from tests.running import Running, tollgate, wait_until

CHAT = "/v1/chat/completions"
LIMIT = 10_000
CLIENTS = 200
ROUNDS = int(os.environ.get("ROUNDS", "1"))
ASK: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "max_tokens": 40,
    "messages": [{"role": "user", "content": "Tell me all about the metering of tokens, at length."}],
}
HELLO: Any = [{"role": "user", "content": "Hello"}]


def limit(database: Database, *written: str, tenant: str = "user-001") -> None:
    with database.transaction() as connection:
        for one in written:
            stored.set_limit(connection, "tenant", tenant, Written.parse(one))


async def spend(url: str, key: str, *, leaving: bool = False) -> Counter[str]:
    """Each client asks until it is told that its quota is spent, or the server is gone. What they were told."""
    told: Counter[str] = Counter()

    async def one(client: httpx.AsyncClient, number: int) -> None:
        for turn in count(number):
            body = ASK | ({"stream": True} if turn % 2 else {})
            try:
                if leaving and turn % 5 in (0, 1):
                    async with client.stream("POST", CHAT, json=body):
                        told["left"] += 1
                        continue
                answer = await client.post(CHAT, json=body, timeout=60)
            except httpx.TransportError as error:
                told["gone"] += 1
                told[repr(error)] += 1
                return
            if answer.status_code == 200:
                told["served"] += 1
                continue
            told[answer.json()["error"]["code"]] += 1
            if answer.headers.get("x-should-retry") == "false":
                return

    bounds = httpx.Limits(max_connections=CLIENTS)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=bounds) as client:
        await asyncio.gather(*(one(client, number) for number in range(CLIENTS)))
    return told


def spent_by(database: Database, tenant: str, unit: Unit = Unit.TOKENS) -> int:
    """By the ledger."""
    with closing(database.connect()) as connection:
        (found,) = [one for one in stored.effective(connection, tenant) if one.counted.unit is unit]
        return spent(connection, found.counted, Calendar(), time.time_ns() // 1_000_000)


def counted(server: Running, tenant: str, unit: Unit = Unit.TOKENS) -> list[tuple[int, int]]:
    """By the server's counters: used and reserved."""
    accounts = server.app.quotas._accounts
    return [
        (entry.counter.used, entry.counter.reserved)
        for (subject, _), account in accounts.items()
        for entry in account.entries
        if subject == tenant and entry.limit.counted.unit is unit
    ]


@pytest.mark.parametrize("leaving", [False, True], ids=["patient", "leaving"])
async def test_many_clients_at_once_use_a_hard_limit_to_its_last_token_and_no_more(
    tmp_path: Path, leaving: bool
) -> None:
    with tollgate(tmp_path) as server:
        for number in range(ROUNDS):
            tenant = f"user-{number}"
            key = server.key(tenant)
            limit(server.app.database, f"tokens/total={LIMIT}", tenant=tenant)
            told = await spend(server.url, key, leaving=leaving)
            wait_until(lambda: server.app.admission.in_flight == 0 and server.app.gateway.draining == 0)
            total = spent_by(server.app.database, tenant)
            print(number, told, total)
            assert total <= LIMIT
            assert counted(server, tenant) == [(total, 0)]
            needed = 40 + 20  # its output, and more than the estimate of its input
            assert LIMIT - total < needed
            assert told["served"] > 50
            assert (told["left"] > 30) == leaving


async def test_many_clients_at_once_spend_their_money_and_no_more(tmp_path: Path) -> None:
    with tollgate(tmp_path, TOLLGATE_PRICES__FILE=str(prices(tmp_path))) as server:
        key = server.key()
        limit(server.app.database, "usd/total=0.05")
        told = await spend(server.url, key, leaving=True)
        wait_until(lambda: server.app.admission.in_flight == 0 and server.app.gateway.draining == 0)
        total = spent_by(server.app.database, "user-001", Unit.USD)
        print(told, dollars(total))
        assert total <= PICO // 20
        assert counted(server, "user-001", Unit.USD) == [(total, 0)]
        assert PICO // 20 - total < 40 * 4 * 10**6 + 20 * 2 * 10**6
        assert total == sum(one.cost.pico_usd for one in server.settlements())
        assert told["served"] > 50


def prices(directory: Path) -> Path:
    path = directory / "prices.toml"
    path.write_text('[[price]]\nmodel = "*"\ninput_per_million = "2"\noutput_per_million = "4"\n')
    return path


@pytest.mark.parametrize(
    ("written", "unit", "most", "slack"),
    [(f"tokens/total={LIMIT}", Unit.TOKENS, LIMIT, 60), ("usd/total=0.03", Unit.USD, 3 * PICO // 100, 200 * 10**6)],
    ids=["tokens", "usd"],
)
async def test_a_kill_in_the_middle_leaves_the_limit_as_strict(
    tmp_path: Path, written: str, unit: Unit, most: int, slack: int
) -> None:
    database = Database(f"sqlite:///{tmp_path}/var/tollgate.db")
    (tmp_path / "var").mkdir()
    database.create()
    with database.transaction() as connection:
        create_tenant(connection, "user-001", now_ms=0)
        _, key = create_key(connection, "user-001", now_ms=0)
    limit(database, written)
    variables = {"TOLLGATE_PRICES__FILE": str(prices(tmp_path))}
    with process(tmp_path, **variables) as server:
        spending = asyncio.ensure_future(spend(server.url, key))
        await asyncio.to_thread(wait_until, lambda: spent_by(database, "user-001", unit) > most // 10)
        server.process.send_signal(signal.SIGKILL)
        assert (await spending)["gone"] > 0  # some may have been told already that nothing is left
    assert spent_by(database, "user-001", unit) < most
    (tmp_path / "tollgate.log").unlink()  # which told where the first one listened
    with process(tmp_path, **variables) as server:
        told = await spend(server.url, key)
        assert server.stop() == 0
    assert told["insufficient_quota"] == CLIENTS, told
    total = spent_by(database, "user-001", unit)
    print(told, total)
    assert most - slack < total <= most


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with tollgate(tmp_path) as running:
        yield running


def sdk(server: Running, **given: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key(), **given)


def test_the_sdk_does_not_ask_again_for_a_quota_that_is_spent(server: Running) -> None:
    with sdk(server, max_retries=5) as client:
        limit(server.app.database, "requests/month=1")
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert refused.value.code == "insufficient_quota"
    assert "You have reached your limit requests/month of 1 (tenant): used 1, left 0" in refused.value.message
    assert server.app.gateway.refusals["insufficient_quota"] == 1


def test_the_sdk_comes_back_when_the_rate_allows_it(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    with sdk(server, max_retries=2) as client:
        monkeypatch.setattr("time.sleep", naps.append)
        limit(server.app.database, "requests/minute=1")
        answer = client.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=HELLO)
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert refused.value.code == "rate_limit_exceeded"
    retry_after = float(refused.value.response.headers["retry-after"])
    assert 55 <= retry_after <= 61
    assert server.app.gateway.refusals["rate_limit_exceeded"] == 3
    assert len([nap for nap in naps if nap >= 50]) == 2  # it waits as long as it is told


def test_a_new_limit_holds_for_a_running_server_and_so_does_more(server: Running) -> None:
    def ask() -> int:
        return httpx.post(server.url + CHAT, json=ASK, headers=headers).status_code

    headers = {"x-api-key": server.key()}
    assert [ask(), ask()] == [200, 200]
    limit(server.app.database, "requests/day=3")
    wait_until(lambda: ask() == 429)
    limit(server.app.database, "requests/day=1000")
    wait_until(lambda: ask() == 200)


def test_agent_endpoints_and_embeddings_are_limited_alike(server: Running) -> None:
    headers = {"x-api-key": server.key()}
    limit(server.app.database, "requests/day=2", "requests/minute=50")
    said = httpx.post(f"{server.url}/api/generate", json={"prompt": "Hello"}, headers=headers)
    assert said.headers["x-ratelimit-remaining-requests"] == "49"
    body = {"model": "text-embedding-3-small", "input": "Hello"}
    assert httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers).status_code == 200
    refused = httpx.post(f"{server.url}/api/summarize", json={"text": "Hello"}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200  # free
    assert {one.outcome for one in server.settlements(2)} == {Outcome.COMPLETED}


def test_a_request_without_a_maximum_is_capped_where_the_setting_says_so(tmp_path: Path) -> None:
    with between(tmp_path, default=plain(), TOLLGATE_LIMITS__CAP_OUTPUT="true") as (server, upstream):
        headers = {"x-api-key": server.key()}
        limit(server.app.database, "tokens/total=100", "requests/day=50")
        bodies = [{"model": "m", "messages": HELLO, "max_tokens": None}, {"model": "m", "input": "Hello"}, ASK]
        for path, body in zip((CHAT, "/v1/responses", CHAT), bodies, strict=True):
            assert httpx.post(server.url + path, json=body, headers=headers).status_code == 200
        sent = [orjson.loads(one.body) for one in upstream.requests]
        (first, second, third) = sent
        assert 50 < first.pop("max_tokens") < 100
        assert 50 < second.pop("max_output_tokens") < 100
        assert first == {"model": "m", "messages": HELLO}
        assert second == {"model": "m", "input": "Hello"}
        assert third == ASK
        # A large one is changed in a thread.
        headers = {"x-api-key": server.key("user-002")}
        limit(server.app.database, "tokens/total=400000", tenant="user-002")
        large = {"model": "m", "messages": [{"role": "user", "content": "Hello" * 60_000}]}
        assert httpx.post(server.url + CHAT, json=large, headers=headers).status_code == 200
        last = orjson.loads(upstream.requests[3].body)
        assert 0 < last.pop("max_tokens") < 400_000
        assert last == large


def test_a_soft_limit_marks_what_is_beyond_it(server: Running) -> None:
    headers = {"x-api-key": server.key()}
    with server.app.database.transaction() as connection:
        stored.set_limit(connection, "tenant", "user-001", Written.parse("requests/day=1"), soft=True)
        assert [one.id for one in tenants(connection) if one.id == "user-001"]
    for _ in range(2):
        assert httpx.post(server.url + CHAT, json=ASK, headers=headers).status_code == 200
    assert [one.over_limit for one in server.settlements(2)] == ["", "requests/day"]
