"""Every recorded event reaches the sink, in order, once after repeats are dropped, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from proxy.delivery.relay import POLL_S
from proxy.store.ledger import record
from tests.delivery.ledger import NOW_MS, Ledger, settlement
from tests.delivery.receiver import Answer, Event, Receiver
from tests.delivery.relaying import PENDING, Naps, errors, ids, of, relaying, settings_for, until

# All is well


async def test_what_was_pending_at_the_start_is_delivered(ledger: Ledger, receiver: Receiver) -> None:
    await ledger.record(*of(range(3)))
    async with relaying(ledger, settings_for(receiver, source="gateway-1")) as relay:
        await until(lambda: ledger.accepted() == 3)
        await until(lambda: relay.trouble == "")
    (batch,) = receiver.received
    assert batch.ids == ids(range(3))
    assert {event["source"] for event in batch.events} == {"gateway-1"}
    assert [(one.attempts, one.error, one.delivered_ms) for one in ledger.deliveries()] == [(1, "", NOW_MS)] * 3


async def test_a_wake_is_enough(ledger: Ledger, receiver: Receiver) -> None:
    async def never_polls(seconds: float) -> None:
        await asyncio.sleep(3600 if seconds == POLL_S else seconds)

    async with relaying(ledger, settings_for(receiver, linger_s=0.01), sleep=never_polls) as relay:
        for number in range(3):
            await ledger.record(settlement(number))
            relay.wake()
            await until(lambda count=number + 1: ledger.accepted() == count)  # type: ignore[misc]
    assert len(receiver.received) == 3


async def test_events_of_another_process_are_found_without_a_wake(ledger: Ledger, receiver: Receiver) -> None:
    naps = Naps()
    async with relaying(ledger, settings_for(receiver), sleep=naps):
        await until(lambda: POLL_S in naps.asked_s)
        with ledger.database.transaction() as connection:
            record(connection, of([1]))
        await until(lambda: ledger.accepted() == 1)


async def test_a_batch_gathers_for_a_moment(ledger: Ledger, receiver: Receiver) -> None:
    lingers = asyncio.Event()
    gathered = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds == 0.2:
            lingers.set()
            await gathered.wait()
        else:
            await asyncio.sleep(3600)

    async with relaying(ledger, settings_for(receiver), sleep=sleep) as relay:
        await ledger.record(settlement(0))
        relay.wake()
        await lingers.wait()
        await ledger.record(*of(range(1, 5)))
        gathered.set()
        await until(lambda: ledger.accepted() == 5)
    assert [batch.ids for batch in receiver.received] == [ids(range(5))]


async def test_a_full_backlog_is_drained_without_a_pause(ledger: Ledger, receiver: Receiver) -> None:
    naps = Naps()
    await ledger.record(*of(range(250)))
    async with relaying(ledger, settings_for(receiver, batch_max=100), sleep=naps):
        await until(lambda: ledger.accepted() == 250)
    assert [len(batch.events) for batch in receiver.received] == [100, 100, 50]
    assert receiver.accepted_ids == ids(range(250))
    assert naps.asked_s[:1] == [0.2]
    assert naps.asked_s.count(0.2) == 1, "only the last batch is not full"


# The sink is unavailable


async def test_every_third_call_fails_and_nothing_is_lost_or_doubled(ledger: Ledger, receiver: Receiver) -> None:
    calls = Counter[str]()

    def judge(batch: list[Event]) -> Answer:
        calls["all"] += 1
        return Answer(500, b"whoops") if calls["all"] % 3 == 0 else Answer()

    receiver.judge = judge
    await ledger.record(*of(range(300)))
    async with relaying(ledger, settings_for(receiver, batch_max=10)):
        await until(lambda: ledger.accepted() == 300)
    assert receiver.accepted_ids == ids(range(300)), "the order is kept"
    assert len(receiver.taken) == 300


async def test_a_429_waits_as_long_as_it_asks_and_sends_the_same_ids(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script.append(Answer(429, b"slow down", {"retry-after": "7"}))
    naps = Naps()
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver), sleep=naps):
        await until(lambda: ledger.accepted() == 5)
    first, second = receiver.received
    assert first.ids == second.ids == ids(range(5))
    assert 7.0 in naps.asked_s
    assert [one.attempts for one in ledger.deliveries()] == [2] * 5


async def test_waits_double_and_begin_anew_after_a_success(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script += [Answer(429)] * 4 + [Answer(), Answer(429)]
    naps = Naps()
    await ledger.record(*of(range(20)))
    async with relaying(ledger, settings_for(receiver, batch_max=10, retry_max_s=3), sleep=naps):
        await until(lambda: ledger.accepted() == 20)
    assert [wait for wait in naps.asked_s if wait not in (0.2, POLL_S)] == [0.5, 1, 3, 0.5]
    assert naps.asked_s.count(2.0) >= 1, "the third wait, and maybe polls"


async def test_a_timeout_after_the_events_were_taken_doubles_nothing(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script.append(Answer(202, delay_s=30))
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver, timeout_s=0.3)) as relay:
        await receiver.until(lambda receiver: len(receiver.received) == 1)
        await until(lambda: relay.trouble == "the sink takes no events: no answer within 0.3 s")
        await until(lambda: ledger.accepted() == 5)
        await until(lambda: relay.trouble == "")
    first, second = receiver.received
    assert first.ids == second.ids
    assert len(receiver.taken) == 10
    assert receiver.accepted_ids == ids(range(5))


async def test_a_connection_that_breaks_after_the_events_were_taken_doubles_nothing(
    ledger: Ledger, receiver: Receiver
) -> None:
    receiver.script += [Answer(takes=True, drops=True), Answer(500, takes=True)]
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: ledger.accepted() == 5)
    assert len(receiver.taken) == 15
    assert receiver.accepted_ids == ids(range(5))


async def test_a_sink_that_is_down_for_a_while_costs_nothing(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy.delivery")
    receiver.stop()
    async with relaying(ledger, settings_for(receiver, batch_max=10)) as relay:
        for start in range(0, 50, 10):
            await ledger.record(*of(range(start, start + 10)))
            relay.wake()
        await until(lambda: any(one.attempts >= 3 for one in ledger.deliveries()))
        assert relay.trouble.startswith("the sink takes no events: no connection to ")
        assert ledger.states() == {PENDING: 50}
        receiver.start()
        await until(lambda: ledger.accepted() == 50)
        await until(lambda: relay.trouble == "")
    assert receiver.accepted_ids == ids(range(50))
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"], "it is said once, and that it is over"


async def test_huge_answers_are_borne(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script += [Answer(500, b"x" * 10_000_000), Answer(202, b"x" * 10_000_000)]
    await ledger.record(*of(range(3)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: ledger.accepted() == 3)
    assert receiver.accepted_ids == ids(range(3))


# The sink is misconfigured


@pytest.mark.parametrize(("status", "mend"), [(401, "token"), (403, "role Ingest"), (404, "URL"), (302, "redirects")])
async def test_delivery_pauses_until_someone_mends_it(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int, mend: str
) -> None:
    receiver.judge = lambda _: Answer.problem(status, title="No", detail="not like this")
    naps = Naps()
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver, pause_s=30), sleep=naps) as relay:
        await until(lambda: naps.asked_s.count(30) == 2)
        assert relay.trouble.startswith(f"delivery is paused: {status} ")
        assert mend in relay.trouble
        assert {one.error.split("\n")[1] for one in ledger.deliveries()} == {"not like this"}
        receiver.judge = None
        await until(lambda: ledger.accepted() == 5)
        await until(lambda: relay.trouble == "")
    (line,) = errors(caplog)
    assert mend in line, "it is said once, with what to mend"


async def test_another_reason_is_said_too(ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.script += [Answer(401), Answer(401), Answer(404), Answer(404)]
    await ledger.record(settlement())
    async with relaying(ledger, settings_for(receiver, pause_s=1)):
        await until(lambda: ledger.accepted() == 1)
    assert ["401 Unauthorized" in line for line in errors(caplog)] == [True, False]


async def test_a_paused_delivery_is_not_woken(ledger: Ledger, receiver: Receiver) -> None:
    receiver.judge = lambda _: Answer(401)

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(3600 if seconds == 60 else seconds / 100)

    await ledger.record(settlement(1))
    async with relaying(ledger, settings_for(receiver), sleep=sleep) as relay:
        await until(lambda: relay.trouble != "")
        await ledger.record(settlement(2))
        relay.wake()
        await asyncio.sleep(0.05)
        assert len(receiver.received) == 1
