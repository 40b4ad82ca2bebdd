"""What remembered sums must hold: the answer is the one that is summed anew, whatever was recorded since."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import TooMuch
from proxy.instants import HOUR_MS, Period
from proxy.limits import Calendar
from proxy.model import Cost, CostState, Settlement, Units, Usage, UsageSource
from proxy.store.database import Database, Link
from proxy.store.ledger import record
from proxy.store.sums import Remembered
from proxy.store.usage import Bounds, Group, Question, Report, report
from tests.running import EVER
from tests.store.samples import TIME_MS, counts, settlement, settlements

BERLIN = Calendar.of("Europe/Berlin")
HOUR = TIME_MS // HOUR_MS * HOUR_MS
#: In Berlin, 2026-03-29 has 23 hours.
SPRING = 1_774_738_800_000  # 2026-03-28T23:00Z
BOUNDS = Bounds(10_000, 60)
BY_MODEL = Question(EVER, (Group.MODEL,), "user-001")

Told = Callable[[Question], Report]


def anew(connection: sqlite3.Connection, question: Question) -> Report:
    keys = question.keys
    return report(connection, question.period, BERLIN, question.groups, subject=question.subject, keys=keys)


@contextmanager
def view(connection: sqlite3.Connection) -> Iterator[list[str]]:
    """One view of the data, as the reader gives it; and what is asked in it."""
    asked: list[str] = []
    connection.execute("BEGIN")
    connection.set_trace_callback(asked.append)
    try:
        yield asked
    finally:
        connection.set_trace_callback(None)
        connection.execute("ROLLBACK")


def is_summed(remembered: Remembered, connection: sqlite3.Connection, question: Question = BY_MODEL) -> bool:
    """Whether the rollups were read for an answer, which must be right."""
    with view(connection) as asked:
        found = remembered.report(connection, question, BOUNDS)
    assert found == anew(connection, question)
    return any("rollups" in sql for sql in asked)


_costs = st.builds(Cost, st.just(0), st.sampled_from([CostState.FREE, CostState.UNPRICED, CostState.UNKNOWN])) | (
    st.builds(Cost, st.integers(1, 10**15), st.just(CostState.PRICED))
)
_tokens = counts | st.integers(0, 100)
#: About where the periods of the questions, and days, begin and end.
_times = st.builds(
    lambda hour, ms: SPRING + hour * HOUR_MS + ms,
    st.sampled_from([-1, 0, 2, 3, 22, 23, 24]),
    st.sampled_from([0, HOUR_MS - 1]),
)
an_event = st.builds(
    lambda **of: settlement("", **of),
    subject=st.sampled_from(["user-001", "user-002"]),
    key_id=st.sampled_from(["key_1", "key_2", "key_3"]),
    time_ms=_times,
    endpoint=st.sampled_from(["/v1/embeddings", "/api/generate"]),
    model=st.sampled_from(["gpt-4o", "mødel-🙂", "", "\ud800", "x" * 600]),
    usage=st.builds(Usage, _tokens, _tokens, text_output=_tokens, reasoning=_tokens),
    usage_source=st.sampled_from(UsageSource),
    units=st.builds(Units, _tokens, _tokens, _tokens),
    cost=_costs,
)
#: With these, sums soon pass SQLite's integers.
a_large_event = st.builds(
    lambda one, usage, cost: replace(one, usage=usage, cost=cost),
    an_event,
    st.builds(Usage, st.integers(2**61, 2**63 - 1)),
    st.just(Cost(2**62, CostState.PRICED)),
)
a_question = st.builds(
    Question,
    st.sampled_from(
        [EVER, Period(SPRING, SPRING + 23 * HOUR_MS), Period(SPRING + 2 * HOUR_MS, SPRING + 3 * HOUR_MS), Period(0, 0)]
    ),
    st.lists(st.sampled_from(Group), unique=True, max_size=3).map(tuple),
    st.sampled_from(["user-001", "user-002", "nobody"]),
    st.sampled_from([None, frozenset(), frozenset({"key_1"}), frozenset({"key_1", "key_2"})]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(a_question, min_size=1, max_size=4),
    st.sampled_from([an_event] * 3 + [an_event | a_large_event]).flatmap(
        lambda event: st.lists(st.lists(event, max_size=6) | st.integers(0, 3), max_size=14)
    ),
    st.sampled_from([{}, {"rows_max": 3, "lines_max": 3, "questions_max": 2}]),
)
def test_an_answer_is_what_is_summed_anew_whatever_was_recorded_in_between(
    questions: list[Question], steps: list[list[Settlement] | int], room: dict[str, int]
) -> None:
    remembered, numbers = Remembered(BERLIN, **room), count()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/tollgate.db")
        database.create()
        with closing(database.connect()) as writer, closing(database.connect(read_only=True)) as reader:
            writer.execute("PRAGMA synchronous = OFF")
            for step in [*steps, *range(4)]:
                if isinstance(step, list):
                    record(writer, [replace(one, id=f"req_{next(numbers)}") for one in step])
                    continue
                question = questions[step % len(questions)]
                with view(reader):
                    assert _answer(lambda asked: remembered.report(reader, asked, BOUNDS), question) == _answer(
                        lambda asked: anew(reader, asked), question
                    )


def _answer(told: Told, question: Question) -> Report | str:
    try:
        return told(question)
    except sqlite3.OperationalError as error:
        return str(error)  # an overflow of integers, of both or of none


def test_what_was_asked_is_moved_on_without_reading_the_rollups(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection)
    record(connection, settlements(3))
    assert not is_summed(remembered, connection)
    record(connection, [settlement("late", time_ms=TIME_MS - 40 * 24 * HOUR_MS, model="new")])
    assert not is_summed(remembered, connection)
    assert not is_summed(remembered, connection)


def test_the_hours_that_begin_in_a_half_open_interval_are_moved_on(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    period = Question(Period(HOUR, HOUR + HOUR_MS), (), "user-001")
    assert is_summed(remembered, connection, period)
    for at in (HOUR - 1, HOUR, HOUR + HOUR_MS - 1, HOUR + HOUR_MS):
        record(connection, [settlement(f"req_{at}", time_ms=at)])
        assert not is_summed(remembered, connection, period)


def test_questions_are_told_apart_by_all_that_is_in_them(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    record(connection, settlements(3))
    period = Period(HOUR, HOUR + HOUR_MS)
    questions = [
        *(Question(EVER, (), "user-001"), Question(EVER, (Group.KEY,), "user-001"), Question(EVER, (), "user-002")),
        *(Question(EVER, (Group.KEY,), "user-001", frozenset(keys)) for keys in ((), ("key_1",))),
        *(BY_MODEL, Question(period, (Group.MODEL,), "user-001"), Question(EVER, (Group.MODEL, Group.DAY), "user-001")),
    ]
    assert all(is_summed(remembered, connection, question) for question in questions)
    assert not any(is_summed(remembered, connection, question) for question in questions)


def test_keys_matter_only_where_they_are_told_apart(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection, Question(EVER, (), "user-001", frozenset({"key_1"})))
    assert not is_summed(remembered, connection, Question(EVER, (), "user-001", frozenset({"key_2"})))


def test_more_rows_than_are_worth_it_are_summed_anew(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN, rows_max=10)
    assert is_summed(remembered, connection)
    record(connection, settlements(10, subject="user-002"))
    assert not is_summed(remembered, connection)
    record(connection, [settlement(f"more_{number}", subject="user-002") for number in range(11)])
    assert is_summed(remembered, connection)
    assert not is_summed(remembered, connection)


def test_of_many_questions_those_asked_last_are_remembered(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN, questions_max=2)
    first, second, third = (Question(Period(0, hours * HOUR_MS), (), "user-001") for hours in (1, 2, 3))
    assert [is_summed(remembered, connection, one) for one in (first, second, first, third)] == [
        *(True, True, False, True),
    ]
    assert not is_summed(remembered, connection, first)
    assert is_summed(remembered, connection, second)


def test_answers_that_are_long_are_not_remembered_and_of_others_only_so_many_lines(
    connection: sqlite3.Connection,
) -> None:
    record(connection, [settlement(f"req_{number}", model=f"model-{number}") for number in range(3)])
    remembered = Remembered(BERLIN, lines_max=3, lines_of_all_max=5)
    assert is_summed(remembered, connection)
    assert not is_summed(remembered, connection)
    other = Question(Period(0, EVER.to_ms - HOUR_MS), (Group.MODEL,), "user-001")
    assert is_summed(remembered, connection, other)
    assert not is_summed(remembered, connection, other)
    assert is_summed(remembered, connection), "three and three lines are more than five"
    record(connection, [settlement("req_4", model="model-4")])
    assert not is_summed(remembered, connection), "the lines it had are moved on"
    assert is_summed(remembered, connection), "but four are not remembered"
    many = Question(EVER, (Group.KEY,), "user-001", frozenset({"key_1", "key_2", "key_3"}))
    assert is_summed(remembered, connection, many)
    assert is_summed(remembered, connection, many), "keys take room as well"


def test_what_is_too_much_is_too_much_again(connection: sqlite3.Connection) -> None:
    record(connection, [settlement(f"req_{number}", model=f"model-{number}") for number in range(3)])
    remembered = Remembered(BERLIN)
    with view(connection):
        assert len(remembered.report(connection, BY_MODEL, Bounds(3, 60)).lines) == 3
        with pytest.raises(TooMuch, match="more than 2 rows"):
            remembered.report(connection, BY_MODEL, Bounds(2, 60))
        assert len(remembered.report(connection, BY_MODEL, Bounds(3, 60)).lines) == 3
    record(connection, [settlement("req_4", model="model-4")])
    for _ in range(2):
        with view(connection), pytest.raises(TooMuch, match="more than 3 rows"):
            remembered.report(connection, BY_MODEL, Bounds(3, 60))


def test_another_file_in_the_place_is_another_ledger(database: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path}/other.db")
    other.create()
    for made, tokens in ((database, 1), (other, 2)):
        with made.transaction() as connection:
            record(connection, settlements(3, usage=Usage(text_output=tokens)))
    remembered, link = Remembered(BERLIN), Link(database, read_only=True)
    assert is_summed(remembered, link.connection())
    assert not is_summed(remembered, link.connection())
    for name in ("other.db", "other.db-wal", "other.db-shm"):
        if (tmp_path / name).exists():
            (tmp_path / name).replace(tmp_path / name.replace("other", "tollgate"))
    assert is_summed(remembered, link.connection())
    link.close()


def test_a_ledger_that_was_restored_under_the_connection_is_noticed(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    with closing(sqlite3.connect(":memory:")) as backup:
        connection.backup(backup)
        record(connection, [settlement("lost", model="lost"), settlement("gone")])
        remembered = Remembered(BERLIN)
        assert is_summed(remembered, connection)
        backup.backup(connection)
    assert is_summed(remembered, connection), "it ends before the row that was known"
    record(connection, [settlement("lost", model="lost"), settlement("gone")])
    assert not is_summed(remembered, connection)


def test_a_ledger_that_went_on_differently_is_noticed(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection)
    connection.execute("DELETE FROM events")
    connection.execute("DELETE FROM rollups")
    record(connection, [settlement(f"other_{number}", usage=Usage(text_output=1)) for number in range(4)])
    assert is_summed(remembered, connection)


def test_a_migration_may_change_everything(connection: sqlite3.Connection) -> None:
    record(connection, settlements(3))
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection)
    connection.execute("UPDATE rollups SET requests = 7")
    connection.execute("PRAGMA user_version = 1000")
    assert is_summed(remembered, connection)
    connection.execute("CREATE TABLE more (number INTEGER)")
    assert is_summed(remembered, connection)
    assert not is_summed(remembered, connection)


@pytest.mark.parametrize("half", [{"usage": Usage(text_output=2**62)}, {"cost": Cost(2**62, CostState.PRICED)}])
def test_sums_that_may_have_stopped_at_the_largest_integer_are_not_moved_on(
    connection: sqlite3.Connection, half: dict[str, Any]
) -> None:
    remembered = Remembered(BERLIN)
    record(connection, [settlement("req_1", **half)])
    assert is_summed(remembered, connection)
    record(connection, [settlement("req_2", **half)])
    assert is_summed(remembered, connection)
    assert is_summed(remembered, connection), "nor remembered"


def test_new_events_that_pass_the_largest_integer_together_are_summed_anew(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection)
    record(connection, [settlement(f"req_{number}", usage=Usage(text_output=2**62)) for number in range(3)])
    assert is_summed(remembered, connection)


def test_costs_beyond_the_largest_integer_are_summed_anew(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    for number in range(4):
        cost = Cost(2**62, CostState.PRICED)
        record(connection, [settlement(f"req_{number}", cost=cost, time_ms=TIME_MS + number * HOUR_MS)])
        is_summed(remembered, connection)
    with view(connection):
        assert remembered.report(connection, BY_MODEL, BOUNDS).total.costs.pico_usd == 2**64


def test_what_was_known_when_the_ledger_failed_is_summed_anew(connection: sqlite3.Connection) -> None:
    remembered = Remembered(BERLIN)
    assert is_summed(remembered, connection)
    record(connection, settlements(2))

    def refuse(_action: int, _table: str | None, column: str | None, *_: Any) -> int:
        return sqlite3.SQLITE_DENY if column == "time_ms" else sqlite3.SQLITE_OK

    connection.set_authorizer(refuse)
    with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
        remembered.report(connection, BY_MODEL, BOUNDS)
    connection.set_authorizer(None)
    assert is_summed(remembered, connection)
    assert not is_summed(remembered, connection)
