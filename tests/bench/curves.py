"""`make curves`: how what Tollgate costs grows with what there is. It ends by itself within ten minutes.

Each curve is a function that yields samples, round by round; the medians of a point's samples are the point. Systems
that are compared run at the same time, each stopped while another is measured, so that a noisy hour falls on all.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from asyncio import Runner
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import uvloop

from proxy.instants import iso
from tests.bench import measure, report, systems
from tests.bench.ledgers import DAY_MS, fill, key_of
from tests.bench.stage import ROOT, make_room, upstream
from tests.bench.systems import LEDGER, LIMITS, System
from tests.crash.world import free_port
from tests.endurance.load import Tally

#: What the curves are drawn against.
IN_FLIGHT = (1, 4, 16, 64, 256, 1_024, 4_096)
BODY_BYTES = (100, 1_000, 10_000, 100_000, 1_000_000, 20_000_000)
STREAM_EVENTS = (10, 100, 1_000, 10_000)
TENANTS = (1, 10, 100, 1_000, 10_000, 100_000)
LEDGER_EVENTS = (10, 10_000, 1_000_000, 10_000_000)
PENDING_EVENTS = (0, 100, 10_000, 1_000_000)
WORKERS = (1, 2)

_MANY = 64
#: So few that twenty megabytes of each fit into memory several times.
_LARGE_BODIES = 4
_STREAMS = 10
_PACE_MS = 1
#: Tenants of a ledger whose size is measured.
_TENANTS = 20
#: Of each of many tenants.
_FEW_LIMITS = LIMITS[:4]
#: Tenants that have asked before it is measured: as many as Tollgate remembers the keys of.
_WARM_TENANTS_MAX = 10_000
_USAGE_DAYS = 30


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a point `x` of a line; `figures` are named with their units."""

    line: str
    x: int
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each measurement lasts, how often it is repeated, and how many points a curve has (None: all)."""

    rounds: int = 3
    seconds: float = 1.0
    points: int | None = None


@dataclass(slots=True)
class Stage:
    """Starts systems in directories of their own, and measures them."""

    directory: Path
    upstream_port: int
    receiver_url: str
    effort: Effort
    runner: Runner
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def tollgate(self, *, limits: Sequence[str] = LIMITS, sink_url: str = "", workers: int = 1, **made: int) -> System_:
        """On a ledger that is made for it (`ledgers.fill`)."""
        place = self._place()
        (place / LEDGER).parent.mkdir()
        fill(place / LEDGER, now_ms=_now_ms(), limits=limits, **made)
        return self._cleared(
            place,
            systems.tollgate_on(place, key_of(0), self.upstream_port, sink_url or self.receiver_url, workers=workers),
        )

    @contextmanager
    def pair(self) -> Iterator[list[tuple[int, System]]]:
        """Tollgate, and nginx where it is installed, to be measured in turn."""
        with ExitStack() as stack:
            made = [(0, stack.enter_context(self.tollgate()))]
            if shutil.which("nginx"):
                place = self._place()
                nginx = self._cleared(place, systems.nginx(place, self.upstream_port))
                made.append((0, stack.enter_context(nginx)))
            yield made

    def of(self, points: Sequence[int]) -> Sequence[int]:
        return points[: self.effort.points]

    def in_turn(self, of: Iterable[tuple[int, System]], times: int = 1) -> Iterator[tuple[int, System]]:
        """Each system again and again, while the others are stopped; `times` as many rounds as usual."""
        found = list(of)
        for _, system in found:
            system.freeze()
        for _ in range(self.effort.rounds * times):
            for x, system in found:
                system.thaw()
                yield x, system
                system.freeze()

    def requests(
        self, system: System, clients: int, request: Callable[[], bytes], *, warm_answers: int = 0
    ) -> dict[str, float]:
        seconds = self.effort.seconds
        found = self.runner.run(measure.steady(system, request, clients, seconds, warm_answers=warm_answers))
        return {
            "cpu_us": found.cpu_us,
            "p50_us": found.p50_us,
            "p99_us": found.p99_us,
            "per_second": found.per_second,
        }

    def streams(self, system: System, events: int) -> dict[str, float]:
        seconds = self.effort.seconds
        found = self.runner.run(measure.streamed(system, _STREAMS, events, pace_ms=_PACE_MS, seconds=seconds))
        return {"cpu_us": found.cpu_us, "first_us": found.first_us, "late_us": found.late_us}

    def _place(self) -> Path:
        place = self.directory / str(next(self._numbers))
        place.mkdir()
        return place

    @contextmanager
    def _cleared(self, place: Path, system: System_) -> Iterator[System]:
        """Ledgers are large: what is over is deleted, and nobody waits for a last try to reach the sink."""
        try:
            with system as running:
                yield running
                if running.name == "tollgate":
                    running.kill()
        finally:
            shutil.rmtree(place)


System_ = AbstractContextManager[System]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _same(request: bytes) -> Callable[[], bytes]:
    return lambda: request


def in_flight(stage: Stage) -> Iterator[Sample]:
    """So many requests at the same time, each of about 1 KB."""
    with stage.pair() as made:
        for _, system in stage.in_turn(made):
            for x in stage.of(IN_FLIGHT):
                yield Sample(system.name, x, stage.requests(system, x, _same(system.target.request())))


def body_size(stage: Stage) -> Iterator[Sample]:
    """Requests of so many bytes; the answers are small. Copying them costs nginx something, too."""
    with stage.pair() as made:
        for _, system in stage.in_turn(made):
            for x in stage.of(BODY_BYTES):
                request = _same(system.target.request(body_bytes=x))
                yield Sample(system.name, x, stage.requests(system, _LARGE_BODIES, request))


def stream_length(stage: Stage) -> Iterator[Sample]:
    """Streams of so many events: what an event costs, of which each bears a part of its request."""
    with stage.tollgate() as own:
        for _, system in stage.in_turn([(0, own)]):
            for x in stage.of(STREAM_EVENTS):
                yield Sample(system.name, x, stage.streams(system, x))


def tenants(stage: Stage) -> Iterator[Sample]:
    """So many tenants, each with a key, some limits and an event, who ask one after the other."""
    with ExitStack() as stack:
        made = [
            (x, stack.enter_context(stage.tollgate(limits=_FEW_LIMITS, tenants=x, events=x))) for x in stage.of(TENANTS)
        ]
        asked = {x: _of_each(system, x) for x, system in made}
        warmed = set[int]()
        for x, system in stage.in_turn(made):
            warm_answers = 0 if x in warmed else min(x, _WARM_TENANTS_MAX)
            warmed.add(x)
            yield Sample(system.name, x, stage.requests(system, _MANY, asked[x], warm_answers=warm_answers))


def _of_each(system: System, tenants: int) -> Callable[[], bytes]:
    before, after = system.target.request().split(key_of(0).encode())
    numbers = itertools.cycle(range(tenants))
    return lambda: b"%b%b%b" % (before, key_of(next(numbers)).encode(), after)


def ledger_size(stage: Stage) -> Iterator[Sample]:
    """A ledger of so many events of some tenants' and months: a request, and a tenant's question for its usage."""
    since = iso(_now_ms() - _USAGE_DAYS * DAY_MS)
    with ExitStack() as stack:
        made = [(x, stack.enter_context(stage.tollgate(tenants=_TENANTS, events=x))) for x in stage.of(LEDGER_EVENTS)]
        for x, system in stage.in_turn(made, times=2):
            yield Sample("a request", x, stage.requests(system, _MANY, _same(system.target.request())))
            question = _same(system.target.question(f"/api/usage?from={since}&group_by=model"))
            yield Sample("GET /api/usage", x, stage.requests(system, 1, question))


def backlog(stage: Stage) -> Iterator[Sample]:
    """So many events that wait for a sink which is away, and those of the requests that are measured."""
    away = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        made = [
            (x, stack.enter_context(stage.tollgate(sink_url=away, tenants=_TENANTS, events=x, pending=x)))
            for x in stage.of(PENDING_EVENTS)
        ]
        for x, system in stage.in_turn(made):
            yield Sample(system.name, x, stage.requests(system, _MANY, _same(system.target.request())))


def workers(stage: Stage) -> Iterator[Sample]:
    """So many workers on as many cores. Clients, upstream and receiver share these where there are no more."""
    with ExitStack() as stack:
        made = [(x, stack.enter_context(stage.tollgate(workers=x))) for x in stage.of(WORKERS)]
        for x, system in stage.in_turn(made, times=2):
            yield Sample(system.name, x, stage.requests(system, 2 * _MANY, _same(system.target.request())))


CURVES = {
    curve.__name__: curve for curve in (in_flight, body_size, stream_length, tenants, ledger_size, backlog, workers)
}

#: Lines of a curve, each the medians of its points, in their order: `{"x": 64, "cpu_us": 118.2, …}`.
Lines = dict[str, list[dict[str, float]]]


def lines_of(samples: Iterable[Sample]) -> Lines:
    found: defaultdict[str, defaultdict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        found[sample.line][sample.x].append(sample.figures)
    return {
        line: [
            {"x": x, **{name: statistics.median(one[name] for one in figures) for name in figures[0]}}
            for x, figures in points.items()
        ]
        for line, points in found.items()
    }


def run(directory: Path, names: Sequence[str], effort: Effort) -> dict[str, Lines]:
    """Measure these curves, one after the other."""
    make_room()
    found = {}
    with Tally() as receiver, upstream() as port, Runner(loop_factory=uvloop.new_event_loop) as runner:
        stage = Stage(directory, port, receiver.base_url, effort, runner)
        for name in names:
            began_s = time.monotonic()
            found[name] = lines_of(CURVES[name](stage))
            print(f"{name}: {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return found


def print_curves(curves: Mapping[str, Lines]) -> None:
    for name, lines in curves.items():
        print((CURVES[name].__doc__ or "").strip())
        for line, points in lines.items():
            for point in points:
                figures = (f"{figure} {value:,.0f}" for figure, value in point.items() if figure != "x")
                print(f"  {line} at {point['x']:,.0f}: {', '.join(figures)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.curves")
    parser.add_argument("--only", nargs="+", choices=sorted(CURVES), default=list(CURVES))
    parser.add_argument("--quick", action="store_true", help="one round, and not the last points of each curve")
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "curves.json")
    options = parser.parse_args()
    effort = Effort(rounds=1, seconds=0.5, points=3) if options.quick else Effort()
    with tempfile.TemporaryDirectory() as directory:
        found = run(Path(directory), options.only, effort)
    print_curves(found)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    about = report.circumstances() | {"rounds": effort.rounds, "seconds": effort.seconds}
    options.json.write_bytes(orjson.dumps(about | {"curves": found}, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
