"""The machine in short, as CI runs it (`make fuzz`: at length), and what it says where a promise does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.gateway.settle import Settler
from proxy.upstream import idle
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


@pytest.mark.xfail(strict=False, reason="whether a late answer meets another tenant in so few tries is chance")
def test_an_answer_that_meets_another_tenant_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if connections passed to whoever asks next at once, though the upstream has still to speak on some.

    How soon one meets another tenant is chance: mostly within half of what is tried here.
    """

    take = idle.Idle.take
    monkeypatch.setattr(idle, "REST_S", 0.0)
    monkeypatch.setattr(idle.Idle, "take", lambda self, tenant, now: take(self, "nobody in particular", now))
    with pytest.raises(Broken, match="another tenant's bytes"):
        run(tmp_path, mutations=40_000, seed=1)
