from __future__ import annotations

from contextlib import ExitStack

import pytest

from proxy.cli import calling
from tests.cli.conftest import ADMIN_TOKEN, Command, OnServer

UNREACHABLE = "http://127.0.0.1:9"


def test_a_list_is_read_to_its_end_a_page_at_a_time(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling, "PAGE_MAX", 2)
    for number in range(5):
        tollgate.done("tenants", "create", f"t{number}")
    assert [one["id"] for one in tollgate.json("tenants", "list")] == [f"t{number}" for number in range(5)]


def test_the_server_may_be_named_before_or_after_a_command_or_in_the_environment(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", ADMIN_TOKEN)
    for words in (
        ("--server", UNREACHABLE, "tenants", "list"),
        ("tenants", "--server", UNREACHABLE, "list"),
        ("tenants", "list", "--json", f"--server={UNREACHABLE}"),
    ):
        assert tollgate.refused(*words).startswith(f"{UNREACHABLE} cannot be reached: ")
    monkeypatch.setenv("TOLLGATE_SERVER", UNREACHABLE)
    assert tollgate.refused("tenants", "list").startswith(f"{UNREACHABLE} cannot be reached: ")


def test_what_stands_behind_two_dashes_is_no_option(tollgate: Command) -> None:
    assert "use 1 to 128 letters" in tollgate.refused("tenants", "create", "--", "--server")


@pytest.mark.parametrize("command", [("serve",), ("check-config",), ("backup", "x.db"), ("reconcile",)])
def test_commands_about_this_machine_are_not_for_a_server(tollgate: Command, command: tuple[str, ...]) -> None:
    said = tollgate.refused(*command, "--server", UNREACHABLE, code=2)
    assert f"{command[0]} works on this machine alone" in said


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://x", "http://", "http://user:pass-CANARY@host", "http://h/?key=CANARY", "http://[::1"],
)
def test_what_is_no_server_s_url_is_a_slip_and_is_not_repeated(tollgate: Command, url: str) -> None:
    said = tollgate.refused("tenants", "list", "--server", url, code=2)
    assert "write a server's URL such as http://127.0.0.1:8000" in said
    assert "CANARY" not in said


def test_without_the_token_nothing_is_asked(tollgate: Command) -> None:
    said = tollgate.refused("tenants", "list", "--server", UNREACHABLE, code=2)
    assert said.startswith("admin_token (TOLLGATE_ADMIN_TOKEN): ")


def test_here_and_there_are_the_same_store(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch, ending: ExitStack
) -> None:
    monkeypatch.setenv("TOLLGATE_ADMIN_TOKEN", ADMIN_TOKEN)
    there = Command(tollgate.directory, OnServer(tollgate.directory, ending))
    made = there.json("tenants", "create", "acme")
    assert tollgate.json("tenants", "list") == there.json("tenants", "list") == [made]
    tollgate.done("keys", "create", "acme", "--name", "here")
    assert [key["name"] for key in there.json("keys", "list", "acme")] == ["here"]
