"""The whole way: a real Tollgate sends to an engine that loses and doubles, and `tollgate reconcile` finds out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.billing.engine import KEPT, LOST, Engine, Event, Fate, meter
from tests.billing.operating import Operator
from tests.running import Running, tollgate, wait_until

REQUESTS = 500
IN_FLIGHT = 20
TENANTS = ("user-001", "user-002", "user-003")
DOUBLED, TRIPLED, LATE = Fate(rows=2), Fate(rows=3), Fate(late_s=5_000)


@dataclass
class Fates:
    """Decides by the order of arrival, and remembers whom it met. What comes again is kept."""

    plan: dict[int, Fate]
    seen: set[str] = field(default_factory=set)
    met: dict[str, Fate] = field(default_factory=dict)

    def __call__(self, event: Event) -> Fate:
        if event["id"] in self.seen:
            return KEPT
        self.seen.add(event["id"])
        self.met[event["id"]] = self.plan.get(len(self.seen), KEPT)
        return self.met[event["id"]]

    def ids(self, *fates: Fate) -> list[str]:
        return sorted(event_id for event_id, fate in self.met.items() if fate in fates)


async def call(server: Running, count: int) -> None:
    keys = [server.key(tenant) for tenant in TENANTS]
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {"model": ("gpt-4o-mini", "gpt-4o")[number % 2], "messages": [{"role": "user", "content": f"{number}"}]}
        async with places:
            headers = {"authorization": f"Bearer {keys[number % 3]}"}
            answer = await client.post(f"{server.url}/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 200

    async with httpx.AsyncClient(timeout=30) as client:
        await asyncio.gather(*[one(client, number) for number in range(count)])
    await asyncio.to_thread(wait_until, lambda: server.pending() == 0, seconds=30)


def tokens(server: Running) -> Counter[str]:
    return Counter({one.id: one.usage.total_tokens for one in server.settlements()})


async def test_what_was_lost_is_found_and_healed_and_nothing_else_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = dict.fromkeys((3, 77, 78, 200, 301, 302, 303, 480), LOST)
    fates = Fates(lost | {10: DOUBLED, 20: TRIPLED} | dict.fromkeys(range(400, 406), LATE))
    engine = Engine(fates, drops_repeats=False)
    engine.meters = [
        meter("tokens", "llm_token_usage", "total_tokens", model="model"),
        meter("of_another_type", "prompt", "tokens"),
        meter("calls", "llm_token_usage", None),
    ]
    engine.customers = {"user-001", "user-002"}
    with engine.running(), tollgate(tmp_path, KONNECT_API_URL=engine.url, KONNECT_TOKEN="kpat_x") as server:
        await call(server, REQUESTS)
        operator = Operator(tmp_path, engine.url, monkeypatch, KONNECT_TOKEN="kpat_reader")

        # Two hours later someone asks.
        found = await asyncio.to_thread(operator.report)
        assert found["events"]["accepted"] == {"recorded": REQUESTS, "found": REQUESTS - 8}
        assert (found["due"], found["capture_rate"], found["too_recent"]) == (REQUESTS, "98.40", 0)
        unbilled = sorted(row.event["id"] for row in engine.rows if row.event["subject"] == "user-003")
        assert found["ids"]["missing"] == fates.ids(LOST)
        assert found["ids"]["doubled"] == fates.ids(DOUBLED, TRIPLED)
        assert found["ids"]["late"] == fates.ids(LATE)
        assert found["ids"]["refused"] == sorted(set(unbilled))
        assert found["counts"] == {
            "missing": 8,
            "doubled": 2,
            "refused": len(set(unbilled)),
            "late": 6,
            "different": 0,
            "unknown": 0,
        }
        (complaint,) = found["complaints"]
        assert complaint["words"] == "no customer found for event subject: user-003"
        assert complaint["events"] == len(set(unbilled))
        assert "create a customer" in complaint["remedy"]
        assert found["code"] == 1

        # The meters' sums are off by exactly what was lost and doubled.
        spent, off = tokens(server), Counter[str]()
        for one in found["findings"]:
            if one["kind"] == "sum":
                off[one["meter"]] += int(one["engine"]) - int(one["ledger"])
        doubled, tripled = fates.ids(DOUBLED), fates.ids(TRIPLED)
        assert found["meters"] == ["tokens", "calls"]
        assert off["tokens"] == sum(spent[one] for one in [*doubled, *tripled, *tripled]) - sum(
            spent[one] for one in fates.ids(LOST)
        )
        assert off["calls"] == 1 + 2 - 8

        # What is lost is sent again, by the server that runs, and only that.
        before = engine.ids
        mended = await asyncio.to_thread(operator.report, "--repair")
        assert mended["repair"] == {"requests": 8, "parts": 0, "stale": 8}
        assert mended["ids"]["missing"] == fates.ids(LOST)
        await asyncio.to_thread(wait_until, lambda: server.pending() == 0, seconds=30)
        assert engine.ids == sorted(before + fates.ids(LOST))

        # Then the engine has what the ledger has; the doubled are doubled for good.
        healed = await asyncio.to_thread(operator.report, "--repair")
        assert healed["events"]["accepted"] == {"recorded": REQUESTS, "found": REQUESTS}
        assert healed["capture_rate"] == "100.00"
        assert (healed["counts"]["missing"], healed["repair"]["requests"]) == (0, 0)
        assert set(engine.ids) == set(spent)
    assert engine.faults == []
    assert set(engine.tokens) == {"Bearer kpat_reader"}


async def test_right_after_a_repair_the_missing_are_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fates = Fates({2: LOST, 5: LOST})
    engine = Engine(fates)
    engine.meters = [meter("tokens", "llm_token_usage", "total_tokens")]
    with engine.running():
        with tollgate(tmp_path, KONNECT_API_URL=engine.url) as server:
            await call(server, 9)
        operator = Operator(tmp_path, engine.url, monkeypatch)
        assert (await asyncio.to_thread(operator.report, "--repair"))["repair"]["requests"] == 2
        again = await asyncio.to_thread(operator.report, "--repair")  # no server runs
        assert again["events"]["pending"] == {"recorded": 2, "found": 0}
        assert (again["counts"]["missing"], again["repair"]["requests"], again["code"]) == (0, 0, 0)
        assert again["hours"]["open"] > 0, "they may go out while the meter is asked"
        with tollgate(tmp_path, KONNECT_API_URL=engine.url) as server:
            await asyncio.to_thread(wait_until, lambda: server.pending() == 0)
        healed = await asyncio.to_thread(operator.report)
        assert (healed["events"]["accepted"], healed["code"]) == ({"recorded": 9, "found": 9}, 0)
        assert healed["hours"]["open"] == 0
        assert healed["hours"]["compared"] > 0
    assert engine.faults == []


async def test_what_was_delivered_just_now_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Fates({2: LOST}))
    with engine.running(), tollgate(tmp_path, KONNECT_API_URL=engine.url) as server:
        await call(server, 5)
        operator = Operator(tmp_path, engine.url, monkeypatch)
        now = await asyncio.to_thread(operator.report, "--repair", later_ms=0)
        assert (now["too_recent"], now["due"], now["counts"]["missing"]) == (1, 4, 0)
        assert now["capture_rate"] == "100.00"
        soon = await asyncio.to_thread(operator.report, "--settle-for", "1s", later_ms=60_000)
        assert (soon["too_recent"], soon["counts"]["missing"]) == (0, 1)


@pytest.mark.parametrize("profile", ["kong.llm_request", "prompt"])
async def test_in_the_other_profiles_only_the_parts_that_are_lost_are_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    fates = Fates(dict.fromkeys((1, 2, 6, 9), LOST))  # the whole of the first request, and parts of others
    engine = Engine(fates, drops_repeats=False)
    engine.meters = [meter("tokens", profile, "tokens", model="model", kind="type")]
    variables = {"KONNECT_API_URL": engine.url, "TOLLGATE_SINK__PROFILE": profile}
    with engine.running():
        variables["KONNECT_API_URL"] = engine.url
        with tollgate(tmp_path, **variables) as server:
            await call(server, 10)
            operator = Operator(tmp_path, engine.url, monkeypatch, TOLLGATE_SINK__PROFILE=profile)
            found = await asyncio.to_thread(operator.report)
            assert found["requests"] == 10
            assert found["events"]["accepted"] == {"recorded": 20, "found": 16}
            assert found["ids"]["missing"] == fates.ids(LOST)
            before = engine.ids
            mended = await asyncio.to_thread(operator.report, "--repair")
            assert mended["repair"] == {"requests": 1, "parts": 2, "stale": 4}
            await asyncio.to_thread(wait_until, lambda: server.pending() == 0)
            assert engine.ids == sorted(before + fates.ids(LOST)), "each once, and nothing else again"
            healed = await asyncio.to_thread(operator.report, later_ms=4 * 3_600_000)
            assert healed["capture_rate"] == "100.00"
            assert (healed["counts"]["missing"], healed["counts"]["doubled"]) == (0, 0)
            assert "sum" not in healed["ids"]
    assert engine.faults == []
