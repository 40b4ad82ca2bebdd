"""The systems that are measured: each a process (or a few) on one core, of which CPU time and memory can be read."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from proxy import __version__
from tests.bench.client import Target
from tests.crash.world import free_port
from tests.process import command
from tests.running import wait_until

#: The measured system has the first core to itself; clients, upstream and receiver share the others.
SYSTEM_CORES = {0}
OTHER_CORES = set(range(1, os.cpu_count() or 1)) or {0}

TENANT = "bench"
#: Ten limits, none of which is ever reached.
LIMITS = (
    *("requests/minute=90000000", "tokens/minute=900000000000", "requests/day=90000000", "tokens/day=900000000000"),
    *("tokens/month=900000000000", "tokens/period=900000000000", "tokens/total=900000000000", "inflight=100000"),
    *("requests/total=900000000", "max_tokens=100000"),
)
#: Where it is, below the directory that Tollgate runs in.
LEDGER = Path("var", "tollgate.db")
_READY_S = 90.0
_STEP_S = 0.005
#: Until the last of several workers, whose process is there, serves as well.
_SETTLE_S = 3.0


@dataclass(slots=True)
class System:
    """A system that runs. `lacks` is what it does not do and Tollgate does."""

    name: str
    version: str
    lacks: str
    target: Target
    ready_s: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    #: Streams at once, and events in each: as many as it can bear in the time there is.
    streams: tuple[int, int] = (200, 100)
    holds: tuple[int, ...] = (1_000, 5_000)  #: streams that are held open at once, one try after the other
    answers: int = 0  #: whole answers that clients had of it
    cores: set[int] = field(default_factory=lambda: SYSTEM_CORES)

    def pids(self) -> list[int]:
        """The process and its descendants."""
        if self.process is None:
            return []
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += children.get(pid, [])
        return found

    def cpu_s(self) -> float:
        """CPU time so far, of all threads that live. By the scheduler's own clock: ticks are too coarse."""
        spent_ns = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):
                    spent_ns += int((task / "schedstat").read_text().split()[0])
        return spent_ns / 1e9

    def rss_kib(self) -> int:
        """Resident memory of all its processes."""
        pages = 0
        for pid in self.pids():
            with suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024

    def freeze(self) -> None:
        """While another is measured, it does nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def on(cores: set[int], arguments: Sequence[str]) -> list[str]:
    """A command that runs on these cores."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *arguments]


@contextmanager
def running(system: System, arguments: list[str], directory: Path, **environment: str) -> Iterator[System]:
    """Start it, wait until it answers a request, and end it afterwards."""
    began_s = time.monotonic()
    with (directory / f"{system.name}.log").open("wb") as log:
        system.process = subprocess.Popen(
            on(system.cores, arguments),
            cwd=directory,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not _answers(system.target):
            if system.process.poll() is not None or time.monotonic() - began_s > _READY_S:
                raise RuntimeError(f"{system.name} did not start: {(directory / f'{system.name}.log').read_text()}")
            time.sleep(_STEP_S)
        system.ready_s = time.monotonic() - began_s
        yield system
    finally:
        system.thaw()
        system.process.terminate()
        try:
            system.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(system.process.pid, signal.SIGKILL)
            system.process.wait()


def _answers(target: Target) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", target.port), timeout=2) as connection:
            connection.sendall(target.request())
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def direct(upstream_port: int) -> System:
    """No system between client and upstream."""
    return System("direct", "", "everything", Target(upstream_port))


def _environment(upstream_port: int, receiver_url: str) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
        "OPENAI_API_KEY": "sk-upstream",
        "KONNECT_API_URL": receiver_url,
        "TOLLGATE_UPSTREAM__CONNECTIONS_MAX": "20000",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }


@contextmanager
def tollgate(directory: Path, upstream_port: int, receiver_url: str) -> Iterator[System]:
    """With everything on: a tenant with ten limits, a ledger that syncs each commit, a relay that delivers."""
    environment = _environment(upstream_port, receiver_url)
    command(directory, "tenants", "create", TENANT, **environment)
    command(directory, "limits", "set", TENANT, *LIMITS, **environment)
    key = orjson.loads(command(directory, "keys", "create", TENANT, "--json", **environment))["key"]
    with tollgate_on(directory, key, upstream_port, receiver_url) as system:
        yield system


@contextmanager
def tollgate_on(
    directory: Path, key: str, upstream_port: int, receiver_url: str, *, workers: int = 1
) -> Iterator[System]:
    """On the ledger that is in `directory` already (`LEDGER`). Each worker has a core, where there is one."""
    port = free_port()
    cores = SYSTEM_CORES if workers == 1 else set(range(min(workers, os.cpu_count() or 1)))
    system = System("tollgate", __version__, "", Target(port, key), cores=cores)
    arguments = [sys.executable, "-m", "proxy", "serve", "--port", str(port), "--workers", str(workers)]
    with running(system, arguments, directory, **_environment(upstream_port, receiver_url)):
        if workers > 1:
            wait_until(lambda: len(system.pids()) > workers, seconds=_READY_S)
            time.sleep(_SETTLE_S)
        yield system


_NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr warn;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_max_body_size 0; proxy_request_buffering off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  keepalive_requests 1000000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 8192; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=8192;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location / {{ proxy_pass http://model; }}
  }}
}}
"""


@contextmanager
def nginx(directory: Path, upstream_port: int) -> Iterator[System]:
    """Forwarding alone, without a buffer, as streams need it."""
    binary = shutil.which("nginx") or "nginx"
    port = free_port()
    file = directory / "nginx.conf"
    file.write_text(_NGINX.format(directory=directory, upstream=upstream_port, port=port))
    version = subprocess.run([binary, "-v"], capture_output=True, text=True).stderr.rpartition("/")[2].strip()
    system = System("nginx", version.split()[0], "authentication, limits, metering, events", Target(port))
    with running(system, [binary, "-c", str(file), "-p", str(directory)], directory):
        yield system
