"""Commands beside a file that declares tenants: they show it, and change nothing of it."""

from __future__ import annotations

import pytest

from proxy.declaration.apply import Declared
from proxy.settings import load
from tests.cli.conftest import Command
from tests.declaration.files import ACME, NOBODY


@pytest.fixture(autouse=True)
def declared(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the start of a server with this file."""
    (tollgate.directory / "tollgate.toml").write_text(ACME)
    monkeypatch.setenv("TOLLGATE_CONFIG", "tollgate.toml")
    apply(tollgate)


def apply(tollgate: Command) -> None:
    source = load().source
    assert source is not None
    Declared(source, "UTC", lambda: 1_000_000).apply_first(tollgate.database)


def test_listings_say_who_is_declared(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "zed")
    tollgate.done("keys", "create", "zed", "--import", "ak_zed_other")
    path = tollgate.directory / "tollgate.toml"
    assert [(one["id"], one["origin"]) for one in tollgate.json("tenants", "list")] == [
        ("acme", "declared"),
        ("zed", "managed"),
    ]
    assert [one["origin"] for one in tollgate.json("keys", "list")] == ["declared", "managed"]
    assert tollgate.json("limits", "plans")[0]["origin"] == "declared"
    assert f"declared in {path}" in tollgate.done("tenants", "show", "acme")
    assert "declared" in tollgate.done("tenants", "list")
    assert "declared" in tollgate.done("keys", "list", "acme")
    assert "imported" in tollgate.done("keys", "list", "zed")


def test_no_command_changes_it_and_each_says_where_it_stands(tollgate: Command) -> None:
    (key,) = tollgate.json("keys", "list", "acme")
    path = tollgate.directory / "tollgate.toml"
    for words in (
        ["tenants", "disable", "acme"],
        ["tenants", "enable", "acme"],
        ["tenants", "set-plan", "acme", ""],
        ["tenants", "set-period", "acme", "2026-01-01"],
        ["tenants", "set-upstream-key", "acme", "env:KEY"],
        ["keys", "create", "acme"],
        ["keys", "rotate", key["id"]],
        ["keys", "revoke", key["id"]],
        ["limits", "set", "acme", "tokens/day=1"],
        ["limits", "unset", "acme", "requests/day"],
        ["limits", "set", "--key", key["id"], "tokens/day=1"],
        ["limits", "set", "--plan", "starter", "tokens/day=1"],
        ["limits", "unset", "--plan", "starter", "tokens/month"],
    ):
        assert f" is declared in {path}: " in tollgate.refused(*words)
    assert "there is a tenant acme already" in tollgate.refused("tenants", "create", "acme")
    assert "added 5 tokens" in tollgate.done("limits", "top-up", "acme", "tokens=5")


def test_what_is_withdrawn_can_be_taken_over_by_command(tollgate: Command) -> None:
    (tollgate.directory / "tollgate.toml").write_text(NOBODY)
    apply(tollgate)
    assert tollgate.json("tenants", "show", "acme")["origin"] == "withdrawn"
    assert tollgate.json("keys", "list", "acme")[0]["status"] == "revoked"
    assert tollgate.json("tenants", "enable", "acme")["origin"] == "managed"
    assert len(tollgate.json("keys", "create", "acme")["key"]) > 40


def test_a_command_does_not_apply_what_the_file_says_by_now(tollgate: Command) -> None:
    path = tollgate.directory / "tollgate.toml"
    path.write_text(f"{ACME}[tenants.new]\n")
    assert len(tollgate.json("tenants", "list")) == 1
    path.write_text("[tenants.acme]\nnmae = 1\n")
    assert len(tollgate.json("tenants", "list")) == 1, "not even where that is wrong"


def test_the_check_of_the_settings_checks_what_is_declared(tollgate: Command) -> None:
    path = tollgate.directory / "tollgate.toml"
    assert tollgate.json("check-config")["declared"] == {"plans": 1, "tenants": 1, "keys": 1, "changes": "none"}
    path.write_text(NOBODY)
    changes = "1 key withdrawn, 1 plan withdrawn, 1 tenant withdrawn"
    last = tollgate.done("check-config").splitlines()[-1]
    assert last == f"# declared beside the settings: plans: 0, tenants: 0, keys: 0, changes: {changes}"
    path.write_text("port = 1\n")
    assert "declared" not in tollgate.json("check-config")
    path.write_text("[tenants.acme]\nplan = 'none'\n")
    said = tollgate.refused("check-config", code=2)
    assert said == f"{path}: tenants.acme.plan: there is no plan none; declare it: [plans.none]"
    tollgate.done("tenants", "create", "zed")
    path.write_text("[tenants.zed]\n")
    assert "tenants.zed: there is a tenant zed already" in tollgate.refused("check-config", code=2)


def test_managed_tenants_are_put_under_the_file_by_what_an_export_prints(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "zed")
    made = tollgate.json("keys", "create", "zed")
    exported = tollgate.done("tenants", "export", "zed")
    assert made["key"] not in exported
    (tollgate.directory / "tollgate.toml").write_text(ACME + exported)
    assert tollgate.json("check-config")["declared"]["changes"] == "1 key added, 1 tenant added"
    apply(tollgate)
    (key,) = tollgate.json("keys", "list", "zed")
    assert (key["id"], key["status"], key["origin"]) == (made["id"], "active", "declared")
    assert "[tenants.acme]" in tollgate.done("tenants", "export")
