"""What the figures say: a table, and JSON."""

from __future__ import annotations

import math
import platform
import sysconfig
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench.measure import Figures, median_of
from tests.bench.systems import System

_TURNS = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of each system. `over_direct`: what is shown is how much more it is than of a direct call."""

    name: str
    of: Callable[[System, Figures], float]
    digits: int = 0
    over_direct: bool = False
    needs_process: bool = False


#: The two that systems are compared by.
CPU, STREAM_CPU = "CPU µs per request, 64 in flight", "CPU µs per streamed event"

ROWS = (
    Row("requests a second, 64 in flight", lambda _, of: median_of(of.many, "per_second")),
    Row(CPU, lambda _, of: median_of(of.many, "cpu_us"), needs_process=True),
    Row("CPU µs per request, 1 in flight", lambda _, of: median_of(of.one, "cpu_us"), needs_process=True),
    Row("added ms, 1 in flight, p50", lambda _, of: median_of(of.one, "p50_us") / 1000, 2, over_direct=True),
    Row("added ms, 1 in flight, p99", lambda _, of: median_of(of.one, "p99_us") / 1000, 2, over_direct=True),
    Row("added ms, 64 in flight, p50", lambda _, of: median_of(of.many, "p50_us") / 1000, 1, over_direct=True),
    Row("added ms, 64 in flight, p99", lambda _, of: median_of(of.many, "p99_us") / 1000, 1, over_direct=True),
    Row(STREAM_CPU, lambda _, of: median_of(of.streamed, "cpu_us"), 1, needs_process=True),
    Row("added ms to the first event, p50", lambda _, of: median_of(of.streamed, "first_us") / 1000, 1, True),
    Row(
        "added ms of lateness of an event (jitter), p99",
        lambda _, of: median_of(of.streamed, "late_us") / 1000,
        1,
        True,
    ),
    Row("MiB idle", lambda _, of: of.idle_kib / 1024, needs_process=True),
    Row("KiB per open stream", lambda _, of: of.held_kib, 1, needs_process=True),
    Row("streams held open", lambda _, of: of.held, needs_process=True),
    Row("MiB afterwards", lambda _, of: of.after_kib / 1024, needs_process=True),
    Row("s from its start to the first answer", lambda system, _: system.ready_s, 2, needs_process=True),
)

All = Mapping[str, tuple[System, Figures]]


def value_of(row: Row, name: str, found: All) -> float | None:
    """None where there is no such figure of it."""
    system, figures = found[name]
    if (row.needs_process or row.over_direct) and system.process is None:
        return None
    value = row.of(system, figures)
    return value - row.of(*found["direct"]) if row.over_direct else value


def print_table(found: All) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name, (system, _) in found.items():
        table.add_column(f"{name} {system.version}".strip(), justify="right")
    for row in ROWS:
        table.add_row(row.name, *(_shown(value_of(row, name, found), row.digits) for name in found))
    Console(highlight=False, width=160).print(table)


def ratios(found: All) -> list[str]:
    """Tollgate's CPU time beside each other system's, in this run."""
    lines = []
    for row in (one for one in ROWS if one.name in (CPU, STREAM_CPU)):
        own = value_of(row, "tollgate", found)
        for name in found:
            other = None if name == "tollgate" else value_of(row, name, found)
            if own and other:
                times = f"{own / other:.2f} × {name}'s" if own > other else f"1/{other / own:.1f} of {name}'s"
                lines.append(f"{row.name}: Tollgate's is {times}")
    return lines


def machine() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{cpu}, {platform.system()} {_kernel()}, Python {platform.python_version()} ({build()})"


def _kernel() -> str:
    return ".".join(platform.release().split(".")[:2])


def build() -> str:
    """How this Python was built, as far as it says so: without profile-guided optimisation it is a lot slower."""
    said = " ".join(
        str(sysconfig.get_config_var(name)) for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS", "PY_LDFLAGS")
    )
    found = [
        name
        for name, signs in (("PGO", ("--enable-optimizations", "-fprofile-use")), ("LTO", ("--with-lto", "-flto")))
        if any(sign in said for sign in signs)
    ]
    return f"built with {' and '.join(found)}" if found else "its build names neither PGO nor LTO"


def loop_ns() -> float:
    """What a turn of a loop with a little arithmetic takes here, in ns: how fast this Python is on this machine."""
    best_s = math.inf
    for _ in range(5):
        began_s, total = time.process_time(), 0
        for number in range(_TURNS):
            total += number * number % 7
        best_s = min(best_s, time.process_time() - began_s)
    return best_s / _TURNS * 1e9


def circumstances() -> dict[str, Any]:
    """On what, and when, it was measured."""
    return {"taken": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine(), "python_loop_ns": loop_ns()}


def as_json(found: All, admission_us: tuple[float, float], *, rounds: int, seconds: float) -> bytes:
    systems: dict[str, Any] = {
        name: {
            "version": system.version,
            "lacks": system.lacks,
            "figures": {row.name: value_of(row, name, found) for row in ROWS},
            "rounds": asdict(figures),
        }
        for name, (system, figures) in found.items()
    }
    reserve_us, whole_us = admission_us
    admission = {"reserve_us": reserve_us, "reserve_settle_release_us": whole_us}
    about = circumstances() | {"rounds": rounds, "seconds": seconds}
    return orjson.dumps(
        about | {"admission_with_ten_limits": admission, "systems": systems}, option=orjson.OPT_INDENT_2
    )


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
