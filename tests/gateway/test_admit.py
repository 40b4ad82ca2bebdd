from __future__ import annotations

import asyncio
from functools import partial

import pytest

from proxy.errors import Forbidden, LedgerUnavailable
from proxy.gateway.admit import Admission, Hold
from proxy.gateway.call import Arrival, Call
from proxy.gateway.settle import known_of
from proxy.model import Caller, Settlement
from tests.gateway.spending import quotas
from tests.gateway.test_settle import UPSTREAM


class Ledger:
    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken

    def check(self) -> None:
        if self.broken:
            raise LedgerUnavailable("no")


class Traces:
    """Remembers what was taken and not given back; fails when told to."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.taken: list[Settlement | None] = []
        self.characters: list[int] = []

    def take(self, known: Settlement) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.taken.append(known)
        return len(self.taken) - 1

    def progress(self, slot: int, characters: int) -> None:
        assert self.taken[slot] is not None
        self.characters.append(characters)

    def release(self, slot: int) -> None:
        assert self.taken[slot] is not None
        self.taken[slot] = None


async def reserve(admission: Admission, call: Call) -> Hold:
    return await admission.reserve(call, partial(known_of, call, UPSTREAM))


def call(model: str = "gpt-4o", *, models: tuple[str, ...] = (), metered: bool = True) -> Call:
    caller = Caller("key_1", "user-001", active=True, models=frozenset(models), trusted=False, expires_ms=None)
    return Call(Arrival(), caller, "/v1/x", metered, "POST", b"/x", [], b"{}", model=model)


@pytest.mark.parametrize(("model", "models"), [("gpt-4o", ()), ("gpt-4o", ("gpt-4o",)), ("", ())])
async def test_a_model_on_the_list_is_admitted_and_no_list_admits_all(model: str, models: tuple[str, ...]) -> None:
    await reserve(Admission(Ledger(), Traces(), quotas()), call(model, models=models))


@pytest.mark.parametrize("model", ["gpt-4o-mini", "GPT-4o", "gpt-4o ", ""])
async def test_a_model_outside_the_list_is_403_and_named(model: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await reserve(Admission(Ledger(), Traces(), quotas()), call(model, models=("gpt-4o",)))
    assert (caught.value.status, caught.value.param, caught.value.code) == (403, "model", "model_not_allowed")


async def test_nothing_is_served_unbilled_but_free_calls_go_on() -> None:
    admission = Admission(Ledger(broken=True), Traces(), quotas())
    with pytest.raises(LedgerUnavailable):
        await reserve(admission, call())
    await reserve(admission, call(metered=False))


async def test_quiet_waits_until_the_last_hold_is_released() -> None:
    admission = Admission(Ledger(), Traces(), quotas())
    await admission.quiet()
    first, second = await reserve(admission, call()), await reserve(admission, call())
    assert admission.in_flight == 2
    waiting = asyncio.create_task(admission.quiet())
    admission.release(first)
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.release(second)
    await waiting


async def test_a_metered_request_leaves_a_trace_of_how_it_would_be_settled_until_it_is() -> None:
    traces = Traces()
    admission = Admission(Ledger(), traces, quotas())
    hold = await reserve(admission, call())
    (known,) = traces.taken
    assert known is not None
    assert (known.subject, known.requested_model, known.outcome) == ("user-001", "gpt-4o", "interrupted")
    hold.progress(12)
    assert traces.characters == [12]
    admission.release(hold)
    assert traces.taken == [None]


async def test_a_request_that_is_not_metered_leaves_no_trace() -> None:
    traces = Traces()
    admission = Admission(Ledger(), traces, quotas())
    hold = await reserve(admission, call(metered=False))
    hold.progress()
    admission.release(hold)
    assert not traces.taken


async def test_a_request_that_could_leave_no_trace_is_refused() -> None:
    admission = Admission(Ledger(), Traces(full=True), quotas())
    with pytest.raises(LedgerUnavailable):
        await reserve(admission, call())
    assert admission.in_flight == 0
