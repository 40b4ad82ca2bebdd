"""SIGHUP: the file of the settings is read again, and the server goes on."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.declaration.files import ACME, FIRST, SECOND, WITH_SECOND, replace, standing, status, write
from tests.process import process
from tests.running import WAIT_S, wait_until


def test_a_signal_reads_the_file_again_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tollgate.toml"
    path.write_text(ACME)
    with process(tmp_path, TOLLGATE_CONFIG="tollgate.toml") as server:
        assert status(server.url, FIRST) == 200
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing that it declares has changed" in server.log)
        replace(path, WITH_SECOND)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: status(server.url, SECOND) == 200)
        write(path, f"{WITH_SECOND}\nnmae = 1\n")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: standing(server.url)["state"] == "failing")
        assert "tenants.acme.keys[1].nmae: is not known. Did you mean name?" in server.log
        assert status(server.url, SECOND) == 200
        for _ in range(50):
            server.process.send_signal(signal.SIGHUP)
        assert status(server.url, FIRST) == 200
        assert server.stop() == 0
    with process(tmp_path, TOLLGATE_CONFIG="tollgate.toml") as server:
        assert server.process.wait(WAIT_S) == 2, "a wrong file is no start"
        assert f"tollgate: {path}: tenants.acme.keys[1].nmae: is not known." in server.log


def test_without_a_file_there_is_nothing_to_read_and_the_server_goes_on(tmp_path: Path) -> None:
    with process(tmp_path) as server:
        assert standing(server.url) == {"state": "off", "trouble": ""}
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "TOLLGATE_CONFIG names no file" in server.log)
        assert standing(server.url)["state"] == "off"
        assert server.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="how a terminal is taken differs")
def test_a_terminal_that_is_closed_stops_the_server_that_was_started_in_it(tmp_path: Path) -> None:
    master, slave = os.openpty()
    log = tmp_path / "tollgate.log"
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--port", "0"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            stdin=slave,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no other thread is in this test)
        )
    try:
        os.close(slave)
        wait_until(lambda: "listens on" in log.read_text())
        os.close(master)
        assert started.wait(WAIT_S) == 0
    finally:
        started.kill()
        started.wait()
