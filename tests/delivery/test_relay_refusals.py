"""What a sink refuses for good is found and set aside, and holds up nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.delivery.ledger import Ledger
from tests.delivery.receiver import Answer, Event, Receiver, poisoned_by
from tests.delivery.relaying import ACCEPTED, DEAD, PENDING, ids, of, relaying, settings_for, until


@pytest.mark.parametrize("numbers", [{0}, {37}, {99}, {0, 99}, {49, 50}, {3, 4, 71}, set(range(20, 40))])
async def test_exactly_the_poison_is_dead(ledger: Ledger, receiver: Receiver, numbers: set[int]) -> None:
    poison = set(ids(sorted(numbers)))
    receiver.judge = poisoned_by(poison)
    await ledger.record(*of(range(100)))
    async with relaying(ledger, settings_for(receiver)) as relay:
        await until(lambda: not ledger.states()[PENDING])
        await until(lambda: relay.trouble == "")
    assert ledger.states() == Counter({ACCEPTED: 100 - len(poison), DEAD: len(poison)})
    for one in ledger.deliveries():
        if one.settlement.id in poison:
            assert (one.state, one.error) == (DEAD, f"400 Bad Request\n{one.settlement.id} is malformed")
    assert sorted(receiver.accepted_ids) == ids([number for number in range(100) if number not in numbers])
    assert len(receiver.taken) == 100 - len(poison), "nothing was taken twice"
    assert len(receiver.received) < 2 * 100


async def test_one_culprit_costs_few_calls(ledger: Ledger, receiver: Receiver) -> None:
    receiver.judge = poisoned_by(set(ids([37])))
    await ledger.record(*of(range(100)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: not ledger.states()[PENDING])
    assert len(receiver.received) <= 15


async def test_a_receiver_that_often_fails_does_not_make_the_search_endless(ledger: Ledger, receiver: Receiver) -> None:
    """Poison in the first place, and every third call a 500: a search that began again each time would never end."""
    judge = poisoned_by(set(ids([0])))
    calls = Counter[str]()

    def sometimes(batch: list[Event]) -> Answer:
        calls["all"] += 1
        return Answer(500) if calls["all"] % 3 == 0 else judge(batch)

    receiver.judge = sometimes
    await ledger.record(*of(range(100)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: ledger.states() == {ACCEPTED: 99, DEAD: 1})
    assert len(receiver.taken) == 99


async def test_a_receiver_that_takes_small_batches_only_gets_small_ones(ledger: Ledger, receiver: Receiver) -> None:
    receiver.judge = lambda batch: Answer(413 if len(batch) > 10 else 202)
    await ledger.record(*of(range(100)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: ledger.accepted() == 100)
    assert receiver.accepted_ids == ids(range(100))


async def test_an_event_that_is_too_large_alone_is_dead(ledger: Ledger, receiver: Receiver) -> None:
    receiver.judge = lambda batch: Answer(413 if ids([2])[0] in [event["id"] for event in batch] else 202)
    await ledger.record(*of(range(5)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: not ledger.states()[PENDING])
    assert [one.settlement.id for one in ledger.deliveries() if one.state is DEAD] == ids([2])


async def test_events_that_vanish_during_the_search_do_not_confuse_it(ledger: Ledger, receiver: Receiver) -> None:
    """Someone discards events by hand while the relay looks for the culprit."""
    judge = poisoned_by(set(ids([30])))

    def meanwhile(batch: list[Event]) -> Answer:
        if len(batch) == 25:
            with ledger.database.transaction() as connection:
                connection.execute("UPDATE events SET state = 'dead' WHERE seq % 2 = 0 AND state = 'pending'")
        return judge(batch)

    receiver.judge = meanwhile
    await ledger.record(*of(range(100)))
    async with relaying(ledger, settings_for(receiver)):
        await until(lambda: not ledger.states()[PENDING])
    # seq counts from 1, so the even ones are the odd numbers; a batch on its way when they vanished was still taken.
    dead = {one.settlement.id for one in ledger.deliveries() if one.state is DEAD}
    assert ids([30])[0] in dead
    assert dead - set(ids([30])) <= set(ids(range(1, 100, 2)))
    assert set(ids(range(0, 100, 2))) - set(ids([30])) <= set(receiver.accepted_ids)
