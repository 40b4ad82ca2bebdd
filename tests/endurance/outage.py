"""A sink that is down under full load, and then up: `make outage`.

A real `tollgate serve`, clients that ask as fast as they are answered, and a receiver that cannot be reached while they
do. Then it can: everything must be delivered, and the server's memory must not have grown with what waited.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from proxy.store import outbox
from tests.crash.machine import Server
from tests.endurance.load import CLIENTS, Load, Tally, Vitals, conclude, delivery_faults, sampling, served
from tests.running import wait_until

SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class Report:
    """What an outage showed. `loaded` is the memory under load with the sink up, `backlog` what waited at the end."""

    produced: int
    failed: int
    backlog: int
    delivered: int
    duplicates: int
    lost: int
    produced_s: float
    drained_s: float
    before: Vitals
    loaded: Vitals
    peak: Vitals
    after: Vitals

    def faults(self) -> list[str]:
        found = delivery_faults(
            failed=self.failed, lost=self.lost, duplicates=self.duplicates, loaded=self.loaded, peak=self.peak
        )
        if self.backlog != self.produced:
            found.append(f"{self.produced - self.backlog} events did not wait")
        return found

    def __str__(self) -> str:
        rate = f"{self.produced / self.produced_s:.0f} a second"
        flat = f"{self.before} before, {self.loaded} under load with the sink up, {self.peak} peak"
        lines = (
            f"sink down: {self.produced} requests in {self.produced_s:.1f} s ({rate}), {self.failed} failed",
            f"events waiting then: {self.backlog}",
            f"sink up: drained in {self.drained_s:.1f} s ({self.backlog / self.drained_s:.0f} a second)",
            f"produced {self.produced}, delivered {self.delivered}, duplicates {self.duplicates}, lost {self.lost}",
            f"RSS of the server: {flat}, {self.after} after",
        )
        return "\n".join(lines)


async def outage(directory: Path, *, events: int, seed: int = 1) -> Report:
    receiver = Tally()
    async with served(directory, receiver, pause_s=0.0, seed=seed) as (server, process):
        return await _outage(server, process, receiver, events, seed)


async def _outage(server: Server, process: subprocess.Popen[bytes], receiver: Tally, events: int, seed: int) -> Report:
    load = Load(server.port, server.key, random.Random(seed))
    before = Vitals.of(process)
    warm = max(CLIENTS, events // 20)
    await load.full(lambda: load.asked < warm)
    await until_delivered(server)
    warm, loaded = load.asked, Vitals.of(process)
    receiver.stop()
    async with sampling(process, SAMPLE_S) as samples:
        began = time.monotonic()
        await load.full(lambda: load.asked < warm + events)
        produced_s = time.monotonic() - began
        waiting = pending(server)
        began = time.monotonic()
        receiver.start()
        await until_delivered(server)
        drained_s = time.monotonic() - began
    load.close()
    with closing(server.ledger()) as connection:
        recorded = {one for (one,) in connection.execute("SELECT id FROM events")}
    return Report(
        produced=load.asked - warm,
        failed=load.failed,
        backlog=waiting,
        delivered=len(receiver.ids) - warm,
        duplicates=receiver.events - len(receiver.ids),
        lost=len(recorded - receiver.ids) + load.asked - len(recorded),
        produced_s=produced_s,
        drained_s=drained_s,
        before=before,
        loaded=loaded,
        peak=max(samples, key=lambda sample: sample.rss_kib),
        after=Vitals.of(process),
    )


async def until_delivered(server: Server) -> None:
    """Nothing waits for the sink."""
    await asyncio.to_thread(wait_until, lambda: pending(server) == 0, seconds=600)


def pending(server: Server) -> int:
    with closing(server.ledger()) as connection:
        return outbox.backlog(connection).pending


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.outage")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(outage(Path(directory), events=options.events, seed=options.seed))
    conclude(report, report.faults(), "nothing is lost, and memory is flat")


if __name__ == "__main__":
    main()
