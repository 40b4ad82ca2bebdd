"""What requests cost, from the call to the event: through a real server, a kill, a log, and a ledger of old."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.gateway import followup
from proxy.limits import Written
from proxy.model import BUCKETS, NOT_COSTED, UNITS, Cost, CostState, Outcome, Usage
from proxy.store import ledger
from proxy.store import limits as stored
from proxy.store.database import Database
from proxy.store.tenants import create_key, create_tenant
from tests.delivery.ledger import event_of
from tests.gateway.test_followup import USAGE, response, states
from tests.gateway.test_followup import ask as ask_in_background
from tests.gateway.test_forward import between, plain
from tests.gateway.test_rescue import LEFT, leave
from tests.process import process
from tests.running import Running, tollgate, wait_until
from tests.scripted import Script

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}
OWN = """
[[price]]
model = "gpt-4o*"
input_per_million = "2"
output_per_million = "8"

[[price]]
model = "local*"
free = true
"""


def answered(model: str, prompt: int = 10, completion: int = 5, tier: str = "") -> Script:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    told = {"service_tier": tier} if tier else {}
    return plain(orjson.dumps({"id": "chatcmpl-1", "model": model, "choices": [], "usage": usage} | told))


@contextmanager
def priced(directory: Path, script: Script, own: str = OWN, **variables: str) -> Iterator[Running]:
    """A Tollgate with our own prices; its upstream's provider is 127.0.0.1."""
    (directory / "prices.toml").write_text(own)
    variables |= {"TOLLGATE_PRICES__FILE": str(directory / "prices.toml")}
    with between(directory, default=script, **variables) as (server, _):
        yield server


def ask(server: Running, model: str = "gpt-4o-mini", **more: Any) -> httpx.Response:
    return httpx.post(server.url + CHAT, json=ASK | {"model": model} | more, headers={"x-api-key": server.key()})


def limit(server: Running, *written: str) -> None:
    with server.app.database.transaction() as connection:
        for one in written:
            stored.set_limit(connection, "tenant", "user-001", Written.parse(one))


@pytest.mark.parametrize(
    ("asked", "answers", "usd", "state"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "0.00006", CostState.PRICED),
        ("auto", "gpt-4o", "0.00006", CostState.PRICED),  # that of the model which answered
        ("gpt-4o", "what-runs-there", "0.00006", CostState.PRICED),  # else of the one asked for
        ("local-llama", "local-llama", "0", CostState.FREE),
        ("mine", "mine", "0", CostState.UNPRICED),
    ],
)
def test_an_event_says_what_its_request_cost(
    tmp_path: Path, asked: str, answers: str, usd: str, state: CostState
) -> None:
    with priced(tmp_path, answered(answers)) as server:
        assert ask(server, asked).status_code == 200
        data = event_of(server.settlement(), "tollgate")["data"]
        assert (data["cost_usd"], data["cost_state"]) == (usd, state)
        (line,) = server.usage()
        told = (line.costs.priced_requests, line.costs.free_requests, line.costs.unpriced_requests)
        assert told == tuple(state is one for one in (CostState.PRICED, CostState.FREE, CostState.UNPRICED))
        assert line.costs.unpriced_tokens == (15 if state is CostState.UNPRICED else 0)
        metrics = httpx.get(f"{server.url}/metrics").text
        assert f'tollgate_costs_total{{cost_state="{state}"}} 1.0' in metrics
        assert ("tollgate_cost_usd_total 6e-05" in metrics) == (state is CostState.PRICED)


def test_a_request_that_failed_cost_nothing(tmp_path: Path) -> None:
    with priced(tmp_path, plain(b'{"error": {}}', status="404 Not Found")) as server:
        assert ask(server, "no-such-model").status_code == 404
        assert server.settlement().cost == Cost(0, CostState.FREE)


