from __future__ import annotations

import asyncio

import pytest

from proxy.errors import Forbidden, LedgerUnavailable
from proxy.gateway.admit import Admission
from proxy.gateway.call import Arrival, Call
from proxy.model import Caller


class Ledger:
    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    def check(self) -> None:
        if self.broken:
            raise LedgerUnavailable("no")


def call(model: str = "gpt-4o", *, models: tuple[str, ...] = (), metered: bool = True) -> Call:
    caller = Caller("key_1", "user-001", active=True, models=frozenset(models), trusted=False, expires_ms=None)
    return Call(Arrival(), caller, "/v1/x", metered, "POST", b"/x", [], b"{}", model=model)


@pytest.mark.parametrize(("model", "models"), [("gpt-4o", ()), ("gpt-4o", ("gpt-4o",)), ("", ())])
async def test_a_model_on_the_list_is_admitted_and_no_list_admits_all(model: str, models: tuple[str, ...]) -> None:
    Admission(Ledger()).reserve(call(model, models=models))


@pytest.mark.parametrize("model", ["gpt-4o-mini", "GPT-4o", "gpt-4o ", ""])
async def test_a_model_outside_the_list_is_403_and_named(model: str) -> None:
    with pytest.raises(Forbidden) as caught:
        Admission(Ledger()).reserve(call(model, models=("gpt-4o",)))
    assert (caught.value.status, caught.value.param, caught.value.code) == (403, "model", "model_not_allowed")


async def test_nothing_is_served_unbilled_but_free_calls_go_on() -> None:
    admission = Admission(Ledger(broken=True))
    with pytest.raises(LedgerUnavailable):
        admission.reserve(call())
    admission.reserve(call(metered=False))


async def test_quiet_waits_until_the_last_hold_is_released() -> None:
    admission = Admission(Ledger())
    await admission.quiet()
    first, second = admission.reserve(call()), admission.reserve(call())
    assert admission.in_flight == 2
    waiting = asyncio.create_task(admission.quiet())
    admission.release(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.release(second)
    await waiting
