"""A real `tollgate serve` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import WAIT_S, wait_until

#: For tests that paste what people are shown.
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

_LISTENS = re.compile(r"listens on (http://\S+)")


class Process:
    """The process, what it has written, and where it listens."""

    def __init__(self, directory: Path, environment: dict[str, str], *arguments: str) -> None:
        self._log = directory / "tollgate.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "dev", "-m", "proxy", "serve", "--port", "0", *arguments],
                cwd=directory,
                env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        """Waits until it listens."""
        wait_until(lambda: _LISTENS.search(self.log) is not None or self.process.poll() is not None)
        found = _LISTENS.search(self.log)
        assert found is not None, self.log
        return found.group(1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code, once it has ended."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


@contextmanager
def process(directory: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    running = Process(directory, environment, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def command(directory: Path, *arguments: str, **environment: str) -> str:
    """What a `tollgate` command prints on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_S * 2,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