def test_the_providers_list_prices_hold_where_there_are_no_others(tmp_path: Path) -> None:
    script = answered("gpt-4o-mini-2024-07-18", prompt=1_000, completion=100)
    with priced(tmp_path, script, TOLLGATE_UPSTREAM__PROVIDER="openai") as server:
        (tmp_path / "prices.toml").unlink()
        assert ask(server).status_code == 200
        assert server.settlement().cost == Cost(1_000 * 2_000_000 + 100 * 8_000_000, CostState.PRICED)
    with between(tmp_path, default=script, TOLLGATE_UPSTREAM__PROVIDER="openai") as (restarted, _):
        assert ask(restarted).status_code == 200
        first, second = restarted.settlements(2)
        assert first.cost.pico_usd == 2_800_000_000, "what was recorded stays"
        assert second.cost == Cost(1_000 * 150_000 + 100 * 600_000, CostState.PRICED)


def test_a_dearer_tier_costs_more_and_is_reserved_at_its_price(tmp_path: Path) -> None:
    tier = '[[price]]\nmodel = "gpt-4o*"\nservice_tier = "priority"\ninput_per_million = 4\noutput_per_million = "16"\n'
    with priced(tmp_path, answered("gpt-4o", tier="priority")) as server:
        assert ask(server).status_code == 200
        assert server.settlement().cost.pico_usd == 60_000_000, "an entry without a tier holds for any"
    with priced(tmp_path, answered("gpt-4o", tier="priority"), own=OWN + tier) as server:
        assert ask(server).status_code == 200
        _, one = server.settlements(2)
        assert (one.service_tier, one.cost.pico_usd) == ("priority", 120_000_000)
        assert event_of(one, "tollgate")["data"]["service_tier"] == "priority"
        limit(server, "usd/total=0.00027")  # of which 0.00009 are left: enough at 2 and 8, not at 4 and 16
        wait_until(lambda: ask(server, service_tier="priority").status_code == 429)
        assert ask(server).status_code == 200


def test_what_has_no_price_is_refused_under_a_limit_in_money(tmp_path: Path) -> None:
    with priced(tmp_path, answered("mine")) as server:
        server.key()
        limit(server, "usd/day=5")
        refused = ask(server, "mine")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_priced")
        assert ask(server, "gpt-4o").status_code == 200
        assert ask(server, "local").status_code == 200
        assert len(server.settlements(2)) == 2, "the refused one left no event"


def test_or_it_is_served_and_its_event_says_so(tmp_path: Path) -> None:
    with priced(tmp_path, answered("mine"), TOLLGATE_LIMITS__UNPRICED="count") as server:
        server.key()
        limit(server, "usd/day=0")
        assert ask(server, "mine").status_code == 200
        assert server.settlement().cost.state is CostState.UNPRICED
        assert ask(server, "gpt-4o").status_code == 429


def test_what_is_free_passes_a_limit_that_is_spent(tmp_path: Path) -> None:
    with priced(tmp_path, answered("local")) as server:
        server.key()
        limit(server, "usd/month=0.00001")
        refused = ask(server)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert "usd/month of 0.00001 (tenant): used 0, left 0.00001" in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert ask(server, "local").status_code == 200


def test_a_tenant_sees_its_limits_in_money_and_no_other_cost(tmp_path: Path) -> None:
    with priced(tmp_path, answered("gpt-4o")) as server:
        key = server.key()
        limit(server, "usd/month=0.5")
        assert ask(server).status_code == 200
        found = httpx.get(f"{server.url}/api/usage?group_by=model", headers={"x-api-key": key}).json()
        (standing,) = found["limits"]
        amounts = [standing[name] for name in ("unit", "value", "used", "reserved", "remaining")]
        assert amounts == ["usd", "0.5", "0.00006", "0", "0.49994"]
        assert "cost_usd" not in found["totals"] | found["data"][0]


def test_a_background_response_costs_what_it_used_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followup, "FIRST_MS", 50)
    done = threading.Event()
    with priced(tmp_path, states(done, response("completed", usage=USAGE))) as server:
        ask_in_background(server)
        assert server.settlements() == []
        done.set()
        assert server.settlement().cost == Cost(9 * 2_000_000 + 4 * 8_000_000, CostState.PRICED)


