from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.cli.instants import now_ms
from tests.billing.catalogs import BASE, FEE, FREE, UNIT, plan_text
from tests.cli.conftest import Command, settlement


@pytest.fixture
def own(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of one's own, with a plan `starter`."""
    path = tollgate.directory / "billing.toml"
    path.write_text(BASE + plan_text("starter", UNIT) + plan_text("free", FREE))
    monkeypatch.setenv("TOLLGATE_BILLING__FILE", "billing.toml")
    return path


def test_the_catalog_that_comes_along_is_right(tollgate: Command) -> None:
    assert tollgate.done("billing", "check").startswith(
        "The catalog (the one that comes with Tollgate) is right: 3 meters"
    )
    assert tollgate.json("billing", "check")["faults"] == []


def test_all_that_is_wrong_with_the_catalog_is_told_line_by_line(tollgate: Command, own: Path) -> None:
    own.write_text("a = 1\nb = 2\n")
    result = tollgate("billing", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"tollgate: billing.toml:{line}: {key}: there is no such key, fix: there are meters, features, plans,"
        " subscriptions"
        for line, key in ((1, "a"), (2, "b"))
    ]
    result = tollgate("billing", "check", "--json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["faults"]) == 2


@pytest.mark.parametrize(
    "args", [["check-config"], ["billing", "plans"], ["billing", "onboard", "acme", "--plan", "x"]]
)
def test_other_commands_tell_the_first_fault(tollgate: Command, own: Path, args: list[str]) -> None:
    own.write_text("a = 1\nb = 2\n")
    assert tollgate.refused(*args, code=2).endswith("(and 1 more: tollgate billing check)")


def test_plans_are_listed_with_who_is_on_them(tollgate: Command, own: Path) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    starter, free = tollgate.json("billing", "plans")
    assert (starter["plan"], starter["version"], starter["subscribed"]) == ("starter", 1, 1)
    assert (free["plan"], free["version"], free["subscribed"]) == ("free", None, 0)
    assert starter["phases"] == [
        {"key": "default", "duration": None, "rate_cards": [{"key": "ai_tokens", "name": "ai_tokens", "price": "unit"}]}
    ]
    own.write_text(own.read_text().replace("0.000002", "0.000003"))
    assert tollgate.json("billing", "plans")[0]["version"] is None
    assert "starter" in tollgate.done("billing", "plans")
    own.write_text("")
    assert tollgate.done("billing", "plans") == "The catalog has no plans.\n"


def test_subscriptions_are_listed(tollgate: Command) -> None:
    assert "tollgate billing onboard TENANT --plan PLAN" in tollgate.done("billing", "subscriptions")
    tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    tollgate.done("billing", "onboard", "other", "--plan", "free")
    tollgate.done("billing", "change", "acme", "--plan", "pro")
    listed = tollgate.json("billing", "subscriptions", "acme")
    assert [(one["plan"], one["end"] is None) for one in listed] == [("starter", False), ("pro", True)]
    assert len(tollgate.json("billing", "subscriptions")) == 3
    assert "other" in tollgate.done("billing", "subscriptions")


def test_a_key_is_printed_once(tollgate: Command) -> None:
    said = tollgate.done("billing", "onboard", "acme", "--plan", "starter", "--name", "Acme Inc.")
    assert said.startswith("Tenant acme is new, and is subscribed to plan starter, version 1, since 20")
    (secret,) = [line.strip() for line in said.splitlines() if line.strip().startswith("tg_")]
    again = tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    assert again.startswith("Tenant acme is subscribed to plan starter, version 1, since 20")
    assert "tg_" not in again
    assert len(tollgate.json("keys", "list", "acme")) == 1
    assert tollgate.json("tenants", "show", "acme")["name"] == "Acme Inc."
    assert secret.encode() not in tollgate.bytes_on_disk()


def test_onboarding_tells_programs_the_same(tollgate: Command) -> None:
    done = tollgate.json("billing", "onboard", "acme", "--plan", "free", "--key-name", "first")
    assert (done["tenant"], done["plan"], done["version"], done["end"]) == ("acme", "free", 1, None)
    assert (done["new_tenant"], done["new_subscription"], done["limits"]) == (True, True, ["tokens/period 10,000"])
    (key,) = tollgate.json("keys", "list", "acme")
    assert (done["key_id"], done["key"][:3], done["key"][-4:], key["name"]) == (key["id"], "tg_", key["hint"], "first")
    again = tollgate.json("billing", "onboard", "acme", "--plan", "free", "--key-name", "first")
    assert (again["new_tenant"], again["new_subscription"], again["key_id"], again["key"]) == (False, False, None, None)


def test_a_key_may_be_brought_along(tollgate: Command) -> None:
    said = tollgate.done("billing", "onboard", "acme", "--plan", "starter", "--import", "-", stdin="ak_user1_abc123\n")
    assert "is the one that you brought" in said
    assert "ak_user1_abc123" not in said
    tollgate.done("billing", "onboard", "acme", "--plan", "starter", "--import", "ak_user1_abc123")
    assert len(tollgate.json("keys", "list", "acme")) == 1


def test_a_tenant_may_be_onboarded_without_a_key(tollgate: Command) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "starter", "--no-key")
    assert tollgate.json("keys", "list", "acme") == []


def test_nothing_is_made_where_a_part_of_it_cannot_be(tollgate: Command) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "starter", "--import", "ak_user1_abc123")
    refusal = tollgate.refused("billing", "onboard", "other", "--plan", "starter", "--import", "ak_user1_abc123")
    assert refusal == "this key is in use already"
    assert [one["id"] for one in tollgate.json("tenants", "list")] == ["acme"]
    assert [one["tenant"] for one in tollgate.json("billing", "subscriptions")] == ["acme"]


