from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.model import Outcome, Settlement, Usage, UsageSource
from proxy.store.database import Database
from proxy.store.ledger import record
from tests.running import Running
from tests.running import tollgate as running

_PREFIXES = ("TOLLGATE_", "OPENAI_", "KONNECT_")
_CASES_ON_A_SERVER = 1
ADMIN_TOKEN = "an-admin-s-token"


@dataclass
class OnServer:
    """A server on the store of a `Command`, begun when it is first asked, and anew where its settings have changed.

    It takes a moment to stop, which nobody waits for before all tests of a module are over (`ending`).
    """

    directory: Path
    ending: ExitStack
    _running: Running | None = None
    _settings: dict[str, str] | None = None

    @property
    def url(self) -> str:
        settings = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
        if self._running is None or settings != self._settings:
            self.close()
            store = {"TOLLGATE_DATABASE_URL": f"sqlite:///{self.directory}/var/tollgate.db"}
            upstream = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}  # nothing is forwarded here
            self._running = self.ending.enter_context(running(self.directory, **store, **upstream, **settings))
            self._settings = settings
        return self._running.url

    def close(self) -> None:
        if self._running is not None:
            self._running.stop(grace_s=0)


@dataclass(frozen=True)
class Command:
    """`tollgate`, with a store of its own, run in this process or in another; on that store, or by a server on it."""

    directory: Path
    server: OnServer | None = None

    @property
    def database(self) -> Database:
        database = Database(f"sqlite:///{self.directory}/var/tollgate.db")
        database.create()
        return database

    def __call__(self, *args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        if self.server is not None:
            args = ("--server", self.server.url, *args)
        result = CliRunner().invoke(app, list(args), input=stdin, env=env)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        return result

    def done(self, *args: str, stdin: str | bytes | None = None) -> str:
        """What it prints when all goes well."""
        result = self(*args, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    def json(self, *args: str, stdin: str | bytes | None = None) -> Any:
        return json.loads(self.done(*args, "--json", stdin=stdin))

    def refused(self, *args: str, code: int = 1, stdin: str | bytes | None = None) -> str:
        """The one line that it prints when it cannot be done."""
        result = self(*args, stdin=stdin)
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("tollgate: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("tollgate: ").rstrip("\n")

    def process(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "proxy", *args],
            cwd=self.directory,
            env=clean_environment() | options.pop("env", {}),
            capture_output=True,
            text=True,
            timeout=30,
            **options,
        )

    def record(self, *settlements: Settlement) -> None:
        with self.database.transaction() as connection:
            record(connection, settlements)

    def bytes_on_disk(self) -> bytes:
        """Everything in the store's folder, the write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted((self.directory / "var").iterdir()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Commands that a server can be asked for are tested twice: on the store itself, and by `--server`."""
    module, name = metafunc.module, metafunc.function.__name__
    only_here = name in getattr(module, "ONLY_HERE", ())
    if getattr(module, "ALSO_ON_A_SERVER", False) and "tollgate" in metafunc.fixturenames and not only_here:
        metafunc.parametrize("tollgate", ["here", "server"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test with many cases one is enough on a server: how it is asked is the same for all."""
    seen: Counter[str] = Counter()
    for item in [*items]:
        name = item.nodeid.partition("[")[0]
        if isinstance(item, pytest.Function) and item.name.partition("[")[2].startswith("server"):
            seen[name] += 1
            if seen[name] > _CASES_ON_A_SERVER:
                items.remove(item)


@pytest.fixture(scope="module")
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def tollgate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, ending: ExitStack
) -> Iterator[Command]:
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    server = OnServer(tmp_path, ending)
    by_server = getattr(request, "param", "here") == "server"
    if by_server:
        monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", ADMIN_TOKEN)
    command = Command(tmp_path, server if by_server else None)
    # An open connection keeps the write-ahead log in place, as a server does that runs on the same file.
    with closing(server), closing(command.database.connect(read_only=True)) as connection:
        connection.execute("SELECT * FROM tenants").fetchall()
        yield command


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}


def settlement(event_id: str, **changes: Any) -> Settlement:
    """52 tokens in, 12 of them from the cache; 195 out, 20 of them for reasoning."""
    values: dict[str, Any] = {
        "id": event_id,
        "subject": "acme",
        "key_id": "key_1",
        "time_ms": 1_776_076_200_123,  # 2026-04-13T10:30:00.123Z
        "endpoint": "/v1/chat/completions",
        "requested_model": "gpt-4o-mini",
        "model": "gpt-4o-mini-2024-07-18",
        "provider": "openai",
        "streamed": True,
        "status": 200,
        "outcome": Outcome.COMPLETED,
        "usage": Usage(uncached_input=40, cached_input=12, text_output=175, reasoning=20),
        "usage_source": UsageSource.REPORTED,
        "duration_ms": 812,
        "ttft_ms": 190,
    }
    return Settlement(**values | changes)