def test_what_a_killed_process_left_is_costed_when_it_is_settled(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path}/tollgate.db").create()
    leave(tmp_path, LEFT)
    with tollgate(tmp_path) as server:
        assert server.settlement().outcome is Outcome.INTERRUPTED
        assert server.settlement().cost == Cost(40 * 150_000, CostState.PRICED)  # gpt-4o-mini at openai, then


def test_a_kill_in_the_middle_of_an_answer_leaves_its_cost(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/var/tollgate.db")
    (tmp_path / "var").mkdir()
    database.create()
    with database.transaction() as connection:
        create_tenant(connection, "user-001", now_ms=0)
        _, key = create_key(connection, "user-001", now_ms=0)
    (tmp_path / "prices.toml").write_text(OWN)
    variables = {"TOLLGATE_PRICES__FILE": str(tmp_path / "prices.toml")}
    with process(tmp_path, **variables) as server:
        asked = ASK | {"stream": True, "max_tokens": 4_000, "messages": [{"role": "user", "content": "word " * 3_000}]}
        with httpx.stream("POST", server.url + CHAT, json=asked, headers={"x-api-key": key}) as answer:
            next(answer.iter_raw())
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
    (tmp_path / "tollgate.log").unlink()
    with process(tmp_path, **variables) as server:
        assert server.url
        with closing(database.connect()) as connection:
            wait_until(lambda: ledger.newest(connection, limit=1) != [])
            one = ledger.newest(connection, limit=1)[0].settlement
        assert server.stop() == 0
    assert one.outcome is Outcome.INTERRUPTED
    expected = one.usage.prompt_tokens * 2_000_000 + one.usage.completion_tokens * 8_000_000
    assert one.cost == Cost(expected, CostState.PRICED)
    assert one.usage.prompt_tokens > 3_000


ROLLUP: dict[str, Any] = {
    "subject": "s",
    "key_id": "k",
    "model": "gpt-4o",
    "endpoint": "/v1/x",
    "usage_source": "reported",
}
ROLLUP |= dict.fromkeys((*BUCKETS, *UNITS), 0) | {"uncached_input": 7}
EVENT: dict[str, Any] = ROLLUP | {
    "requested_model": "gpt-4o",
    "provider": "openai",
    "outcome": "completed",
    "state": "pending",
}
EVENT |= dict.fromkeys(("streamed", "status", "duration_ms", "ttft_ms"), 200)
EVENT |= dict.fromkeys(("upstream", "usage_path", "estimator", "on_disconnect", "response_id"), "")


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    values = ", ".join(f":{name}" for name in row)
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", row)


def test_what_an_old_ledger_has_is_of_unknown_cost(tmp_path: Path) -> None:
    path = tmp_path / "tollgate.db"
    scripts = sorted(files("proxy.store").joinpath("migrations").iterdir(), key=lambda one: one.name)
    old = [one for one in scripts if one.name < next(name.name for name in scripts if "costs" in name.name)]
    with closing(sqlite3.connect(path)) as connection:
        for script in old:
            connection.executescript(script.read_text("utf-8"))
        insert(connection, "events", EVENT | {"id": "req_1", "time_ms": 3_600_000})
        insert(connection, "rollups", ROLLUP | {"hour": 1, "requests": 1})
        connection.execute(f"PRAGMA user_version = {len(old)}")
        connection.commit()
    with tollgate(tmp_path) as server:
        assert server.settlement().cost == NOT_COSTED
        data = event_of(server.settlement(), "tollgate")["data"]
        assert (data["cost_usd"], data["cost_state"]) == ("0", "unknown")
        (line,) = server.usage()
        assert (line.requests, line.costs.priced_requests + line.costs.free_requests, line.costs.pico_usd) == (1, 0, 0)
        assert server.settlement().usage == Usage(uncached_input=7)
