from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from proxy import __version__
from proxy.cli.serve import _TRUNCATED, _LogFilter
from proxy.errors import ConfigurationError
from tests.cli.conftest import Command, clean_environment
from tests.process import needs_curl
from tests.running import wait_until

LISTENS = re.compile(rf"Tollgate {re.escape(__version__)} listens on (http://\S+)\n")


class Server:
    """`tollgate serve` as a process. Its standard error is read along."""

    def __init__(self, tollgate: Command, *options: str, **env: str) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", *options],
            cwd=tollgate.directory,
            env=clean_environment() | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if LISTENS.fullmatch(line):
                self._listening.set()

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        assert self._listening.wait(15), self.said
        return next(match[1] for line in self.said if (match := LISTENS.fullmatch(line)))

    def stop(self, number: int) -> tuple[int, float]:
        """Its exit code, and how many seconds it took to leave."""
        started_s = time.perf_counter()
        self.process.send_signal(number)
        code = self.process.wait(15)
        taken_s = time.perf_counter() - started_s
        self._reader.join(5)
        return code, taken_s

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def server(tollgate: Command) -> Iterator[Server]:
    with contextlib.closing(Server(tollgate, "--port", "0")) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_serves_and_leaves_at_a_signal_with_0(server: Server, number: int) -> None:
    url = server.url
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+", url)
    with httpx.Client() as client:  # whose idle connection does not keep the server from leaving
        assert client.get(f"{url}/healthz").status_code == 200
        code, taken_s = server.stop(number)
    assert code == 0
    assert taken_s < 2
    assert server.process.stdout is not None
    assert server.process.stdout.read() == ""
    assert server.said[0].startswith("Tollgate ")
    assert not any("Traceback" in line or "uvicorn" in line or "INFO" in line for line in server.said)


@needs_curl
def test_at_the_first_start_with_the_sandbox_a_call_is_shown_that_works_as_pasted(
    tollgate: Command, server: Server
) -> None:
    assert server.url
    wait_until(lambda: any("messages" in line for line in server.said))
    _, sandbox, _, _, *curl = server.said
    assert "sandbox" in sandbox
    pasted = subprocess.run(["bash", "-c", "".join(curl)], capture_output=True, check=True, timeout=15)
    assert "Hello" in json.loads(pasted.stdout)["choices"][0]["message"]["content"]
    assert [key["tenant_id"] for key in tollgate.json("keys", "list")] == ["demo"]
    with contextlib.closing(Server(tollgate, "--port", "0")) as second:
        assert second.url
        assert not any("tg_" in line for line in second.said)


def test_with_an_upstream_key_it_says_nothing_else_and_never_the_key(tollgate: Command) -> None:
    with contextlib.closing(Server(tollgate, TOLLGATE_PORT="0", OPENAI_API_KEY="sk-hunter2")) as server:
        assert server.url
        assert server.stop(signal.SIGTERM)[0] == 0
        assert len(server.said) == 1
    assert tollgate.json("tenants", "list") == []


def test_other_commands_work_while_it_runs_and_are_in_force_within_a_second(tollgate: Command, server: Server) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
    url = server.url
    tollgate.done("tenants", "create", "acme")
    key = tollgate.json("keys", "create", "acme")
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key['key']}"}) as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200
        totals = tollgate.json("usage", "acme")["totals"]
        assert (totals["requests"], totals["total_tokens"]) == (1, answer.json()["usage"]["total_tokens"])
        (event,) = tollgate.json("events", "list", "--tenant", "acme")
        assert event["id"] == answer.headers["x-tollgate-request-id"]
        assert (event["key_id"], event["state"]) == (key["id"], "pending")
        tollgate.done("tenants", "disable", "acme")
        time.sleep(1)
        assert client.post("/v1/chat/completions", json=body).status_code == 403
        tollgate.done("tenants", "enable", "acme")
        tollgate.done("keys", "revoke", key["id"])
        time.sleep(1)
        assert client.post("/v1/chat/completions", json=body).status_code == 401


