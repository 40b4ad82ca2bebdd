"""The documented way from a catalog to an invoice, pasted block by block: without an account, and with an engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from tests.billing.engine import Engine
from tests.billing.selling import Selling
from tests.documents import ROOT, section
from tests.process import needs_curl, process
from tests.running import WAIT_S, wait_until

WAY = section("docs/billing.md", "The whole way")
STEPS = re.findall(r"^\d\. (.*?)^   ```sh\n(.*?)^   ```$", WAY, re.MULTILINE | re.DOTALL)
OWED = {"acme": (224, "2.24"), "globex": (133, "1.33"), "initech": (51, "0.51")}


@contextmanager
def whole(*, konnect: bool) -> Iterator[tuple[Selling, Engine]]:
    """An engine that both sells and keeps events."""
    selling, keeping = Selling(konnect=konnect), Engine()
    keeping.meters = selling.meters
    with selling.running(*keeping.routes("/api/v3/openmeter")):
        yield selling, keeping
    assert selling.faults + keeping.faults == []


def paste(directory: Path, at: str, environment: dict[str, str], *, with_engine: bool) -> str:
    """All steps in one shell, as someone does it who has pasted them one by one."""
    assert len(STEPS) == 6
    blocks = [dedent(block) for text, block in STEPS if with_engine or not text.startswith("With an engine")]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(blocks).replace("http://localhost:8000", at)],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S * 6,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_invoices(said: str) -> None:
    found = re.findall(r"^Invoice for (\w+) .*?^AI tokens +(\d+) +0\.01 .*?^total +([\d.]+) *$", said, re.M | re.S)
    assert {tenant: (int(tokens), total) for tenant, tokens, total in found} == OWED
    assert re.search(r"2\.24, 1\.33 and 0\.51", WAY)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "config").symlink_to(ROOT / "config")
    return tmp_path


@needs_curl
def test_three_tenants_have_their_invoices_without_an_account(clone: Path) -> None:
    with process(clone) as server:
        has_invoices(paste(clone, server.url, {}, with_engine=False))


@needs_curl
@pytest.mark.parametrize("konnect", [False, True], ids=["openmeter", "konnect"])
def test_three_tenants_are_customers_of_an_engine_that_has_the_same_sums(clone: Path, konnect: bool) -> None:
    with whole(konnect=konnect) as (selling, keeping):
        environment = {"KONNECT_API_URL": selling.url, "KONNECT_TOKEN": "kpat_1"}
        with process(clone, **environment) as server:
            has_invoices(paste(clone, server.url, environment, with_engine=True))
            wait_until(lambda: len(keeping.rows) == 6)
        assert [one["key"] for one in selling.customers] == [*OWED]
        assert len(selling.subscriptions) == 3
        sums = dict.fromkeys(OWED, 0)
        for row in keeping.rows:
            sums[row.event["subject"]] += row.event["data"]["total_tokens"]
        assert sums == {tenant: tokens for tenant, (tokens, _) in OWED.items()}
