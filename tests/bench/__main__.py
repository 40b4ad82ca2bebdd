"""`make bench`: everything in one run, the systems in turn, round by round. It ends by itself within ten minutes."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvloop

from tests.bench import measure, peers, report
from tests.bench.admission import admission_us
from tests.bench.measure import Figures
from tests.bench.stage import ROOT, make_room, upstream
from tests.bench.systems import System, direct, nginx, tollgate
from tests.endurance.load import Tally
from tests.running import wait_until

MANY = 64

#: Besides Tollgate and a direct call. A compiled yardstick, and peers where they are installed.
OTHERS = {"nginx": nginx, "litellm": peers.litellm, "vllm-router": peers.vllm_router}
Found = dict[str, tuple[System, Figures]]


async def measured(systems: Sequence[System], *, rounds: int, seconds: float) -> Found:
    """Each system in turn, while the others are stopped."""
    found = {system.name: (system, Figures()) for system in systems}
    for system in systems:
        system.freeze()
    for number in range(rounds):
        for system, figures in found.values():
            system.thaw()
            figures.idle_kib = figures.idle_kib or system.rss_kib()
            figures.one.append(await measure.plain(system, 1, seconds))
            figures.many.append(await measure.plain(system, MANY, seconds))
            figures.streamed.append(await measure.streamed(system, *system.streams))
            if number == rounds - 1 and system.process is not None:
                await _hold(system, figures)
            system.freeze()
        print(f"round {number + 1} of {rounds} is done", file=sys.stderr)
    for system in systems:
        system.thaw()
    return found


async def _hold(system: System, figures: Figures) -> None:
    """The memory of a stream comes from the smallest number; more are tried as long as they are borne."""
    for count in system.holds:
        try:
            kib = await measure.held_kib(system, count)
        except measure.Failed as error:
            print(error, file=sys.stderr)
            break
        figures.held_kib = figures.held_kib or kib
        figures.held = count
    figures.after_kib = system.rss_kib()


def run(directory: Path, names: Sequence[str], *, rounds: int, seconds: float, holds: bool = True) -> Found:
    """Start the systems, measure them, and make sure that Tollgate has told of every request."""
    make_room()
    receiver = Tally()
    with ExitStack() as stack:
        stack.enter_context(receiver)
        port = stack.enter_context(upstream())
        systems = [direct(port)]
        for name in names:
            place = directory / name
            place.mkdir()
            start = tollgate(place, port, receiver.base_url) if name == "tollgate" else OTHERS[name](place, port)
            systems.append(stack.enter_context(start))
        if not holds:
            for system in systems:
                system.holds = ()
        found = uvloop.run(measured(systems, rounds=rounds, seconds=seconds))
        (own,) = (system for system in systems if system.name == "tollgate")
        wait_until(lambda: len(receiver.ids) > own.answers, seconds=60)
        assert len(receiver.ids) == receiver.events == own.answers + 1, "one event for each answer, and the first"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", nargs="*", choices=sorted(OTHERS), help="beside Tollgate and a direct call")
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "bench.json")
    options = parser.parse_args()
    wanted = OTHERS if options.only is None else options.only
    names = ["tollgate", *(name for name in wanted if shutil.which(name))]
    if missing := [name for name in wanted if name not in names]:
        print(f"not measured, for they are not on the PATH: {', '.join(missing)}", file=sys.stderr)
    admission = admission_us()
    with tempfile.TemporaryDirectory() as directory:
        found = run(Path(directory), names, rounds=options.rounds, seconds=options.seconds)
    report.print_table(found)
    print(f"On {report.machine()}; each system on one core, clients and upstream on the other.")
    print("\n".join(report.ratios(found)))
    print(f"Admission with ten limits: {admission[0]:.1f} µs of CPU; with settlement and release {admission[1]:.1f} µs")
    for system, _ in found.values():
        if system.lacks and system.process is not None:
            print(f"{system.name} was not asked for: {system.lacks}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(report.as_json(found, admission, rounds=options.rounds, seconds=options.seconds))


if __name__ == "__main__":
    main()
