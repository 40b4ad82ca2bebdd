"""Other sinks, and any order of things."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import count as count_up
from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.delivery.relay import Relay
from proxy.delivery.sinks import EventCourier, FileSink
from proxy.errors import SinkMisconfigured, SinkRefused, SinkUnavailable
from proxy.model import Settlement
from proxy.sections import SinkSettings
from tests.delivery.ledger import Ledger
from tests.delivery.receiver import BOUND_S, Event
from tests.delivery.relaying import ids, of, relaying, until


async def test_a_file_takes_events_too_and_a_folder_in_its_place_is_borne(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.mkdir()
    await ledger.record(*of(range(150)))
    async with relaying(ledger, SinkSettings(file=str(path)), sink=FileSink(str(path))) as relay:
        await until(lambda: relay.trouble != "")
        path.rmdir()
        await until(lambda: ledger.accepted() == 150)
        await until(lambda: relay.trouble == "")
    assert [orjson.loads(line)["id"] for line in path.read_bytes().splitlines()] == ids(range(150))


class Memory:
    """An outbox in memory."""

    def __init__(self, count: int) -> None:
        self.waiting = of(range(count))
        self.accepted: list[str] = []
        self.dead: list[str] = []

    async def pending(self, limit: int, *, newest: bool = False) -> list[Settlement]:
        return self.waiting[::-1][:limit] if newest else self.waiting[:limit]

    async def accept(self, accepted: Sequence[str]) -> None:
        self._move(accepted, self.accepted)

    async def refuse(self, event_id: str, words: str) -> None:
        self._move([event_id], self.dead)

    async def note_failure(self, failed: Sequence[str], words: str) -> None: ...

    def _move(self, moved: Sequence[str], target: list[str]) -> None:
        left = [one for one in self.waiting if one.id not in moved]
        assert len(left) == len(self.waiting) - len(moved), "what was moved was pending"
        self.waiting = left
        target.extend(moved)


class Alone:
    """A lease that nobody else wants."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None: ...


class Moody:
    """A sink that refuses poison, fails at rocks, and otherwise follows its moods."""

    def __init__(self, poison: set[str], rocks: set[str], moods: list[Exception | None]) -> None:
        self._poison = poison
        self._rocks = rocks
        self._moods = iter(moods)
        self.taken: list[str] = []

    async def deliver(self, events: Sequence[Event]) -> None:
        mood = next(self._moods, None)
        if mood is not None:
            raise mood
        batch = [event["id"] for event in events]
        if not self._poison.isdisjoint(batch):
            raise SinkRefused("poison")
        if not self._rocks.isdisjoint(batch):
            raise SinkUnavailable("rock", failed=True)
        self.taken += batch

    async def close(self) -> None: ...


MOODS = [
    None,
    SinkUnavailable("down"),
    SinkUnavailable("down", failed=True),
    SinkUnavailable("slow down", 7),
    SinkMisconfigured("no"),
    ValueError("no"),
]


@given(
    count=st.integers(0, 40),
    batch_max=st.integers(1, 17),
    poison=st.sets(st.integers(0, 39)),
    rocks=st.sets(st.integers(0, 39), max_size=8),
    moods=st.lists(st.sampled_from(MOODS), max_size=60),
)
def test_whatever_happens_each_event_ends_where_it_belongs(
    count: int, batch_max: int, poison: set[int], rocks: set[int], moods: list[Exception | None]
) -> None:
    """A rock is pending or dead: dead only where others were taken again and again."""
    outbox = Memory(count)
    good = set(range(count)) - poison - rocks
    rocks -= poison
    sink = Moody(set(ids(sorted(poison))), set(ids(sorted(rocks))), moods)
    clock_s = count_up(step=10)

    async def deliver_all() -> None:
        settings = SinkSettings(batch_max=batch_max)
        relay = Relay(
            outbox,
            EventCourier(sink, settings),
            settings,
            Alone(),
            sleep=lambda _: asyncio.sleep(0),
            random=lambda: 0.5,
            now_s=lambda: float(next(clock_s)),
        )
        relay.start()
        await until(lambda: {one.id for one in outbox.waiting} <= set(ids(sorted(rocks))))
        await relay.stop(BOUND_S)

    logging.disable()
    try:
        asyncio.run(deliver_all())
    finally:
        logging.disable(logging.NOTSET)
    assert sorted(outbox.accepted) == sorted(sink.taken) == ids(sorted(good))
    refused = set(ids(sorted(number for number in poison if number < count)))
    assert refused <= set(outbox.dead) <= refused | set(ids(sorted(rocks)))
