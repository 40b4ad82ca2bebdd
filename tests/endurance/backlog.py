"""A million events that wait, and a sink that comes back (`make outage`).

They must drain at the sink's pace, in bounded memory, while clients are served; what the clients notice is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from proxy.store.database import begin
from proxy.store.ledger import record
from tests.crash.machine import Server
from tests.crash.world import KINDS
from tests.endurance.load import Client, Tally, Vitals, conclude, delivery_faults, sampling, served
from tests.endurance.outage import SAMPLE_S, until_delivered
from tests.store.samples import settlement

_PROBES = 200
_PAUSE_S = 0.01
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """What a backlog's end showed. The waits are those of single requests, one after the other, in milliseconds."""

    events: int
    delivered: int
    duplicates: int
    lost: int
    failed: int
    drained_s: float
    before_ms: list[float]
    meanwhile_ms: list[float]
    loaded: Vitals
    peak: Vitals

    def faults(self) -> list[str]:
        return delivery_faults(
            failed=self.failed, lost=self.lost, duplicates=self.duplicates, loaded=self.loaded, peak=self.peak
        )

    def __str__(self) -> str:
        rate = f"{self.events / self.drained_s:.0f} a second"
        lines = (
            f"{self.events} events waited; drained in {self.drained_s:.1f} s ({rate})",
            f"delivered {self.delivered}, duplicates {self.duplicates}, lost {self.lost}",
            f"a request took {_waits(self.before_ms)} before, {_waits(self.meanwhile_ms)} meanwhile",
            f"RSS of the server: {self.loaded} with the backlog, {self.peak} peak",
        )
        return "\n".join(lines)


def _waits(found_ms: list[float]) -> str:
    cuts = statistics.quantiles(found_ms, n=100)
    return f"{statistics.median(found_ms):.1f} ms (p99 {cuts[98]:.1f} ms, {len(found_ms)} requests)"


async def backlog(directory: Path, *, events: int) -> Report:
    receiver = Tally()

    def prepare(server: Server) -> None:
        _fill(server, events)
        receiver.stop()

    async with served(directory, receiver, pause_s=0.0, prepare=prepare) as (server, process):
        return await _drain(server, process, receiver, events)


def _fill(server: Server, events: int) -> None:
    """Settlements as they stand in the ledger after a long outage."""
    with closing(server.ledger()) as connection:
        for start in range(0, events, _CHUNK):
            numbers = range(start, min(start + _CHUNK, events))
            with begin(connection):
                record(connection, [settlement(f"req_{number:09}") for number in numbers])


async def _drain(server: Server, process: subprocess.Popen[bytes], receiver: Tally, events: int) -> Report:
    probe = Probe(Client(server.port, server.key))
    before_ms = await probe.waits_ms(lambda: probe.asked < _PROBES)
    loaded = Vitals.of(process)
    async with sampling(process, SAMPLE_S) as samples:
        began = time.monotonic()
        receiver.start()
        drained = asyncio.create_task(until_delivered(server))
        meanwhile_ms = await probe.waits_ms(lambda: not drained.done())
        await drained
        drained_s = time.monotonic() - began
    await until_delivered(server)  # what the last requests left
    probe.client.close()
    with closing(server.ledger()) as connection:
        recorded = {one for (one,) in connection.execute("SELECT id FROM events")}
    return Report(
        events=events,
        delivered=len(receiver.ids),
        duplicates=receiver.events - len(receiver.ids),
        lost=len(recorded - receiver.ids) + events + probe.asked - len(recorded),
        failed=probe.failed,
        drained_s=drained_s,
        before_ms=before_ms,
        meanwhile_ms=meanwhile_ms,
        loaded=loaded,
        peak=max(samples, key=lambda sample: sample.rss_kib),
    )


@dataclass(slots=True)
class Probe:
    """One client that asks now and then, and measures how long it waits."""

    client: Client
    asked: int = 0
    failed: int = 0

    async def waits_ms(self, goes_on: Callable[[], bool]) -> list[float]:
        waits: list[float] = []
        while goes_on():
            self.asked += 1
            began = time.perf_counter()
            try:
                await self.client.ask(KINDS["chat"], self.asked, leaves=False)
            except (OSError, AssertionError, asyncio.IncompleteReadError):
                self.failed += 1
                self.client.close()
            waits.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(_PAUSE_S)
        return waits


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.backlog")
    parser.add_argument("--events", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(backlog(Path(directory), events=options.events))
    conclude(report, report.faults(), "nothing is lost, and memory is flat")


if __name__ == "__main__":
    main()
