from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing

import pytest

from proxy.store import tenants
from tests.cli.conftest import Command, clean_environment

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ALSO_ON_A_SERVER = True
ONLY_HERE = (
    "test_as_a_process_it_prints_json_alone_and_errors_apart",
    "test_arguments_that_are_not_utf_8_are_a_usage_error",
)


def stored_status(tollgate: Command, tenant_id: str) -> str:
    with closing(tollgate.database.connect()) as connection:
        return tenants.tenant(connection, tenant_id).status


def test_a_tenant_is_created_shown_disabled_and_enabled(tollgate: Command) -> None:
    created = tollgate.json("tenants", "create", "acme", "--name", "Acme [GmbH]")
    assert INSTANT.fullmatch(created["created_at"])
    assert created["period_anchor"] == created.pop("created_at")
    del created["period_anchor"]
    assert created == {"id": "acme", "name": "Acme [GmbH]", "status": "active", "upstream_key": None, "plan": None} | {
        "origin": "managed",
        "suspended_since": None,
    }

    assert tollgate.done("tenants", "disable", "acme") == "Tenant acme is disabled.\n"
    assert stored_status(tollgate, "acme") == "disabled"
    assert tollgate.json("tenants", "show", "acme")["status"] == "disabled"

    assert tollgate.json("tenants", "enable", "acme")["status"] == "active"
    assert stored_status(tollgate, "acme") == "active"


def test_the_list_and_the_view_are_tables_for_people(tollgate: Command) -> None:
    assert "There are no tenants" in tollgate.done("tenants", "list")
    assert tollgate.json("tenants", "list") == []
    tollgate.done("tenants", "create", "acme", "--name", "Acme [bold]GmbH")
    tollgate.done("tenants", "create", "b" * 128)
    listed = tollgate.done("tenants", "list")
    assert "Acme [bold]GmbH" in listed
    assert "b" * 128 in listed  # not wrapped, where no terminal reads
    assert [tenant["id"] for tenant in tollgate.json("tenants", "list")] == ["acme", "b" * 128]
    assert "It has no keys" in tollgate.done("tenants", "show", "acme")