def test_a_port_in_use_is_one_line_with_exit_code_1_and_makes_no_demo_key(tollgate: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = tollgate.process("serve", "--port", port)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"tollgate: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert tollgate.json("tenants", "list") == []


def test_a_host_that_is_not_ours_is_one_line(tollgate: Command) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        result = tollgate.process("serve", "--port", "0", "--host", host)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith(f"tollgate: cannot listen on {host}:0: ")
        assert result.stderr.count("\n") == 1


def test_a_bad_hand_over_of_sockets_is_one_line_that_names_the_variable(tollgate: Command) -> None:
    result = tollgate.process("serve", env={"LISTEN_FDS": "1"})  # of which there is none
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tollgate: LISTEN_FDS: descriptor 3")
    assert result.stderr.count("\n") == 1
    assert tollgate.json("tenants", "list") == []


def test_a_setting_that_fails_only_at_the_start_is_one_line_too(tollgate: Command) -> None:
    env = {"OPENAI_API_KEY": "sk-hunter2", "TOLLGATE_UPSTREAM__CA_FILE": "missing.pem"}
    result = tollgate.process("serve", "--port", "0", env=env)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tollgate: upstream.ca_file: missing.pem: ")
    assert result.stderr.count("\n") == 1


def test_a_request_that_outlasts_the_grace_period_leaves_no_traceback(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    key = tollgate.json("keys", "create", "acme")["key"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/v1",
            "TOLLGATE_SERVER__SHUTDOWN_GRACE_S": "0",
        }
        with contextlib.closing(Server(tollgate, "--port", "0", **env)) as server:
            address = server.url.removeprefix("http://").split(":")
            with socket.create_connection((address[0], int(address[1]))) as client:
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n"
                    b"content-type: application/json\r\ncontent-length: 32\r\n\r\n"
                    b'{"model":"gpt-4o","messages":[]}' % key.encode()
                )
                upstream, _ = silent.accept()
                code, taken_s = server.stop(signal.SIGTERM)
                upstream.close()
    assert (code, taken_s < 5) == (0, True)
    assert any("Cancel 1 running task" in line for line in server.said)
    assert not any("Traceback" in line for line in server.said)
    (event,) = tollgate.json("events", "list")
    assert event["outcome"] == "shutdown"


def test_a_signal_that_comes_early_ends_it_with_0_or_by_the_signal(tollgate: Command) -> None:
    with contextlib.closing(Server(tollgate, "--port", "0")) as server:
        time.sleep(0.2)
        code, _ = server.stop(signal.SIGTERM)
        assert code in (0, -signal.SIGTERM)
        assert not any("Traceback" in line for line in server.said)


def log_record(level: int, words: str, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("uvicorn.error", level, "", 0, words, (), info)


def test_the_filter_drops_truncated_and_cancelled_answers_always() -> None:
    start = _LogFilter()
    assert not start.filter(log_record(logging.ERROR, _TRUNCATED))
    start.over = True
    assert not start.filter(log_record(logging.ERROR, _TRUNCATED))
    assert start.filter(log_record(logging.ERROR, "Exception in ASGI application\n", RuntimeError()))
    assert not start.filter(log_record(logging.ERROR, "Exception in ASGI application\n", asyncio.CancelledError()))
    assert start.failure is None


@pytest.mark.parametrize(
    ("record", "failure"),
    [
        (log_record(logging.ERROR, "sink.file (TOLLGATE_SINK__FILE): no"), ConfigurationError),
        (
            log_record(logging.ERROR, "Exception in 'lifespan' protocol\n", sqlite3.OperationalError("full")),
            sqlite3.Error,
        ),
    ],
)
def test_the_filter_keeps_why_a_start_failed(record: logging.LogRecord, failure: type[Exception]) -> None:
    start = _LogFilter()
    assert not start.filter(record)
    assert not start.filter(log_record(logging.ERROR, "Application startup failed. Exiting."))
    assert isinstance(start.failure, failure)
    assert "startup failed" not in str(start.failure)


def test_a_fault_of_our_own_at_the_start_keeps_its_traceback() -> None:
    start = _LogFilter()
    assert start.filter(log_record(logging.ERROR, "Exception in 'lifespan' protocol\n", KeyError("x")))
    assert start.failure is None
