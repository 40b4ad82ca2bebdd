"""Stores that fail, starts and stops, and what must never be said."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from proxy.delivery.relay import POLL_S, Relay
from proxy.delivery.sinks import EventCourier, sink_for
from proxy.model import Settlement
from proxy.store.lease import FileLease
from tests.delivery.ledger import Ledger, settlement
from tests.delivery.receiver import BOUND_S, Answer, Event, Receiver, poisoned_by
from tests.delivery.relaying import (
    ACCEPTED,
    DEAD,
    PENDING,
    TOKEN,
    LongNaps,
    Naps,
    errors,
    ids,
    of,
    relaying,
    settings_for,
    until,
)

# The store fails


class Flaky:
    """The outbox, where chosen calls fail."""

    def __init__(self, ledger: Ledger, **failures: int) -> None:
        self._outbox = ledger.outbox
        self.left = Counter(failures)

    def _perhaps(self, name: str) -> None:
        if self.left[name]:
            self.left[name] -= 1
            raise sqlite3.OperationalError("database or disk is full")

    async def pending(self, limit: int, *, newest: bool = False) -> list[Settlement]:
        self._perhaps("pending")
        return await self._outbox.pending(limit, newest=newest)

    async def accept(self, accepted: Sequence[str]) -> None:
        self._perhaps("accept")
        await self._outbox.accept(accepted)

    async def refuse(self, event_id: str, words: str) -> None:
        self._perhaps("refuse")
        await self._outbox.refuse(event_id, words)

    async def note_failure(self, failed: Sequence[str], words: str) -> None:
        self._perhaps("note_failure")
        await self._outbox.note_failure(failed, words)


async def test_a_store_that_fails_is_waited_for(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Flaky(ledger, pending=3, accept=3)
    naps = Naps()
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver), outbox=outbox, sleep=naps) as relay:
        await until(lambda: ledger.accepted() == 5)
        await until(lambda: relay.trouble == "")
    assert naps.asked_s.count(1.0) == 6
    assert len(receiver.received) == 1, "an accept that failed is repeated, not the delivery"
    assert len(errors(caplog)) == 1, "the same reason is said once while it lasts"


async def test_a_refusal_and_a_note_that_cannot_be_written_are_made_again(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script.append(Answer(503))
    receiver.judge = poisoned_by(set(ids([1])))
    await ledger.record(*of(range(3)))
    naps = Naps()
    async with relaying(ledger, settings_for(receiver), outbox=Flaky(ledger, refuse=2, note_failure=1), sleep=naps):
        await until(lambda: ledger.states() == {ACCEPTED: 2, DEAD: 1})
    assert 0.5 in naps.asked_s, "the wait after the 503 was not cut short"
    assert len(receiver.taken) == 2


async def test_a_crash_between_delivery_and_acceptance_sends_the_same_ids_again(
    ledger: Ledger, receiver: Receiver
) -> None:
    class Dies(Flaky):
        async def accept(self, accepted: Sequence[str]) -> None:
            await asyncio.sleep(3600)

    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver), outbox=Dies(ledger)):
        await receiver.until(lambda receiver: len(receiver.taken) == 5)
    assert ledger.states() == {PENDING: 5}
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: ledger.accepted() == 5)
    first, second = receiver.received
    assert first.body == second.body
    assert receiver.accepted_ids == ids(range(5))


async def test_a_wake_without_events_is_one_look(ledger: Ledger, receiver: Receiver) -> None:
    class Counts(Flaky):
        looks = 0

        async def pending(self, limit: int, *, newest: bool = False) -> list[Settlement]:
            self.looks += 1
            return await super().pending(limit, newest=newest)

    outbox = Counts(ledger)
    naps = LongNaps()
    async with relaying(ledger, settings_for(receiver), outbox=outbox, sleep=naps) as relay:
        await naps.begun(POLL_S)
        relay.wake()
        await until(lambda: naps.asked_s.count(POLL_S) == 2)
        await asyncio.sleep(0.05)  # in which a relay that spins would look many times
        assert outbox.looks == 2


async def test_a_bug_in_a_sink_does_not_end_delivery(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    class Buggy:
        def __init__(self) -> None:
            self.calls = 0

        async def deliver(self, events: Sequence[Event]) -> None:
            self.calls += 1
            if self.calls == 1:
                raise KeyError("oops")

        async def close(self) -> None: ...

    await ledger.record(settlement())
    async with relaying(ledger, settings_for(receiver), sink=Buggy()):
        await until(lambda: ledger.accepted() == 1)
    assert len(errors(caplog)) == 1
    assert caplog.records[0].exc_info


# Start and stop


async def test_stop_delivers_what_is_pending(ledger: Ledger, receiver: Receiver) -> None:
    async with relaying(ledger, settings_for(receiver, linger_s=3600), sleep=asyncio.sleep) as relay:
        await ledger.record(*of(range(250)))
        relay.wake()
        await relay.stop(BOUND_S)
        assert ledger.accepted() == 250
    assert receiver.accepted_ids == ids(range(250))


@pytest.mark.parametrize(
    ("answers", "wait_s"),
    [([], 0.2), ([Answer(503)], 0.5), ([Answer(429, headers={"retry-after": "9"})], 9), ([Answer(401)], 60)],
)
async def test_stop_cuts_any_wait_short_and_delivers(
    ledger: Ledger, receiver: Receiver, answers: list[Answer], wait_s: float
) -> None:
    receiver.script += answers
    naps = LongNaps()
    await ledger.record(*of(range(5)))
    settings = settings_for(receiver, batch_max=5 if answers else 100)  # a full batch does not linger
    async with relaying(ledger, settings, sleep=naps) as relay:
        await naps.begun(wait_s)
        await relay.stop(BOUND_S)
    assert ledger.accepted() == 5


async def test_stop_while_idle_ends_at_once(ledger: Ledger, receiver: Receiver) -> None:
    naps = LongNaps()
    async with relaying(ledger, settings_for(receiver), sleep=naps) as relay:
        await naps.begun(POLL_S)
        began = time.monotonic()
        await relay.stop(BOUND_S)
        assert time.monotonic() - began < BOUND_S / 2


async def test_stop_tries_again_within_its_deadline(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script += [Answer(500), Answer(500)]
    async with relaying(ledger, settings_for(receiver)) as relay:
        await ledger.record(*of(range(5)))
        await relay.stop(BOUND_S)
    assert ledger.accepted() == 5


async def test_stop_before_start_and_twice_and_start_again(ledger: Ledger, receiver: Receiver) -> None:
    settings = settings_for(receiver)
    sink = sink_for(settings)
    assert sink is not None
    relay = Relay(ledger.outbox, EventCourier(sink, settings), settings, FileLease(ledger.database.path), sleep=Naps())
    await relay.stop(1)
    relay.wake()
    for number in range(3):
        await ledger.record(settlement(number))
        relay.start()
        relay.start()
        await until(lambda count=number + 1: ledger.accepted() == count)  # type: ignore[misc]
        await asyncio.gather(relay.stop(BOUND_S), relay.stop(BOUND_S))
        await relay.stop(BOUND_S)
    await sink.close()


async def test_stop_while_busy_lets_the_batch_finish(ledger: Ledger, receiver: Receiver) -> None:
    receiver.script.append(Answer(delay_s=0.2))
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver)) as relay:
        await receiver.until(lambda receiver: len(receiver.received) == 1)
        await relay.stop(BOUND_S)
        assert ledger.accepted() == 5
    assert len(receiver.received) == 1


@pytest.mark.parametrize("answer", [Answer(delay_s=60), Answer(503), Answer(drops=True)])
async def test_stop_with_a_dead_sink_ends_within_its_deadline(
    ledger: Ledger, receiver: Receiver, answer: Answer
) -> None:
    receiver.judge = lambda _: answer
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver), sleep=asyncio.sleep) as relay:
        await receiver.until(lambda receiver: len(receiver.received) >= 1)
        began = time.monotonic()
        await relay.stop(0.3)
        assert time.monotonic() - began < 2
    assert ledger.states() == {PENDING: 5}


@pytest.mark.parametrize("answer", [Answer(401), Answer(503, headers={"retry-after": "600"})])
async def test_stop_does_not_wait_for_what_will_not_come(ledger: Ledger, receiver: Receiver, answer: Answer) -> None:
    receiver.judge = lambda _: answer
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver), sleep=asyncio.sleep) as relay:
        await until(lambda: relay.trouble != "")
        began = time.monotonic()
        await relay.stop(60)
        assert time.monotonic() - began < 5
    assert ledger.states() == {PENDING: 5}


async def test_a_stop_that_is_cancelled_leaves_no_task_behind(ledger: Ledger, receiver: Receiver) -> None:
    receiver.judge = lambda _: Answer(delay_s=60)
    await ledger.record(settlement())
    async with relaying(ledger, settings_for(receiver)) as relay:
        await receiver.until(lambda receiver: len(receiver.received) == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(relay.stop(60), 0.1)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "tollgate-relay"] == []


# What is not said


@pytest.mark.parametrize("status", [400, 401, 500])
async def test_tokens_and_contents_of_events_are_never_logged(
    ledger: Ledger, receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """The receiver repeats all that it got."""
    caplog.set_level(logging.DEBUG, "proxy")
    receiver.judge = lambda batch: Answer(status, f"Bearer {TOKEN} ".encode() + orjson.dumps(batch))
    await ledger.record(settlement(1, subject="tenant-of-note", model="model-of-note"))
    async with relaying(ledger, settings_for(receiver, pause_s=1)) as relay:
        await until(lambda: any(one.error for one in ledger.deliveries()))

        def said() -> str:
            logged = [entry.getMessage() for entry in caplog.records if entry.name.startswith("proxy")]
            return relay.trouble + "".join(logged)

        # It is told just after it is on disk.
        await until(lambda: any(words in said() for words in ("delivery", "sink", "dead letter")))
        shown = said()
    for hidden in ("tenant-of-note", "model-of-note"):
        assert hidden not in shown
    (one,) = ledger.deliveries()
    assert "***" in one.error
    for text in (shown, caplog.text, one.error):
        assert TOKEN not in text


async def test_one_that_stands_by_delivers_at_its_end_what_another_leaves_and_waits_for_nothing_else(
    ledger: Ledger, receiver: Receiver
) -> None:
    settings = settings_for(receiver)
    sink, other = sink_for(settings), FileLease(ledger.database.path)
    assert sink is not None
    assert other.acquire()
    relay = Relay(ledger.outbox, EventCourier(sink, settings), settings, FileLease(ledger.database.path))
    relay.patience_s = BOUND_S / 2
    for leaves in (False, True):
        relay.start()
        await asyncio.sleep(0)
        if leaves:
            await ledger.record(*of(range(5)))
        began = time.monotonic()
        stopping = asyncio.create_task(relay.stop(BOUND_S))
        await asyncio.sleep(0.1)
        assert stopping.done() is not leaves
        other.release()
        await stopping
        assert time.monotonic() - began < BOUND_S / 2
        assert other.acquire()
    assert ledger.accepted() == 5
    relay.patience_s = 0.2
    await ledger.record(settlement(7))
    relay.start()
    await asyncio.sleep(0)
    await relay.stop(BOUND_S)
    assert ledger.states() == {ACCEPTED: 5, PENDING: 1}
    other.release()
    await sink.close()
