"""What several workers count, added up: whichever of them is asked answers for all.

Each puts its counts on its page of the board, every second and before it answers; the others' are as old as that. What
a worker had counted that is no more is kept on a page of its own, so that no counter falls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import orjson
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.store.board import Board, State
from proxy.store.notifications import Counts
from proxy.web.health import WebhooksHealth

log = logging.getLogger(__name__)

#: Gauges that add up. Of some the least holds, and of others, which all workers read in the same ledger, one's own.
_SUMMED = {
    *("tollgate_requests_in_flight", "tollgate_answers_draining", "tollgate_upstream_connections"),
    *("tollgate_ledger_backlog", "process_open_fds", "process_resident_memory_bytes", "process_virtual_memory_bytes"),
}
_LEAST = {"tollgate_ledger_up", "tollgate_entitlements_up", "tollgate_declaration_up", "process_start_time_seconds"}

#: A family as it is written: its name, words and type, and its samples: name, labels and value.
_Family = list[Any]


class Together(Collector):
    """All workers' numbers, as one of them sees them.

    `troubles` gives this worker's, of what only one of them does at a time: by what it is, where this one does it.
    """

    def __init__(
        self, board: Board, place: int, collectors: Sequence[Collector], troubles: Callable[[], dict[str, str]]
    ) -> None:
        self._board = board
        self._place = place
        self._collectors = collectors
        self._troubles = troubles

    def publish(self) -> None:
        """Tell the others. Raises `OSError`."""
        families = [_written(family) for collector in self._collectors for family in collector.collect()]
        page = orjson.dumps({"families": families, "troubles": self._troubles()})
        with self._board:
            self._board.write_page(self._place, page)

    def collect(self) -> Iterator[Metric]:
        self.publish()
        pages = [page["families"] for place, page in self._pages() if place != self._place]
        with self._board:
            gone = _families(self._board, self._board.places)
        for collector in self._collectors:
            for family in collector.collect():
                yield _added(family, pages, gone)

    def trouble(self, what: str) -> str:
        """The trouble of the worker that does this; empty where it has none, or nobody does it just now."""
        own = self._troubles()
        if what in own:
            return own[what]
        return next((page["troubles"][what] for _, page in self._pages() if what in page["troubles"]), "")

    def _pages(self) -> list[tuple[int, dict[str, Any]]]:
        """Those of live workers."""
        board = self._board
        with board:
            written = [
                (place, board.read_page(place)) for place in range(board.places) if board.state(place) is State.LIVE
            ]
        return [(place, orjson.loads(text)) for place, text in written if text]


class Led:
    """A part of which only one worker has the trouble, and all tell it."""

    def __init__(self, part: WebhooksHealth, together: Together, what: str) -> None:
        self._part = part
        self._together = together
        self._what = what

    @property
    def counts(self) -> Counts:
        return self._part.counts

    @property
    def trouble(self) -> str:
        return self._together.trouble(self._what)


def fold(board: Board, place: int) -> None:
    """A worker is no more: its counters are kept with those of others that went before. For the lock's holder."""
    kept: dict[str, _Family] = {}
    for family in [*_families(board, board.places), *_families(board, place)]:
        name, _, kind, samples = family
        if kind != "counter":
            continue
        known = kept.setdefault(name, [*family[:3], []])
        known[3] = [[*key, value] for key, value in _summed([*known[3], *samples]).items()]
        known[3] = [[name, dict(labels), value] for name, labels, value in known[3]]
    board.write_page(board.places, orjson.dumps({"families": list(kept.values()), "troubles": {}}))
    board.write_page(place, b"")


def _families(board: Board, place: int) -> list[_Family]:
    text = board.read_page(place)
    return orjson.loads(text)["families"] if text else []


def _added(own: Metric, pages: Iterable[list[_Family]], gone: list[_Family]) -> Metric:
    """A family with the others' samples in it."""
    others = [family[3] for page in pages for family in page if family[0] == own.name]
    if own.type == "counter":
        others += [family[3] for family in gone if family[0] == own.name]
    elif own.name not in _SUMMED | _LEAST:
        return own
    samples = [sample for written in [_written(own)[3], *others] for sample in written]
    added = Metric(own.name, own.documentation, own.type)
    for (name, labels), value in _summed(samples, min if own.name in _LEAST else sum).items():
        added.add_sample(name, dict(labels), value)
    return added


def _summed(
    samples: Iterable[Sequence[Any]], add: Callable[[list[float]], float] = sum
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}
    for name, labels, value in samples:
        values.setdefault((name, tuple(sorted(labels.items()))), []).append(value)
    return {key: add(found) for key, found in values.items()}


def _written(family: Metric) -> _Family:
    samples = [[sample.name, sample.labels, sample.value] for sample in family.samples]
    return [family.name, family.documentation, family.type, samples]