def test_a_tenant_is_shown_with_its_own_keys_and_no_others(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    tollgate.done("tenants", "create", "other")
    key = tollgate.json("keys", "create", "acme", "--name", "laptop")
    other = tollgate.json("keys", "create", "other")
    assert [shown["id"] for shown in tollgate.json("tenants", "show", "acme")["keys"]] == [key["id"]]
    shown = tollgate.done("tenants", "show", "acme")
    assert key["id"] in shown
    assert "laptop" in shown
    assert other["id"] not in shown
    assert key["key"] not in shown


def test_where_a_tenant_s_own_upstream_key_is_found_is_set_and_shown(tollgate: Command) -> None:
    created = tollgate.json("tenants", "create", "acme", "--upstream-key", "env:ACME_KEY")
    assert created["upstream_key"] == "env:ACME_KEY"
    assert "env:ACME_KEY" in tollgate.done("tenants", "list")
    moved = tollgate.done("tenants", "set-upstream-key", "acme", "file:/run/secrets/acme")
    assert moved == "Tenant acme uses the upstream key at file:/run/secrets/acme.\n"
    assert "file:/run/secrets/acme" in tollgate.done("tenants", "show", "acme")
    assert tollgate.done("tenants", "set-upstream-key", "acme", "").endswith("uses the service's upstream key.\n")
    assert tollgate.json("tenants", "show", "acme")["upstream_key"] is None
    assert "shared" in tollgate.done("tenants", "list")


@pytest.mark.parametrize(
    "given", ["sk-proj-CANARY", "env:", "env:sk-proj-CANARY", "file:relative", "file:", "env:A B", "vault:CANARY"]
)
def test_a_key_in_place_of_where_it_is_found_is_refused_and_not_repeated(tollgate: Command, given: str) -> None:
    tollgate.done("tenants", "create", "acme")
    for command in (["create", "other", "--upstream-key", given], ["set-upstream-key", "acme", given]):
        said = tollgate.refused("tenants", *command)
        assert "env:NAME or file:/absolute/path" in said
        assert "CANARY" not in said
    assert [tenant["upstream_key"] for tenant in tollgate.json("tenants", "list")] == [None]


def test_a_tenant_is_put_on_a_plan_and_shown_with_the_limits_that_hold_for_it(tollgate: Command) -> None:
    tollgate.done("limits", "set", "--plan", "pro", "tokens/month=1000", "requests/minute=60")
    tollgate.done("limits", "set", "--plan", "free", "tokens/month=10")
    assert tollgate.json("tenants", "create", "acme", "--plan", "pro")["plan"] == "pro"
    tollgate.done("limits", "set", "acme", "requests/minute=6")
    shown = tollgate.json("tenants", "show", "acme")
    assert [(one["limit"], one["value"], one["used"], one["origin"]) for one in shown["limits"]] == [
        ("requests/minute", 6, 0, "tenant"),
        ("tokens/month", 1_000, 0, "plan pro"),
    ]
    assert "plan pro   hard" in tollgate.done("tenants", "show", "acme")
    assert tollgate.done("tenants", "set-plan", "acme", "free") == "Tenant acme is on plan free.\n"
    assert tollgate.json("tenants", "show", "acme")["limits"][1]["value"] == 10
    assert "free" in tollgate.done("tenants", "list")
    assert tollgate.done("tenants", "set-plan", "acme", "") == "Tenant acme is on no plan.\n"
    assert tollgate.json("tenants", "list")[0]["plan"] is None
    assert len(tollgate.json("tenants", "show", "acme")["limits"]) == 1


def test_a_tenant_s_keys_are_shown_with_the_limits_of_their_own(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    key_id = tollgate.json("keys", "create", "acme")["id"]
    tollgate.done("limits", "set", "--key", key_id, "requests/day=5", "--soft")
    (key,) = tollgate.json("tenants", "show", "acme")["keys"]
    assert [(one["limit"], one["value"], one["origin"]) for one in key["limits"]] == [("requests/day", 5, "key")]
    assert "requests/day 5 (soft)" in tollgate.done("tenants", "show", "acme")


def test_a_plan_that_nobody_has_made_is_refused(tollgate: Command) -> None:
    assert "there is no plan por;" in tollgate.refused("tenants", "create", "acme", "--plan", "por")
    assert tollgate.json("tenants", "list") == []
    tollgate.done("tenants", "create", "acme")
    assert "there is no plan por;" in tollgate.refused("tenants", "set-plan", "acme", "por")
    assert "use 1 to 64 lower-case letters" in tollgate.refused("tenants", "set-plan", "acme", "A plan")
    assert tollgate.json("tenants", "show", "acme")["plan"] is None


def test_a_tenant_s_periods_begin_on_the_day_that_is_set(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tollgate.done("tenants", "create", "acme")
    tollgate.done("limits", "set", "acme", "tokens/period=1000")
    said = tollgate.done("tenants", "set-period", "acme", "2026-01-15T08:30:00+01:00")
    assert re.fullmatch(r"The current period .* from \d{4}-\d\d-15T07:30:00Z until \d{4}-\d\d-15T07:30:00Z\.\n", said)
    assert tollgate.json("tenants", "list")[0]["period_anchor"] == "2026-01-15T07:30:00.000Z"
    assert "2026-01-15T07:30:00Z" in tollgate.done("tenants", "show", "acme")
    assert tollgate.json("limits", "show", "acme")["limits"][0]["renews_at"].endswith("-15T07:30:00.000Z")
    assert tollgate.json("tenants", "set-period", "acme", "2026-11-15")["period_anchor"] == "2026-11-15T00:00:00.000Z"
    monkeypatch.setenv("TOLLGATE_LIMITS__TIME_ZONE", "Asia/Kolkata")
    assert tollgate.json("tenants", "set-period", "acme", "2026-11-15")["period_anchor"] == "2026-11-14T18:30:00.000Z"


@pytest.mark.parametrize("when", ["", "the 15th", "2026-11-31", "2026-11-15T08:30:00", "1969-01-01"])
def test_what_is_no_day_for_a_period_is_told(tollgate: Command, when: str) -> None:
    tollgate.done("tenants", "create", "acme")
    before = tollgate.json("tenants", "show", "acme")
    assert tollgate.refused("tenants", "set-period", "acme", when, code=2).startswith("Invalid value for WHEN: ")
    assert tollgate.json("tenants", "show", "acme") == before


@pytest.mark.parametrize("command", [["set-plan", "nobody", ""], ["set-period", "nobody", "2026-11-15"]])
def test_plan_and_period_of_an_unknown_tenant_are_refused(tollgate: Command, command: list[str]) -> None:
    assert tollgate.refused("tenants", *command) == "there is no tenant nobody"


@pytest.mark.parametrize("command", ["show", "disable", "enable"])
def test_an_unknown_tenant_is_refused_in_one_line(tollgate: Command, command: str) -> None:
    assert tollgate.refused("tenants", command, "nobody") == "there is no tenant nobody"


def test_the_upstream_key_of_an_unknown_tenant_is_refused(tollgate: Command) -> None:
    assert tollgate.refused("tenants", "set-upstream-key", "nobody", "env:KEY") == "there is no tenant nobody"


def test_an_id_that_is_taken_or_not_allowed_is_refused(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    assert tollgate.refused("tenants", "create", "acme") == "there is a tenant acme already"
    for bad in ("", "-", "a b", "a/b", "a\nb", "ä", "a" * 129):
        assert "use 1 to 128 letters" in tollgate.refused("tenants", "create", "--", bad)
    assert len(tollgate.json("tenants", "list")) == 1


def test_as_a_process_it_prints_json_alone_and_errors_apart(tollgate: Command) -> None:
    created = tollgate.process("tenants", "create", "acme", "--json")
    assert (created.returncode, created.stderr) == (0, "")
    assert created.stdout.startswith('{\n  "id": "acme"')
    again = tollgate.process("tenants", "create", "acme", "--json")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "tollgate: there is a tenant acme already\n"


def test_arguments_that_are_not_utf_8_are_a_usage_error(tollgate: Command) -> None:
    result = subprocess.run(
        [sys.executable.encode(), b"-m", b"proxy", b"tenants", b"show", b"\xff"],
        cwd=tollgate.directory,
        env=clean_environment(),
        capture_output=True,
    )
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr == b"tollgate: Invalid value: the arguments must be UTF-8 (see tollgate --help)\n"
