"""Someone at the command line, some hours later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from proxy.cli import app
from proxy.cli import reconcile as command
from proxy.cli.instants import now_ms
from tests.cli.conftest import clean_environment

#: Long enough that everything is visible and the hour is over.
LATER_MS = 2 * 3_600_000


class Operator:
    """Runs `tollgate reconcile` on the ledger in a directory, with the settings that are given."""

    def __init__(self, directory: Path, url: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
        for name in os.environ.keys() - clean_environment().keys():
            monkeypatch.delenv(name)
        monkeypatch.chdir(directory)
        database_url = f"sqlite:///{directory}/tollgate.db"
        for name, value in {"TOLLGATE_DATABASE_URL": database_url, "KONNECT_API_URL": url, **variables}.items():
            monkeypatch.setenv(name, value)
        self._monkeypatch = monkeypatch

    def __call__(self, *options: str, later_ms: int = LATER_MS) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(command, "now_ms", lambda: now_ms() + later_ms)
        done = CliRunner().invoke(app, ["reconcile", *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return done.exit_code, done.stdout, done.stderr

    def report(self, *options: str, later_ms: int = LATER_MS) -> Any:
        """What it says in JSON; with the exit code as `code`, and the findings' ids by kind as `ids`."""
        code, said, complaint = self("--json", *options, later_ms=later_ms)
        assert complaint == "" or said == "", complaint
        report = orjson.loads(said)
        ids: dict[str, list[str]] = {}
        for finding in report["findings"]:
            ids.setdefault(finding["kind"], []).append(finding.get("id", finding.get("meter")))
        return report | {"code": code, "ids": {kind: sorted(found) for kind, found in ids.items()}}