def test_everybody_in_the_catalog_is_onboarded_at_once(tollgate: Command, own: Path) -> None:
    assert tollgate.done("billing", "onboard", "--all") == "The catalog's [subscriptions] name nobody.\n"
    own.write_text(own.read_text() + '[subscriptions]\nuser-001 = "starter"\nuser-002 = "free"\n')
    tollgate.done("billing", "onboard", "user-001", "--no-key")
    first, second = tollgate.json("billing", "onboard", "--all")
    assert (first["tenant"], first["plan"], first["new_subscription"], first["key"][:3]) == (
        "user-001",
        "starter",
        False,
        "tg_",
    )
    assert (second["tenant"], second["plan"], second["new_subscription"]) == ("user-002", "free", True)
    assert tollgate.done("billing", "onboard", "--all").count("is subscribed to plan") == 2
    assert len(tollgate.json("keys", "list")) == 2


def test_nobody_is_onboarded_where_one_cannot_be(tollgate: Command, own: Path) -> None:
    tollgate.done("billing", "onboard", "user-002", "--plan", "starter")
    own.write_text(own.read_text() + '[subscriptions]\nuser-001 = "starter"\nuser-002 = "free"\n')
    assert tollgate.refused("billing", "onboard", "--all").startswith("tenant user-002 is on plan starter; to change")
    assert [one["id"] for one in tollgate.json("tenants", "list")] == ["user-002"]


def test_what_a_plan_limits_is_told(tollgate: Command) -> None:
    said = tollgate.done("billing", "onboard", "acme", "--plan", "free")
    assert "Its limits: tokens/period 10,000.\n" in said
    assert tollgate.json("limits", "show", "acme")["limits"][0]["limit"] == "tokens/period"
    tollgate.done("tenants", "create", "other")
    tollgate.done("limits", "set", "other", "tokens/period=5")
    assert "Its own limit tokens/period stays" in tollgate.done("billing", "onboard", "other", "--plan", "free")


