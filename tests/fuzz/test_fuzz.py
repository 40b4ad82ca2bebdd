"""The machine in short, as CI runs it (`make fuzz`: at length), and what it says where a promise does not hold."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.gateway.settle import Settler
from proxy.upstream.connection import Answer, Body, Connection
from tests.fuzz.machine import Broken, run


def test_whatever_is_mutated_nothing_hangs_fails_is_lost_or_meets_another(tmp_path: Path) -> None:
    account = run(tmp_path, mutations=6_000, seed=4)
    print(account)
    assert account.settlements > 2_500
    assert {200, 400, 401, 404, 405, 502} <= account.statuses.keys()
    assert {"completed", "upstream_error", "truncated"} <= account.outcomes.keys()


def test_a_settlement_that_is_left_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Settler.settle
    calls = 0

    async def forgetful(self: Settler, *args: object, **kwargs: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 50:
            await settle(self, *args, **kwargs)  # type: ignore[arg-type] # passed on as they are

    monkeypatch.setattr(Settler, "settle", forgetful)
    with pytest.raises(Broken, match=r"no settlement of|\d+ settlements of \d+ requests"):
        run(tmp_path, mutations=1_500, seed=1)


def test_an_answer_that_meets_another_tenant_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then two tenants, who wait at the same time, have each other's."""
    exchange = Connection.exchange
    calls = 0
    waits: tuple[str, Answer, asyncio.Future[Answer]] | None = None

    async def crossed(self: Connection, head: bytes, body: Body, *, length: int, reused: bool) -> Answer:
        nonlocal calls, waits
        answer = await exchange(self, head, body, length=length, reused=reused)
        calls += 1
        if waits is not None and waits[0] != self.tenant:
            (_, others, given), waits = waits, None
            given.set_result(answer)
            return others
        if waits is None and calls % 50 == 0:
            given = asyncio.get_running_loop().create_future()
            waits = self.tenant, answer, given
            return await given
        return answer

    monkeypatch.setattr(Connection, "exchange", crossed)
    with pytest.raises(Broken, match="another tenant's bytes"):
        run(tmp_path, mutations=1_500, seed=1)
