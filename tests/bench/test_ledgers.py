"""A ledger that was made for a measurement is one that Tollgate could have written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from proxy.instants import iso
from proxy.store import ledger, outbox
from proxy.store.database import Database, begin
from proxy.store.tenants import hash_of, keys
from tests.bench.ledgers import DAY_MS, SPAN_MS, fill, key_of, tenant_of
from tests.process import command
from tests.store.samples import TIME_MS, rollups, sums_of_events

EVENTS, PENDING, TENANTS = 1_000, 100, 20
LIMITS = ("requests/minute=1000", "tokens/month=1000000000")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "ledger.db"
    fill(path, now_ms=TIME_MS, limits=LIMITS, tenants=TENANTS, events=EVENTS, pending=PENDING)
    return path


@pytest.fixture
def made(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(Database(f"sqlite:///{file}").connect(read_only=True)) as connection:
        yield connection


def test_its_rollups_are_the_sums_of_its_events(made: sqlite3.Connection) -> None:
    assert sum(requests for *_, requests in made.execute("SELECT requests FROM rollups")) == EVENTS
    assert rollups(made) == sums_of_events(made)


def test_recording_its_events_gives_the_same_ledger(made: sqlite3.Connection, tmp_path: Path) -> None:
    again = Database(f"sqlite:///{tmp_path}/again.db")
    again.create()
    found = [one.settlement for one in reversed(ledger.newest(made, limit=EVENTS))]
    with closing(again.connect()) as connection:
        with begin(connection):
            ledger.record(connection, found)
        assert rollups(connection) == rollups(made)
        assert [one.settlement for one in reversed(ledger.newest(connection, limit=EVENTS))] == found


def test_its_events_arrived_over_months_one_after_the_other(made: sqlite3.Connection) -> None:
    times = [one.settlement.time_ms for one in ledger.newest(made, limit=EVENTS)]
    assert times == sorted(times, reverse=True)
    assert times[0] == TIME_MS
    assert times[-1] - SPAN_MS // EVENTS == TIME_MS - SPAN_MS


def test_the_last_of_them_wait(made: sqlite3.Connection) -> None:
    assert outbox.backlog(made).pending == PENDING
    (one, *_) = outbox.waiting(made, outbox.EVENTS, 1)
    assert one.time_ms > TIME_MS - SPAN_MS * PENDING // EVENTS


def test_its_tenants_can_be_told_apart_and_authenticate(made: sqlite3.Connection) -> None:
    assert [key.tenant_id for key in keys(made)] == [tenant_of(number) for number in range(TENANTS)]
    hashes = {one for (one,) in made.execute("SELECT hash FROM keys")}
    assert hashes == {hash_of(key_of(number).encode()) for number in range(TENANTS)}
    subjects = dict(made.execute("SELECT subject, count(*) FROM events GROUP BY subject"))
    assert max(subjects, key=lambda subject: subjects[subject]) == tenant_of(0)
    assert len(subjects) == TENANTS


def test_tollgate_usage_agrees(file: Path, made: sqlite3.Connection) -> None:
    since = iso(TIME_MS - SPAN_MS - DAY_MS)
    said = command(
        *(file.parent, "usage", "--from", since, "--to", iso(TIME_MS + DAY_MS), "--json"),
        TOLLGATE_DATABASE_URL=f"sqlite:///{file}",
    )
    (tokens,) = made.execute(
        "SELECT sum(uncached_input + cached_input + cache_write + audio_input + text_output) FROM events"
    ).fetchone()
    totals = orjson.loads(said)["totals"]
    assert (totals["requests"], totals["total_tokens"]) == (EVENTS, tokens)
