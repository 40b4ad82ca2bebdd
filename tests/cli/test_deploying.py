from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.billing.engine import problem
from tests.billing.selling import Selling
from tests.cli.conftest import Command, clean_environment
from tests.documents import ROOT, section
from tests.running import WAIT_S


@pytest.fixture
def selling(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> Iterator[Selling]:
    """An engine that is set for all commands, and a catalog of one's own: the one that comes along."""
    with Selling().running() as one:
        monkeypatch.setenv("KONNECT_API_URL", one.url)
        monkeypatch.setenv("TOLLGATE_BILLING__FILE", "billing.toml")
        (tollgate.directory / "billing.toml").write_text((ROOT / "config" / "billing.toml").read_text())
        yield one
    assert one.faults == []


def dearer(tollgate: Command) -> None:
    path = tollgate.directory / "billing.toml"
    path.write_text(path.read_text().replace('amount = "0.000002" }', 'amount = "0.000003" }'))


def test_a_plan_shows_and_apply_does(tollgate: Command, selling: Selling) -> None:
    planned = tollgate.json("billing", "plan")
    assert selling.changes == []
    assert tollgate("billing", "plan", "--exit-code").exit_code == 3
    done = tollgate.json("billing", "apply")
    assert planned == done | {"blocked": []}
    assert planned["engine"] == selling.url
    assert planned["steps"][0] == {"action": "create", "kind": "meter", "key": "llm_total_tokens", "why": []}
    assert len(planned["steps"]) == 18
    assert tollgate("billing", "plan", "--exit-code").stdout == (
        "Nothing is to be done: the engine has what the catalog says.\n"
    )
    assert tollgate.done("billing", "apply").startswith("Nothing was to be done: http://")


def test_a_change_of_a_price_is_told_as_documented(tollgate: Command, selling: Selling) -> None:
    tollgate.done("billing", "apply")
    dearer(tollgate)
    shown = re.findall(
        r"^```console\n(.*?)^```$", section("docs/billing.md", "At an engine"), re.MULTILINE | re.DOTALL
    )[0]
    said = ""
    for line in re.findall(r"^\$ tollgate (.*)$", shown, re.MULTILINE):
        said += f"$ tollgate {line}\n{tollgate.done(*line.split())}"
    lines = [
        line.rstrip() for line in said.replace(selling.url, "http://127.0.0.1:48888/api/v3/openmeter").splitlines()
    ]
    assert [line for line in lines if line] == [line for line in shown.splitlines() if line]


def test_what_stands_in_the_way_is_told_with_the_way_out(tollgate: Command, selling: Selling) -> None:
    tollgate.done("billing", "apply")
    selling.meters[0]["value_property"] = "$.tokens"
    result = tollgate("billing", "plan")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("tollgate: meter llm_total_tokens: the engine never changes this: value_property:")
    assert "fix: give the meter another key" in tollgate.refused("billing", "apply")
    result = tollgate("billing", "plan", "--json")
    assert result.exit_code == 1
    assert '"rule": "the engine never changes this' in result.stdout


def test_what_the_catalog_has_no_longer_is_left_and_told(tollgate: Command, selling: Selling) -> None:
    tollgate.done("billing", "apply")
    (tollgate.directory / "billing.toml").write_text("")
    left = tollgate.json("billing", "plan")
    assert (left["steps"], len(left["left"])) == ([], 14)
    assert "The catalog has plan starter no longer; to archive it: --prune" in tollgate.done("billing", "apply")
    assert len(selling.features) == 7
    assert tollgate.done("billing", "apply", "--prune").splitlines()[-1].startswith("14 steps taken, and read back")
    assert selling.features == selling.meters == []


def test_without_an_engine_there_is_nothing_to_plan(tollgate: Command) -> None:
    for command in ("plan", "apply"):
        assert "KONNECT_API_URL" in tollgate.refused("billing", command, code=2)


def test_an_engine_that_refuses_is_told_in_one_line(tollgate: Command, selling: Selling) -> None:
    selling.before = lambda _: problem(401, "no\x1b[2Jsuch token")
    said = tollgate.refused("billing", "plan")
    assert "the token is missing, wrong or expired" in said
    assert "\x1b" not in said


def test_a_terminal_sees_a_bar(tollgate: Command, selling: Selling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = tollgate("billing", "apply")
    assert result.exit_code == 0
    assert "create meter llm_total_tokens …" not in result.stdout
    assert "/18" in result.stderr


@pytest.mark.parametrize("at", [4, 15])
def test_a_process_that_is_killed_is_run_again(tollgate: Command, selling: Selling, at: int) -> None:
    """At one call, with SIGKILL, while the engine does what it was asked."""
    processes: list[subprocess.Popen[bytes]] = []

    def kill(_: str) -> None:
        if len(selling.asked) == at:
            processes[0].send_signal(signal.SIGKILL)
            processes[0].wait(WAIT_S)

    selling.before = kill
    environment = clean_environment() | {
        name: os.environ[name] for name in ("KONNECT_API_URL", "TOLLGATE_BILLING__FILE")
    }
    started = subprocess.Popen(
        [sys.executable, "-m", "proxy", "billing", "apply"],
        cwd=tollgate.directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    processes.append(started)
    assert started.wait(WAIT_S * 3) == -signal.SIGKILL
    selling.before = lambda _: None
    tollgate.done("billing", "apply")
    assert tollgate.json("billing", "apply")["steps"] == []
    assert [(one["version"], one["status"]) for one in selling.plans] == [(1, "active")] * 4
