from __future__ import annotations

import asyncio
import io
import sqlite3

import orjson

from proxy.gateway.call import Arrival, Call
from proxy.gateway.reading import Reading
from proxy.gateway.settle import Settler, known_of
from proxy.model import Caller, Outcome, Settlement, Usage, UsageSource
from proxy.upstream.connect import Origin
from proxy.upstream.pool import Pool
from proxy.upstream.route import Upstream
from tests.upstream.asking import LIMITS, TIMEOUTS

UPSTREAM = Upstream("p", Pool(Origin("http", "h", 80, ""), LIMITS, TIMEOUTS), [])
READING = Reading(Usage(uncached_input=5, text_output=7), UsageSource.REPORTED, "m-1")


class Ledger:
    """Says when it records, and fails when told to."""

    def __init__(self) -> None:
        self.recorded: list[Settlement] = []
        self.commits: list[asyncio.Future[None]] = []

    def record_once(self, settlement: Settlement) -> asyncio.Future[bool]:
        raise AssertionError("nothing here has an Idempotency-Key")

    def record(self, settlement: Settlement) -> asyncio.Future[None]:
        self.recorded.append(settlement)
        self.commits.append(asyncio.get_running_loop().create_future())
        return self.commits[-1]


def never(_: Settlement, __: str) -> asyncio.Future[None]:
    raise AssertionError("nothing here is deferred")


def call() -> Call:
    caller = Caller("key_1", "user-001", active=True, models=frozenset(), trusted=False, expires_ms=None)
    return Call(Arrival(), caller, "/v1/x", True, "POST", b"/x", [], b"{}", model="m")


def settle(settler: Settler, reading: Reading = READING) -> asyncio.Task[None]:
    asked = call()
    known = known_of(asked, UPSTREAM, asked.arrival.time_ms, "")
    settled = settler.settle(asked, known, Outcome.COMPLETED, reading, status=200, ttft_ms=3)
    return asyncio.ensure_future(settled)


async def test_it_returns_when_the_record_is_on_disk_and_then_says_so() -> None:
    ledger, told = Ledger(), list[Settlement]()
    settling = settle(Settler(ledger, told.append, never))
    await asyncio.sleep(0)
    assert not settling.done()
    assert told == []
    ledger.commits[0].set_result(None)
    await settling
    assert told == ledger.recorded
    (settlement,) = ledger.recorded
    assert (settlement.model, settlement.usage.total_tokens, settlement.ttft_ms) == ("m-1", 12, 3)


async def test_an_answer_that_names_no_model_is_recorded_under_the_one_asked_for() -> None:
    ledger = Ledger()
    settling = settle(Settler(ledger, lambda _: None, never), Reading())
    await asyncio.sleep(0)
    ledger.commits[0].set_result(None)
    await settling
    assert ledger.recorded[0].model == "m"


async def test_a_cancelled_request_is_recorded_all_the_same() -> None:
    ledger = Ledger()
    settling = settle(Settler(ledger, lambda _: None, never))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.sleep(0)
    assert not settling.done(), "its trace is not released before it is on disk"
    ledger.commits[0].set_result(None)
    await asyncio.wait([settling])
    assert settling.cancelled()


async def test_what_the_ledger_refuses_is_one_json_line_on_standard_error() -> None:
    ledger, stderr = Ledger(), io.StringIO()
    settling = settle(Settler(ledger, lambda _: None, never, stderr))
    await asyncio.sleep(0)
    ledger.commits[0].set_exception(sqlite3.OperationalError("database or disk is full"))
    await settling
    (line,) = stderr.getvalue().splitlines()
    written = orjson.loads(line)["tollgate_settlement"]
    assert written["id"] == ledger.recorded[0].id
    assert written["usage"]["text_output"] == 7
    assert (written["outcome"], written["subject"]) == ("completed", "user-001")
