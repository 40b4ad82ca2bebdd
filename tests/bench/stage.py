"""What measurements need around the systems: cores of their own, and an upstream."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.systems import OTHER_CORES, on
from tests.crash.world import free_port

ROOT = Path(__file__).parents[2]


def make_room() -> None:
    """Leave the measured systems their core, and have as many open files as are allowed."""
    os.sched_setaffinity(0, OTHER_CORES)
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))


@contextmanager
def upstream() -> Iterator[int]:
    """The scripted upstream's port."""
    port = free_port()
    process = subprocess.Popen(
        on(OTHER_CORES, [sys.executable, "-m", "tests.bench.upstream", str(port)]),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield port
    finally:
        process.kill()
        process.communicate()
