from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli import app
from proxy.model import Outcome, Settlement, Usage, UsageSource
from proxy.store.database import Database
from proxy.store.ledger import record

_PREFIXES = ("TOLLGATE_", "OPENAI_", "KONNECT_")


@dataclass(frozen=True)
class Command:
    """`tollgate`, with a store of its own, run in this process or in another."""

    directory: Path

    @property
    def database(self) -> Database:
        database = Database(f"sqlite:///{self.directory}/var/tollgate.db")
        database.create()
        return database

    def __call__(self, *args: str, stdin: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
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


@pytest.fixture
def tollgate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    for name in os.environ.keys() - clean_environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    # An open connection keeps the write-ahead log in place, as a server does that runs on the same file.
    with closing(command.database.connect(read_only=True)) as connection:
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