def test_an_entitlement_that_no_limit_can_say_is_told(tollgate: Command, own: Path) -> None:
    own.write_text(BASE + plan_text("weekly", FREE).replace("P1M", "P1W"))
    said = tollgate.done("billing", "onboard", "acme", "--plan", "weekly")
    assert "Not held to here: the entitlement to ai_tokens, because limits do not renew every P1W.\n" in said
    (unheld,) = tollgate.json("billing", "onboard", "other", "--plan", "weekly")["not_limited"]
    assert unheld == {"feature": "ai_tokens", "reason": "limits do not renew every P1W"}


def test_a_plan_that_has_changed_is_told_and_changed_to_on_demand(tollgate: Command, own: Path) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    own.write_text(own.read_text().replace("0.000002", "0.000003"))
    said = tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    assert "to change to that: tollgate billing change acme --plan starter" in said
    said = tollgate.done("billing", "change", "acme", "--plan", "starter")
    assert said.startswith("Tenant acme is on plan starter, version 2, since 20")
    again = tollgate.done("billing", "change", "acme", "--plan", "starter")
    assert again == "Tenant acme is on plan starter, version 2, already.\n"


def test_a_change_brings_the_limits_of_the_new_plan(tollgate: Command) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "starter")
    assert "Its limits: tokens/period 10,000." in tollgate.done("billing", "change", "acme", "--plan", "free")
    assert tollgate.json("billing", "change", "acme", "--plan", "pro")["plan"] == "pro"
    assert tollgate.json("limits", "show", "acme")["limits"] == []


def test_a_subscription_can_be_cancelled(tollgate: Command) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "free")
    said = tollgate.done("billing", "cancel", "acme")
    assert said.startswith("The subscription of tenant acme to plan free ended at 20")
    assert "tollgate tenants disable acme" in said
    assert "make one: tollgate billing onboard acme" in tollgate.refused("billing", "cancel", "acme")
    assert tollgate.json("limits", "show", "acme")["limits"] == []
    tollgate.done("billing", "onboard", "acme", "--plan", "free")
    assert tollgate.json("billing", "cancel", "acme")["end"] is not None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["onboard", "acme"], "say which plan acme is to be on, here or in the catalog's [subscriptions]"),
        (["onboard", "acme", "--plan", "startr"], "there is no plan startr in the catalog; did you mean starter?"),
        (["onboard", "-x", "--plan", "starter"], "No such option"),
        (["onboard"], "name a tenant, or --all"),
        (["onboard", "acme", "--all"], "name a tenant, or --all"),
        (["onboard", "--all", "--plan", "starter"], "--all: it goes with neither --plan, --name nor --import"),
        (["onboard", "a b", "--plan", "starter"], "tenant id 'a b': use 1 to 128 letters"),
        (["change", "acme", "--plan", "starter"], "there is no tenant acme"),
        (["cancel", "acme"], "there is no tenant acme"),
    ],
)
def test_a_slip_is_told_in_one_line_and_makes_nothing(tollgate: Command, args: list[str], words: str) -> None:
    result = tollgate("billing", *args)
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert tollgate.json("tenants", "list") == []


def test_the_free_tier_is_held_to_and_billed_nothing(tollgate: Command, own: Path) -> None:
    tollgate.done("billing", "onboard", "acme", "--plan", "free")
    tollgate.record(settlement("req_1", time_ms=now_ms()))
    (line,) = tollgate.json("billing", "invoice", "acme")["lines"]
    assert (line["quantity"], line["amount"]) == (247, "0.00")
    assert tollgate.json("limits", "show", "acme")["limits"][0]["remaining"] == 10_000 - 247


def test_a_fee_of_ones_own_plan(tollgate: Command, own: Path) -> None:
    own.write_text(BASE + plan_text("pro", FEE))
    tollgate.done("billing", "onboard", "acme", "--plan", "pro")
    assert tollgate.json("billing", "invoice", "acme")["total"] == "20.00"
