from __future__ import annotations

import subprocess
import sys

import pytest

from proxy import __version__
from tests.cli.conftest import Command, clean_environment

COMMANDS = ("serve", "check-config", "tenants", "keys", "limits", "usage", "events")


def test_help_lists_the_commands_and_version_is_a_line(tollgate: Command) -> None:
    said = tollgate.done("--help")
    for command in COMMANDS:
        assert f"\n  {command} " in said
    assert "completion" not in said
    assert tollgate.done("--version") == f"tollgate {__version__}\n"


@pytest.mark.parametrize("group", [(), ("tenants",), ("keys",), ("limits",), ("events",)])
def test_a_group_without_a_command_shows_its_help(tollgate: Command, group: tuple[str, ...]) -> None:
    result = tollgate(*group)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("frobnicate",), "No such command"),
        (("tenants", "creat"), "No such command"),
        (("usage", "--nope"), "No such option: --nope"),
        (("tenants", "create"), "Missing argument 'ID' (see tollgate tenants create --help)"),
        (("serve", "--port", "70000"), "--port"),
        (("keys", "create", "acme", "extra"), "unexpected extra argument"),
    ],
)
def test_a_usage_error_is_one_line_with_exit_code_2(tollgate: Command, args: tuple[str, ...], words: str) -> None:
    assert words in tollgate.refused(*args, code=2)


def test_python_m_proxy_runs_the_command(tollgate: Command) -> None:
    result = tollgate.process("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"tollgate {__version__}\n", "")
    wrong = tollgate.process("nope")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "tollgate: No such command 'nope' (see tollgate --help)\n"


def test_a_reader_that_leaves_early_gets_no_traceback(tollgate: Command) -> None:
    for number in range(30):
        tollgate.done("tenants", "create", f"tenant-{number}")
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "tenants", "list", "--json"],
        cwd=tollgate.directory,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_encoding_that_lacks_the_letters_is_no_reason_to_fail(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme", "--name", "Łódź")
    for options in ((), ("--json",)):
        result = tollgate.process(
            "tenants", "list", *options, env={"PYTHONIOENCODING": "ascii:strict"}, encoding="utf-8"
        )
        assert (result.returncode, result.stderr) == (0, "")
        assert "acme" in result.stdout
