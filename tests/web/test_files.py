from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.web import files
from tests.raw import RawClient
from tests.running import WAIT_S, wait_until
from tests.streams import ASK

SERVE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
os.execv(sys.executable, [sys.executable, "-m", "proxy", "serve", "--port", "0"])
"""
CODE = """
import logging, resource, sys
from proxy.web.files import connections_room, raise_limit
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connections_room())
"""


@pytest.mark.parametrize(
    ("soft", "hard", "told", "warned"),
    [(256, 4_096, "4096 1984", ""), (256, 528, "528 200", "only 528 files may be open (ulimit -n): at most 200")],
)
def test_the_limit_is_raised_to_what_is_allowed(soft: int, hard: int, told: str, warned: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(soft), str(hard)], capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert ended.stdout.strip() == told
    assert ended.stderr.startswith(warned)
    assert bool(ended.stderr) is bool(warned)


def test_without_a_limit_there_is_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    infinity = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (infinity, infinity))
    assert files.connections_room() == sys.maxsize


def test_more_clients_than_there_can_be_are_told_and_the_others_are_served(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as written, contextlib.ExitStack() as stack:
        started = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=written,
            stdout=written,
        )
        stack.callback(started.wait)
        stack.callback(started.kill)
        wait_until(lambda: "Bearer " in log.read_text())
        port = int(log.read_text().partition("http://127.0.0.1:")[2].partition("/v1")[0].split()[0])
        key = log.read_text().partition("Bearer ")[2].partition("'")[0]
        clients = [stack.enter_context(RawClient(port)) for _ in range(120)]
        refused = [one for one in clients[100:] if one.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 503 ")]
        assert len(refused) == 20
        for one in clients[:60]:
            one.post("/v1/chat/completions", key, ASK)
        assert {one.read_until(b"\r\n")[:12] for one in clients[:60]} == {b"HTTP/1.1 200"}
    assert "at most 86 clients are served at a time" in log.read_text()
    assert "Too many open files" not in log.read_text()
