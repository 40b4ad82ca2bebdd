"""The supervisor: it starts, replaces and ends workers. What they promise together: `tests/test_workers_hold.py`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.web.server import listen, listen_apart
from tests.cli.conftest import Command, clean_environment
from tests.cli.test_serve import Server
from tests.running import WAIT_S, wait_until

COUNT = 2


def workers_of(server: Server) -> list[int]:
    """The processes that it has forked."""
    pid = server.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def traces(tollgate: Command) -> int:
    """How many workers serve, or are about to."""
    return len([*tollgate.directory.glob("var/tollgate.db-holds-*")])


@pytest.fixture
def server(tollgate: Command) -> Iterator[Server]:
    """Of which all workers serve."""
    with contextlib.closing(Server(tollgate, "--port", "0", "--workers", str(COUNT))) as running:
        assert running.url
        wait_until(lambda: traces(tollgate) == COUNT)
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_once_where_all_listen_and_leaves_at_a_signal_with_0_and_no_file(
    tollgate: Command, server: Server, number: int
) -> None:
    pids = workers_of(server)
    assert len(pids) == COUNT
    with httpx.Client() as client:  # whose idle connection does not keep its worker from leaving
        assert client.get(f"{server.url}/healthz").status_code == 200
        code, taken_s = server.stop(number)
    assert (code, taken_s < 3) == (0, True)
    assert len([line for line in server.said if "listens on" in line]) == 1
    assert len([line for line in server.said if "A demo tenant was made" in line]) == 1
    assert not any("Traceback" in line or "WARNING" in line for line in server.said), server.said
    assert not any(is_alive(pid) for pid in pids)
    assert not [path for path in (tollgate.directory / "var").iterdir() if re.search("board|holds", path.name)]


def test_a_service_manager_that_signals_all_of_them_ends_them_as_gently(server: Server) -> None:
    pids = workers_of(server)
    for pid in (*pids, server.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert server.process.wait(WAIT_S) == 0
    assert not any("was ended by" in line for line in server.said)


def test_a_second_signal_ends_all_at_once(server: Server) -> None:
    pids = workers_of(server)
    os.kill(pids[0], signal.SIGSTOP)  # it would not end by itself
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    code, taken_s = server.stop(signal.SIGINT)
    assert (code, taken_s < 2) == (-signal.SIGINT, True)
    assert not any(is_alive(pid) for pid in pids)


def test_workers_that_end_are_replaced_at_once_and_later_each_time(tollgate: Command, server: Server) -> None:
    for number, times in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        pids = workers_of(server)
        os.kill(pids[0], times)
        wait_until(lambda ended=pids[0]: len(now := workers_of(server)) == COUNT and ended not in now)  # type: ignore[misc]
        wait_until(lambda: traces(tollgate) == COUNT)
        assert len([line for line in server.said if "another takes its place" in line]) == number + 1
        assert {httpx.get(f"{server.url}/readyz").status_code for _ in range(6)} == {200}
    assert server.stop(signal.SIGTERM)[0] == 0


def test_sighup_is_for_all(tollgate: Command, server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len([line for line in server.said if "nothing to read again" in line]) == COUNT)
    assert server.stop(signal.SIGTERM)[0] == 0


def test_a_start_that_fails_is_one_line_and_its_exit_code(tollgate: Command) -> None:
    env = {"OPENAI_API_KEY": "sk-hunter2", "TOLLGATE_UPSTREAM__CA_FILE": "missing.pem"}
    result = tollgate.process("serve", "--port", "0", "--workers", "2", env=env)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tollgate: upstream.ca_file: missing.pem: ")
    assert result.stderr.count("\n") == 1
    assert not [*tollgate.directory.glob("var/*-board-*")]


def test_a_port_in_use_is_one_line_also_where_another_with_workers_has_it(tollgate: Command, server: Server) -> None:
    port = server.url.rpartition(":")[2]
    result = tollgate.process("serve", "--port", port, "--workers", "2")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"tollgate: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_how_many_there_can_be(tollgate: Command) -> None:
    assert tollgate.process("serve", "--workers", "0").returncode == 2
    refused = tollgate.process("check-config", env={"TOLLGATE_WORKERS": "33"})
    assert refused.returncode == 2
    assert "workers (TOLLGATE_WORKERS)" in refused.stderr


def test_each_has_a_queue_of_its_own_on_one_port() -> None:
    sets = listen_apart("localhost", 0, 3)
    try:
        assert len({sock.getsockname()[1] for socks in sets for sock in socks}) == 1
        assert len({sock.fileno() for socks in sets for sock in socks}) == sum(map(len, sets))
        for socks in sets:
            for sock in socks:
                sock.listen(64)
        with pytest.raises(OSError, match="Address already in use"):
            listen("localhost", sets[0][0].getsockname()[1])
        clients = [socket.create_connection(sets[0][0].getsockname()[:2]) for _ in range(60)]
        assert all(_waits(socks[0]) for socks in sets)
        for client in clients:
            client.close()
    finally:
        for socks in sets:
            for sock in socks:
                sock.close()


def _waits(sock: socket.socket) -> bool:
    sock.settimeout(0)
    try:
        sock.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_sockets_that_were_handed_over_are_shared_by_all(tollgate: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        log = tollgate.directory / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cli.activated", str(descriptor), "serve", "--workers", "2"],
                cwd=tollgate.directory,
                env=clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
                pass_fds=[descriptor],
                stderr=written,
            )
        try:
            wait_until(lambda: "listens on" in log.read_text())
            url = re.findall(r"listens on (\S+)", log.read_text())[0]
            assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert {httpx.get(f"{url}/readyz").status_code for _ in range(8)} == {200}
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            process.wait()
