"""A long load below capacity, and whether anything is left over: `make soak`.

Half of the requests are streams, one client in twenty leaves early. At the end the server's memory, open files and
tasks must be what they were, and its counters, its ledger and the receiver must agree.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import subprocess
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.crash.machine import Server
from tests.endurance.load import Load, Tally, Vitals, conclude, metrics, sampling, served
from tests.running import wait_until

_CAPACITY_S = 10.0
_LOAD = 0.8
_WARM_PART = 0.1
#: Requests at once at the end of the warm-up. A machine that stalls for a second makes as many wait, and Python gives
#: back little of what they took: so that takes place before memory is looked at.
_BURST = 1_000
_SAMPLES = 200


@dataclass(frozen=True, slots=True)
class Report:
    """What a soak showed. Memory is flat where the last samples are within 5 % of the first after the warm-up."""

    asked: int
    failed: int
    per_second: float
    capacity: float
    idle: Vitals
    samples: list[Vitals]
    after: Vitals
    in_flight: float
    counted: float
    in_ledger: int
    received: int
    tokens: tuple[float, int, int]  #: by the counters, the ledger and the receiver
    outcomes: dict[str, int]

    @property
    def growth(self) -> float:
        """Of the resident memory: the mean of the last tenth against that of the first after the warm-up."""
        tenth = max(1, len(self.samples) // 10)
        first = sum(one.rss_kib for one in self.samples[:tenth]) / tenth
        return sum(one.rss_kib for one in self.samples[-tenth:]) / tenth / first - 1

    @property
    def parts(self) -> list[str]:
        """The mean of each tenth of the samples: a leak goes on, a cache is full at some time."""
        size = max(1, len(self.samples) // 10)
        tenths = [self.samples[at : at + size] for at in range(0, len(self.samples), size)]
        return [f"{sum(one.rss_kib for one in tenth) / len(tenth) / 1024:.1f}" for tenth in tenths]

    def faults(self, *, growth_max: float) -> list[str]:
        found = []
        if self.failed:
            found.append(f"{self.failed} requests failed")
        if self.in_flight or self.after.files > self.idle.files:
            found.append(f"left over: {self.in_flight} in flight, {self.after.files - self.idle.files} open files")
        if not self.counted == self.in_ledger == self.received == self.asked or len(set(self.tokens)) != 1:
            found.append("the counters, the ledger and the receiver do not agree")
        if self.growth > growth_max:
            found.append(f"memory grew by {self.growth:.1%}")
        return found

    def __str__(self) -> str:
        most = Vitals(max(one.rss_kib for one in self.samples), max(one.files for one in self.samples))
        rate = f"{self.per_second:.0f} a second, of {self.capacity:.0f} possible"
        memory = f"{self.idle} idle, {self.samples[0]} after the warm-up, {most} at most"
        lines = (
            f"requests: {self.asked}, {rate}; {self.failed} failed",
            f"resident: {memory}, {self.after} afterwards ({self.growth:+.1%} from the warm-up to the end)",
            f"resident, MiB, in ten parts of the time: {', '.join(self.parts)}",
            f"open files: {self.idle.files} idle, {most.files} at most, {self.after.files} afterwards",
            f"in flight afterwards: {self.in_flight:.0f}",
            f"settlements: {self.counted:.0f} counted, {self.in_ledger} in the ledger, {self.received} received",
            f"tokens: {self.tokens[0]:.0f} counted, {self.tokens[1]} in the ledger, {self.tokens[2]} received",
            f"outcomes: {self.outcomes}",
        )
        return "\n".join(lines)


async def soak(
    directory: Path, *, seconds: float, capacity_s: float = _CAPACITY_S, burst: int = _BURST, seed: int = 1
) -> Report:
    receiver = Tally()

    def prepare(server: Server) -> None:
        server.environment["TOLLGATE_UPSTREAM__IDLE_TIMEOUT_S"] = "2"  # at the end, all of them must be gone

    async with served(directory, receiver, pause_s=0.02, seed=seed, prepare=prepare) as (server, process):
        return await _soak(server, process, receiver, seconds, capacity_s, burst, seed)


async def _soak(
    server: Server,
    process: subprocess.Popen[bytes],
    receiver: Tally,
    seconds: float,
    capacity_s: float,
    burst: int,
    seed: int,
) -> Report:
    load = Load(server.port, server.key, random.Random(seed))
    await load.one()
    load.close()
    idle = Vitals.of(process)
    capacity = await load.capacity(capacity_s)
    await load.steady(_LOAD * capacity, seconds * _WARM_PART)
    await asyncio.gather(*(load.one() for _ in range(burst)))
    async with sampling(process, seconds / _SAMPLES) as samples:
        await load.steady(_LOAD * capacity, seconds)
    load.close()
    with suppress(AssertionError):  # what did not happen in time is what the report tells
        await asyncio.to_thread(
            wait_until,
            lambda: (
                server.is_quiet()
                and len(receiver.ids) == load.asked
                and metrics(server.port)["tollgate_upstream_connections"] == 0
            ),
            seconds=120,
        )
    after, seen = Vitals.of(process), metrics(server.port)
    with closing(server.ledger()) as connection:
        row = connection.execute(_LEDGER).fetchone()
    return Report(
        asked=load.asked,
        failed=load.failed,
        per_second=_LOAD * capacity,
        capacity=capacity,
        idle=idle,
        samples=samples,
        after=after,
        in_flight=seen["tollgate_requests_in_flight"],
        counted=seen["tollgate_settlements_total"],
        in_ledger=row[0],
        received=len(receiver.ids),
        tokens=(seen["tollgate_tokens_total"], row[1], receiver.tokens),
        outcomes=dict(receiver.outcomes),
    )


_LEDGER = """
    SELECT count(*), sum(uncached_input + cached_input + cache_write + audio_input
        + text_output + reasoning + audio_output) FROM events
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    with tempfile.TemporaryDirectory() as directory:
        report = asyncio.run(soak(Path(directory), seconds=options.minutes * 60, seed=options.seed))
    conclude(report, report.faults(growth_max=0.05), "nothing is left over, and all agree")


if __name__ == "__main__":
    main()
