"""Usage that was asked for before: the sums as they were, moved on by the events that were recorded since.

Rollups are the sums of the events, whose rows only ever come at the end: what stands behind the last row that was known
is all that has come to them. So a question costs the same however much there is in its period. That the rows before are
still those that were summed is told by the last one's id, as the file may have been replaced or restored meanwhile.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from proxy.instants import HOUR_MS
from proxy.limits import Calendar
from proxy.store import queries
from proxy.store.usage import Bounds, Group, Question, Report, Sums, add_row, are_whole, reported, summed

#: What is remembered: questions, lines of one answer and of all (a line takes about a kilobyte), the ones that were
#: not asked for the longest time going first.
QUESTIONS_MAX = 256
LINES_MAX = 1_000
LINES_OF_ALL_MAX = 10_000
#: Rows by which an answer is moved on. Beyond, the rollups are read in about the same time, some milliseconds.
ROWS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    """An answer, and the last row of the ledger that it knows of."""

    seq: int
    event_id: str
    sums: Sums
    size: int


class Remembered:
    """Answers as `usage.report` does, of one subject, in the caller's read transaction. For one thread."""

    def __init__(
        self,
        calendar: Calendar,
        *,
        questions_max: int = QUESTIONS_MAX,
        lines_max: int = LINES_MAX,
        lines_of_all_max: int = LINES_OF_ALL_MAX,
        rows_max: int = ROWS_MAX,
    ) -> None:
        self._calendar = calendar
        self._questions_max = questions_max
        self._lines_max = lines_max
        self._lines_of_all_max = lines_of_all_max
        self._rows_max = rows_max
        self._known: dict[Question, _Known] = {}  # the one asked last is the last
        self._size = 0
        self._connection: sqlite3.Connection | None = None
        self._schema = (0, 0)

    def report(self, connection: sqlite3.Connection, question: Question, bounds: Bounds) -> Report:
        """Raises `TooMuch`, and `sqlite3.Error`."""
        if Group.KEY not in question.groups:
            question = replace(question, keys=None)
        self._look(connection)
        seq, event_id = connection.execute(queries.LAST_EVENT).fetchone() or (0, "")
        # It is not remembered while it is worked on: where that fails, it is summed anew the next time.
        known = self._taken(question)
        sums = None if known is None else self._moved_on(connection, question, known, seq)
        if sums is None:
            sums = summed(connection, question, self._calendar, bounds)
        bounds.check_lines(len(sums))
        self._remember(question, seq, event_id, sums)
        return reported(sums)

    def _look(self, connection: sqlite3.Connection) -> None:
        """Forget everything where this is another file, or a migration may have changed what stands in it."""
        schema = connection.execute(queries.SCHEMA_STAMP).fetchone()
        if connection is not self._connection or schema != self._schema:
            self._known.clear()
            self._size = 0
            self._connection, self._schema = connection, schema

    def _taken(self, question: Question) -> _Known | None:
        known = self._known.pop(question, None)
        if known is not None:
            self._size -= known.size
        return known

    def _moved_on(self, connection: sqlite3.Connection, question: Question, known: _Known, seq: int) -> Sums | None:
        """The sums as they are at this row; None where that is to be summed anew."""
        if known.seq and connection.execute(queries.EVENT_ID_AT, (known.seq,)).fetchone() != (known.event_id,):
            return None
        if seq == known.seq:
            return known.sums
        if seq - known.seq > self._rows_max:
            return None
        first, end = question.period.hours
        columns = question.columns
        named = tuple(group.field for group in columns)
        asked = (known.seq, seq, question.subject, first * HOUR_MS, end * HOUR_MS)
        try:
            rows = connection.execute(queries.USAGE_SINCE[named], asked).fetchall()
        except sqlite3.OperationalError as error:
            if str(error) != "integer overflow":
                raise
            return None  # a rollup stops at the largest integer
        for hour, *row in rows:
            day = self._calendar.date_of(hour * HOUR_MS).isoformat() if Group.DAY in question.groups else ""
            add_row(known.sums, question, columns, day, row)
        return known.sums if are_whole(known.sums) else None

    def _remember(self, question: Question, seq: int, event_id: str, sums: Sums) -> None:
        size = len(sums) + len(question.keys or ())
        if size > self._lines_max or not are_whole(sums):
            return
        self._known[question] = _Known(seq, event_id, sums, size)
        self._size += size
        while len(self._known) > self._questions_max or self._size > self._lines_of_all_max:
            self._taken(next(iter(self._known)))
