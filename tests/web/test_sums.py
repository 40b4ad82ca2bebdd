from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.store.board import Board
from proxy.store.notifications import Counts
from proxy.web.sums import Led, Together, fold


class Numbers(Collector):
    """What one worker counts."""

    def __init__(self, settled: int, in_flight: int, up: int, pending: int) -> None:
        self.settled = settled
        self.in_flight = in_flight
        self.up = up
        self.pending = pending

    def collect(self) -> Iterator[Metric]:
        settled = CounterMetricFamily("tollgate_settlements", "Settled.", labels=["outcome"])
        settled.add_metric(["completed"], self.settled)
        if self.settled > 4:
            settled.add_metric(["timeout"], 1)
        yield settled
        yield GaugeMetricFamily("tollgate_requests_in_flight", "Now.", self.in_flight)
        yield GaugeMetricFamily("tollgate_ledger_up", "Up.", self.up)
        yield GaugeMetricFamily("tollgate_events_pending", "In the ledger.", self.pending)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board.create(tmp_path / "ledger", 4)
    for place in (0, 1):
        made.take(place)
        made.see(place, 1)
    yield made
    made.close()


def shown(together: Together) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(together)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name.removeprefix("tollgate_"): float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_counters_add_up_and_of_gauges_those_that_are_shares_of_one_number(board: Board) -> None:
    first = Together(board, 0, [Numbers(3, 2, 1, 40)], dict)
    second = Together(board, 1, [Numbers(5, 1, 0, 41)], dict)
    assert shown(first)['settlements_total{outcome="completed"}'] == 3, "the other has told nothing yet"
    second.publish()
    assert shown(first) == {
        'settlements_total{outcome="completed"}': 8,
        'settlements_total{outcome="timeout"}': 1,
        "requests_in_flight": 3,
        "ledger_up": 0,
        "events_pending": 40,
    }
    assert shown(second) == shown(first) | {"events_pending": 41}


def test_what_a_worker_counted_stays_when_it_is_gone_and_nothing_else_of_it(board: Board) -> None:
    first, second = Together(board, 0, [Numbers(3, 2, 1, 40)], dict), Numbers(5, 1, 0, 41)
    for _ in range(2):
        Together(board, 1, [second], dict).publish()
        with board:
            board.bury(1)
            fold(board, 1)
            fold(board, 1)
            board.clear(1)
        board.take(1)
        board.see(1, 1)
    found = shown(first)
    assert found['settlements_total{outcome="completed"}'] == 3 + 5 + 5
    assert found['settlements_total{outcome="timeout"}'] == 2
    assert (found["requests_in_flight"], found["ledger_up"]) == (2, 1)


def test_trouble_is_told_by_all_of_whoever_has_it(board: Board) -> None:
    troubles = {"events": "the sink takes no events"}
    leader = Together(board, 0, [], lambda: troubles)
    other = Together(board, 1, [], dict)
    assert other.trouble("events") == ""
    leader.publish()
    assert [one.trouble("events") for one in (leader, other)] == ["the sink takes no events"] * 2
    assert other.trouble("webhooks") == ""
    led = Led(Part(), other, "events")
    assert (led.trouble, led.counts) == ("the sink takes no events", Counts(2, 1))
    troubles["events"] = ""
    leader.publish()
    assert other.trouble("events") == ""


class Part:
    counts = Counts(2, 1)
    trouble = "of nobody's concern: this one only stands by"
