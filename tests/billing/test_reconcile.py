"""Ledger and engine, walked side by side: every event ends in exactly one place, however much there is."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from proxy.billing.comparison import Kind
from proxy.billing.openmeter import Document, OpenMeter, Parameters
from proxy.billing.reconcile import ASKED_MAX
from proxy.billing.stored import Stored, rfc3339
from proxy.delivery.cloudevents import events_of
from proxy.errors import EngineRefused, EngineUnavailable, EngineUnreadable
from proxy.model import EventState, Settlement
from proxy.store.audit import Recorded
from tests.billing.books import FROM_S, TO_S, VISIBLE_MS, Books, reconciled
from tests.billing.engine import LOST, Engine, Fate, meter, problem
from tests.delivery.ledger import NOW_MS, event_of, settlement

ACCEPTED, PENDING = EventState.ACCEPTED, EventState.PENDING


@pytest.fixture(autouse=True)
def meters(engine: Engine) -> None:
    engine.meters = [meter("total", "llm_token_usage", "total_tokens"), meter("of_kinds", "prompt", "tokens")]


def some(count: int, step_ms: int = 137) -> list[Settlement]:
    return [replace(settlement(number), time_ms=NOW_MS + number * step_ms) for number in range(count)]


def keep(engine: Engine, settlements: Iterable[Settlement], source: str = "tollgate") -> None:
    for one in settlements:
        for event in events_of(one, source):
            engine.store(event, engine.fate(event))


async def test_where_all_is_there_nothing_is_found(books: Books, engine: Engine) -> None:
    engine.meters = [meter("total", "llm_token_usage", "total_tokens", model="model")]
    books.record(some(250))
    keep(engine, some(250))
    found = await reconciled(books, engine.url)
    assert (found.findings, found.differences) == ([], [])
    assert (found.tally.requests, str(found.tally.capture_rate)) == (250, "100.00")
    assert (found.run.hours_compared, found.run.hours_open) == (1, 0)


async def test_an_empty_ledger_beside_an_empty_engine(books: Books, engine: Engine) -> None:
    found = await reconciled(books, engine.url)
    assert (found.findings, found.tally.capture_rate) == ([], None)


async def test_what_is_lost_is_asked_for_by_its_id_before_it_is_called_missing(books: Books, engine: Engine) -> None:
    ours = some(3 * ASKED_MAX)
    lost = {one.id for one in ours[:-1:2]}
    engine.fate = lambda event: LOST if event["id"] in lost else Fate()
    books.record(ours)
    keep(engine, ours)
    found = await reconciled(books, engine.url)
    assert found.ids(Kind.MISSING) == sorted(lost)
    asked = "".join(one for one in engine.asked if "filter%5Bid%5D" in one)
    assert all(event_id in asked for event_id in lost)
    assert found.tally.found[ACCEPTED] == len(ours) - len(lost)


async def test_what_comes_while_it_is_looked_for_is_not_missing(books: Books, engine: Engine) -> None:
    books.record(some(3))
    keep(engine, [some(3)[0], some(3)[2]])

    def arrives(request: Request) -> None:
        if "filter[id][oeq]" in request.query_params:
            engine.store(event_of(some(3)[1], "tollgate"))

    engine.answers = arrives
    found = await reconciled(books, engine.url)
    assert (found.findings, found.tally.found[ACCEPTED]) == ([], 3)


async def test_an_event_that_only_this_engine_knows_is_unknown(books: Books, engine: Engine) -> None:
    books.record(some(2))
    keep(engine, [*some(2), replace(settlement(9_999), id="of-a-ledger-that-was-restored")])
    found = await reconciled(books, engine.url)
    assert found.ids(Kind.UNKNOWN) == ["of-a-ledger-that-was-restored"]
    assert len(found.findings) == 1


async def test_events_of_other_sources_are_not_ours_to_judge(books: Books, engine: Engine) -> None:
    books.record(some(2))
    keep(engine, some(2))
    keep(engine, [replace(one, id=f"x{one.id}") for one in some(50)], source="another")
    assert (await reconciled(books, engine.url)).findings == []


async def test_the_same_id_at_another_time_is_different_and_not_missing(books: Books, engine: Engine) -> None:
    books.record(some(1))
    keep(engine, [replace(some(1)[0], time_ms=NOW_MS + 70_000)])
    found = await reconciled(books, engine.url)
    assert found.words(Kind.DIFFERENT) == ["the ledger has this id at another time"]
    assert found.ids(Kind.MISSING) == found.ids(Kind.UNKNOWN) == []


async def test_the_same_id_before_the_period_is_different_and_not_missing(books: Books, engine: Engine) -> None:
    books.record(some(1))
    keep(engine, [replace(some(1)[0], time_ms=NOW_MS - 86_400_000)])
    found = await reconciled(books, engine.url)
    assert found.words(Kind.DIFFERENT) == ["there at another time"]
    assert found.ids(Kind.MISSING) == []


async def test_events_that_went_out_under_another_source_are_not_missing(books: Books, engine: Engine) -> None:
    books.record(some(2))
    keep(engine, some(2), source="tollgate-before")
    found = await reconciled(books, engine.url)
    assert found.words(Kind.DIFFERENT) == ["there with the source 'tollgate-before'"] * 2
    assert found.ids(Kind.MISSING) == []


@pytest.mark.parametrize(("sent", "now"), [("llm_token_usage", "prompt"), ("prompt", "llm_token_usage")])
async def test_events_that_went_out_in_another_profile_are_not_missing(
    books: Books, engine: Engine, sent: str, now: str
) -> None:
    books.record(some(2))
    for one in some(2):
        for event in events_of(one, "tollgate", sent):
            engine.store(event)
    found = await reconciled(books, engine.url, profile=now)
    assert found.ids(Kind.MISSING) == found.ids(Kind.UNKNOWN) == []
    assert set(found.words(Kind.DIFFERENT)) == {f"type {sent!r}: sent in another profile than the one that is set"}


async def test_a_period_begins_with_its_first_second_and_ends_before_its_last(books: Books, engine: Engine) -> None:
    instants = [FROM_S * 1000 - 1, FROM_S * 1000, FROM_S * 1000 + 59_999, FROM_S * 1000 + 60_000]
    every = [replace(settlement(number), time_ms=time_ms) for number, time_ms in enumerate(instants)]
    books.record(every)
    keep(engine, every)
    found = await reconciled(books, engine.url, to_s=FROM_S + 60)
    assert (found.tally.requests, found.tally.found[ACCEPTED], found.findings) == (2, 2, [])


async def test_where_nothing_was_stored_since_absence_is_not_proven(books: Books, engine: Engine) -> None:
    ours = some(4)
    books.record(ours[:2], delivered_ms=NOW_MS + 1_000)
    books.record(ours[2:], delivered_ms=NOW_MS + 9_000)
    keep(engine, [ours[0]])  # stored two seconds after
    missing: list[tuple[str, bool]] = []

    async def repair(given: Any) -> None:
        missing.extend((one.absent.recorded.settlement.id, one.proven) for one in given)

    found = await reconciled(books, engine.url, repair=repair)
    assert found.ids(Kind.MISSING) == [one.id for one in ours[1:]]
    assert missing == [(ours[1].id, True), (ours[2].id, False), (ours[3].id, False)]
    assert found.run.unproven == 2


async def test_hours_that_are_not_whole_or_not_over_are_not_compared(books: Books, engine: Engine) -> None:
    books.record(some(3, step_ms=3_600_000))
    keep(engine, some(3, step_ms=3_600_000))
    found = await reconciled(books, engine.url, to_s=FROM_S + 6_000)
    assert (found.run.hours_compared, found.run.hours_open) == (1, 1)
    found = await reconciled(books, engine.url, from_s=FROM_S + 60)
    assert (found.run.hours_compared, found.run.hours_open) == (2, 1)
    found = await reconciled(books, engine.url, visible_ms=(FROM_S + 7_200) * 1000)
    assert (found.run.hours_compared, found.run.hours_open) == (2, 1)


async def test_an_hour_with_pending_events_is_left_open(books: Books, engine: Engine) -> None:
    first, second = some(2, step_ms=3_600_000)
    books.record([first])
    books.record([second], delivered_ms=None)
    keep(engine, [first])
    found = await reconciled(books, engine.url)
    assert (found.run.hours_compared, found.run.hours_open, found.differences) == (1, 1, [])
    assert found.tally.recorded == {ACCEPTED: 1, PENDING: 1}


async def test_the_meters_are_off_by_what_was_lost(books: Books, engine: Engine) -> None:
    engine.meters = [meter("total", "llm_token_usage", "total_tokens", model="model")]
    books.record(some(20))
    keep(engine, some(20)[3:])
    (difference,) = (await reconciled(books, engine.url)).differences
    assert (int(difference.ledger), int(difference.engine)) == (20 * 247, 17 * 247)


class Flapping:
    """Every other question gets an answer."""

    def __init__(self, *troubles: Response) -> None:
        self.troubles = troubles
        self.count = 0

    def __call__(self, _: Request) -> Response | None:
        self.count += 1
        return None if self.count % 2 else self.troubles[self.count // 2 % len(self.troubles)]


async def test_an_engine_that_fails_now_and_then_is_asked_again(books: Books, engine: Engine) -> None:
    engine.answers = Flapping(problem(500), problem(429, **{"retry-after": "0"}), problem(503))
    books.record(some(450))
    keep(engine, some(450)[10:])
    found = await reconciled(books, engine.url)
    assert (len(found.ids(Kind.MISSING)), found.tally.found[ACCEPTED]) == (10, 440)
    assert isinstance(engine.answers, Flapping)
    assert engine.answers.count > 14


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (problem(401), EngineRefused),
        (problem(403), EngineRefused),
        (problem(404), EngineRefused),
        (problem(500), EngineUnavailable),
        (Response(b"{"), EngineUnreadable),
    ],
    ids=["401", "403", "404", "500", "no JSON"],
)
@pytest.mark.parametrize("which", ["stored_at", "page[number]", "filter[time][gte]", "filter[id][oeq]", "POST"])
async def test_nothing_is_concluded_where_a_question_gets_no_answer(
    books: Books, engine: Engine, trouble: Response, error: type[Exception], which: str
) -> None:
    books.record(some(3))
    keep(engine, some(2))
    repaired: list[str] = []

    async def repair(given: Any) -> None:
        repaired.extend(one.absent.recorded.settlement.id for one in given)

    def answers(request: Request) -> Response | None:
        return trouble if which in f"{request.method} {dict(request.query_params)}" else None

    engine.answers = answers
    with pytest.raises(error):
        await reconciled(books, engine.url, repair=repair)
    # By the time that the meters are asked it is known.
    assert repaired == (["req-0002"] if which == "POST" else [])


@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    fates=st.lists(
        st.tuples(st.sampled_from(["there", "lost", "twice", "pending"]), st.integers(0, 4_000)), max_size=60
    )
)
async def test_every_event_is_found_once_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, fates: list[tuple[str, int]]
) -> None:
    books = Books(tmp_path_factory.mktemp("books"))
    engine.rows.clear()
    engine._known.clear()
    expected: dict[str, list[str]] = {"there": [], "lost": [], "twice": [], "pending": []}
    for number, (fate, after_ms) in enumerate(fates):
        one = replace(settlement(number), time_ms=NOW_MS + after_ms)
        books.record([one], delivered_ms=None if fate == "pending" else NOW_MS)
        engine.store(event_of(one, "tollgate"), Fate(rows={"there": 1, "twice": 2}.get(fate, 0)))
        expected[fate].append(one.id)
    found = await reconciled(books, engine.url)
    assert found.ids(Kind.MISSING) == expected["lost"]
    assert found.ids(Kind.DOUBLED) == expected["twice"]
    assert found.tally.found.total() == len(expected["there"]) + len(expected["twice"])
    assert found.tally.recorded[PENDING] == len(expected["pending"])


class Arithmetic(OpenMeter):
    """An engine that has a hundred events a second and makes each when it is asked for it, but one in a thousand."""

    def __init__(self, count: int) -> None:
        super().__init__("http://127.0.0.1:9")
        self._count = count

    async def get(self, path: str, parameters: Parameters | None = None) -> Document:
        given = parameters or {}
        if path == "/meters" or "filter[id][oeq]" in given:
            return {"data": [], "meta": {}}
        if "stored_at" in given["sort"]:
            return {"data": [self._item(self._count)], "meta": {}}
        start = int(given.get("page[after]", "0"))
        numbers = range(start, min(start + 100, self._count))
        following = str(numbers.stop) if len(numbers) == 100 else None
        items = [self._item(number) for number in numbers if number % 1_000]
        return {"data": items, "meta": {"page": {"next": following}}}

    def _item(self, number: int) -> Document:
        one = numbered(number)
        event = event_of(one, "tollgate")
        time = rfc3339(one.time_ms // 1000)
        return {"event": event | {"time": time}, "ingested_at": time, "stored_at": time}


def numbered(number: int) -> Settlement:
    return replace(settlement(), id=f"req_{number:07}", time_ms=FROM_S * 1000 + number * 10)


async def test_however_many_events_there_are_a_second_of_each_side_is_in_memory(books: Books) -> None:
    count = 50_000
    held: list[int] = []

    def ours(from_ms: int, to_ms: int) -> Iterator[Recorded]:
        for number, one in enumerate(Books.between(books, from_ms, to_ms)):
            if number % 5_000 == 4_999:
                held.append(sum(isinstance(there, Stored | Recorded) for there in gc.get_objects()))
            yield one

    for start in range(0, count, 5_000):
        books.record(map(numbered, range(start, start + 5_000)), delivered_ms=FROM_S * 1000)
    books.between = ours  # type: ignore[method-assign]
    found = await reconciled(books, Arithmetic(count), visible_ms=VISIBLE_MS)
    assert found.tally.requests == count
    assert found.ids(Kind.MISSING) == [numbered(number).id for number in range(0, count, 1_000)]
    assert str(found.tally.capture_rate) == "99.90"
    assert len(held) == 10
    assert max(held) < 2 * 100 + ASKED_MAX + 300, "a second of both, what is asked for, and what is on its way"


def test_the_period_of_these_tests_is_whole_hours() -> None:
    assert FROM_S % 3600 == TO_S % 3600 == 0
    assert orjson.loads(orjson.dumps(rfc3339(FROM_S))) == "2026-04-13T10:00:00Z"
