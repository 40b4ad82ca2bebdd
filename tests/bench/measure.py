"""One measurement of one system, and what several of them say."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.client import Seen, ask, asking
from tests.bench.systems import System

#: Events of a stream that is held open, and their pace.
_HELD = (2, 6_000)
_PACE_MS = 20
_SETTLE_S = 1.0
_LOOK_S = 0.005
#: What takes so much longer than it was given is given up.
_BOUND_S = 60.0


class Failed(Exception):
    """Requests failed: what was measured is not what was meant."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Of requests, each client's one after the other. Latencies are µs, CPU is µs a request."""

    clients: int
    requests: int
    per_second: float
    cpu_us: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Streamed:
    """Of streams at once. CPU is µs an event; `first_us` until the first; `late_us`: how late one is (p99)."""

    streams: int
    events: int
    cpu_us: float
    first_us: float
    late_us: float


@dataclass(slots=True)
class Figures:
    """All that was measured of one system, round by round; memory is KiB."""

    one: list[Plain] = field(default_factory=list)
    many: list[Plain] = field(default_factory=list)
    streamed: list[Streamed] = field(default_factory=list)
    idle_kib: int = 0
    held_kib: float = 0.0  #: a stream that is open
    held: int = 0
    after_kib: int = 0


async def plain(system: System, clients: int, seconds: float) -> Plain:
    request = system.target.request()
    await _seen(system, request, clients=clients, seconds=min(0.5, seconds / 4))
    cpu_s, began_s = system.cpu_s(), time.perf_counter()
    seen = await _seen(system, request, clients=clients, seconds=seconds)
    took_s, spent_s = time.perf_counter() - began_s, system.cpu_s() - cpu_s
    return Plain(
        clients,
        seen.answers,
        seen.answers / took_s,
        spent_s / seen.answers * 1e6,
        statistics.median(seen.latencies) * 1e6,
        percentile(seen.latencies, 0.99) * 1e6,
    )


async def steady(
    system: System, request: Callable[[], bytes], clients: int, seconds: float, *, warm_answers: int = 0
) -> Plain:
    """The same, of what `request` makes, and of the middle alone: while all clients are connected and busy.

    Before it there are `warm_answers`, and one to each client; and in it as many as there are clients, at least.
    """
    async with asking(system.target, request, clients=clients) as seen:
        await _until(system, seen, lambda: seen.clients == clients and seen.answers >= warm_answers, seconds / 4)
        before, cpu_s, began_s = seen.answers, system.cpu_s(), time.perf_counter()
        await _until(system, seen, lambda: seen.answers >= before + clients, seconds)
        answers, took_s, spent_s = seen.answers - before, time.perf_counter() - began_s, system.cpu_s() - cpu_s
        latencies = seen.latencies[before:]
    system.answers += seen.answers
    return Plain(
        clients,
        answers,
        answers / took_s,
        spent_s / answers * 1e6,
        statistics.median(latencies) * 1e6,
        percentile(latencies, 0.99) * 1e6,
    )


async def _until(system: System, seen: Seen, condition: Callable[[], bool], seconds: float) -> None:
    """Wait until so much time is over, and longer for the condition. Raises `Failed`."""
    began_s = time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < seconds or not condition():
        await asyncio.sleep(_LOOK_S)
        if seen.failed or took_s > seconds + _BOUND_S:
            raise Failed(f"{system.name}: {seen.failed} requests failed in {took_s:.1f} s: {seen.words}")


async def streamed(
    system: System, streams: int, events: int, *, pace_ms: int = _PACE_MS, seconds: float = 0.0
) -> Streamed:
    """Streams at once, one after the other until the time is over; at least one."""
    request = system.target.request(stream=(events, pace_ms))
    cpu_s = system.cpu_s()
    seen = await _seen(system, request, clients=streams, seconds=seconds)
    return Streamed(
        streams,
        seen.events,
        (system.cpu_s() - cpu_s) / seen.events * 1e6,
        statistics.median(seen.firsts) * 1e6,
        percentile(seen.gaps, 0.99) * 1e6 - pace_ms * 1e3,
    )


async def held_kib(system: System, streams: int) -> float:
    """Memory that an open stream takes, while nothing happens on it."""
    before = system.rss_kib()
    holding = asyncio.create_task(_seen(system, system.target.request(stream=_HELD), clients=streams, seconds=0.0))
    done, _ = await asyncio.wait({holding}, timeout=_HELD[1] / 1000 * 0.5)
    during = system.rss_kib()
    if done:
        raise Failed(f"{system.name}: the streams ended too early")
    await holding
    await asyncio.sleep(_SETTLE_S)
    return (during - before) / streams


async def _seen(system: System, request: bytes, *, clients: int, seconds: float) -> Seen:
    seen = await ask(system.target, request, clients=clients, seconds=seconds)
    system.answers += seen.answers
    if seen.failed or not seen.answers:
        raise Failed(f"{system.name}: {seen.failed} of {seen.failed + seen.answers} requests failed: {seen.words}")
    return seen


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def median_of(rounds: Sequence[Plain] | Sequence[Streamed], name: str) -> float:
    values: list[float] = [getattr(one, name) for one in rounds]
    return statistics.median(values)
