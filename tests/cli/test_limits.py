from __future__ import annotations

from contextlib import closing

import pytest

from proxy.cli.instants import now_ms
from proxy.limits import VALUE_MAX, Written
from proxy.model import Cost, CostState
from proxy.money import PICO
from proxy.store import limits as stored
from proxy.store.limits import LIMITS_MAX, Owner
from tests.cli.conftest import Command, settlement

TOKENS_EACH = 247  # of `settlement`, 195 of them output
ALSO_ON_A_SERVER = True


@pytest.fixture(autouse=True)
def acme(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")


def limits_of(tollgate: Command, owner: str = "acme", kind: Owner = "tenant") -> dict[str, tuple[int, bool]]:
    with closing(tollgate.database.connect()) as connection:
        return {one.counted.name: (one.value, one.soft) for one in stored.limits_of(connection, kind, owner)}


def key_of(tollgate: Command, *options: str) -> str:
    key_id = tollgate.json("keys", "create", "acme", *options)["id"]
    assert isinstance(key_id, str)
    return key_id


def rows(listing: str) -> list[list[str]]:
    """The cells of a table, which stand apart by three spaces or more."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in listing.splitlines()[2:]]


def test_limits_are_set_together_as_they_are_written(tollgate: Command) -> None:
    said = tollgate.done("limits", "set", "acme", "tokens/month=10000", "requests/minute=60")
    assert said == "Set for tenant acme, in force within a second: tokens/month 10,000; requests/minute 60.\n"
    assert limits_of(tollgate) == {"tokens/month": (10_000, False), "requests/minute": (60, False)}


def test_filters_and_softness_are_those_of_all_limits_of_the_call(tollgate: Command) -> None:
    filters = ["--model", "gpt-4o*", "--kind", "output", "--soft"]
    set_up = tollgate.json("limits", "set", "acme", "tokens/day=500", "tokens/total=1_000", *filters)
    assert (set_up["owner_kind"], set_up["owner"]) == ("tenant", "acme")
    assert set_up["limits"][0] == {
        "limit": "tokens/day (output of gpt-4o*)",
        "unit": "tokens",
        "window": "day",
        "model": "gpt-4o*",
        "kind": "output",
        "value": 500,
        "soft": True,
        "origin": "tenant",
    }
    assert limits_of(tollgate) == {
        "tokens/day (output of gpt-4o*)": (500, True),
        "tokens/total (output of gpt-4o*)": (1_000, True),
    }


def test_a_limit_that_is_set_again_is_as_the_last_call_says(tollgate: Command) -> None:
    tollgate.done("limits", "set", "acme", "tokens/day=500", "--soft")
    tollgate.done("limits", "set", "acme", "tokens/day=0")
    assert limits_of(tollgate) == {"tokens/day": (0, False)}


def test_all_limits_of_a_call_are_set_or_none(tollgate: Command) -> None:
    with tollgate.database.transaction() as connection:
        for number in range(LIMITS_MAX - 1):
            one = Written.parse("tokens/day=1")
            stored.set_limit(connection, "tenant", "acme", one, model=f"model-{number}")
    before = limits_of(tollgate)
    assert f"more than {LIMITS_MAX} limits" in tollgate.refused("limits", "set", "acme", "tokens/day=1", "inflight=1")
    assert limits_of(tollgate) == before
    tollgate.done("limits", "set", "acme", "tokens/day=1")
    assert len(limits_of(tollgate)) == LIMITS_MAX


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["set"], "name a tenant first, or --key or --plan"),
        (["set", "tokens/day=5"], "'tokens/day=5': name a tenant first, or --key or --plan"),
        (["set", "acme"], "say which, such as tokens/month=10000"),
        (["set", "--plan", "pro"], "say which, such as tokens/month=10000"),
        (["set", "acme", "tokens/day=5", "tokens/week=5"], "'tokens/week=5': 'week' is no window; use minute, hour"),
        (["set", "acme", "tokens/day=-5"], "'tokens/day=-5': write a limit as UNIT/WINDOW=VALUE"),
        (["set", "acme", "eur/day=5"], "'eur' is no unit; use requests, tokens, usd"),
        (["set", "acme", "usd/day=0.0000000000001"], "dollars have at most 12 places after the point"),
        (["set", "acme", "usd/day=5", "--kind", "input"], "--kind: usd has no kinds"),
        (["set", "acme", "tokens/day=5", "tokens/day=6"], "tokens/day is named twice"),
        (["set", "acme", "tokens/day=5", "requests/day=6", "--kind", "input"], "--kind: requests has no kinds"),
        (["set", "acme", "tokens/day=5", "--kind", "thoughts"], "'thoughts' is no kind of tokens; use input"),
        (["set", "acme", "tokens/day=5", "--model", "a\tb"], "--model: a model's pattern has at most"),
        (["set", "--plan", "pro", "--key", "key_1", "tokens/day=5"], "name a plan or a key, not both"),
        (["set", "--plan", "pro", "acme", "tokens/day=5"], "'acme': write a limit as UNIT/WINDOW=VALUE"),
        (["unset", "acme"], "say which, such as tokens/month"),
        (["unset", "acme", "tokens/day=5"], "'tokens/day=5': name a limit as UNIT/WINDOW, such as tokens/month"),
        (["unset", "acme", "tokens"], "'tokens': say in which window, such as tokens/month"),
        (["unset", "acme", "inflight/day"], "inflight has no window; write inflight (see"),
        (["unset", "acme", "tokens/day", "tokens/day"], "tokens/day is named twice"),
        (["show"], "name a tenant, or --key or --plan"),
        (["show", "acme", "--plan", "pro"], "a plan is shown alone"),
        (["top-up", "acme", "tokens=0"], "'tokens=0': more than 0"),
        (["top-up", "acme", f"tokens={VALUE_MAX + 1}"], f"at most {VALUE_MAX}"),
        (["top-up", "acme", "inflight=5"], "'inflight=5': write tokens=50000, requests=1000 or usd=20"),
        (["top-up", "acme", "tokens/total=5"], "write tokens=50000, requests=1000 or usd=20"),
        (["top-up", "acme", "tokens=1.5"], "tokens are whole"),
        (["top-up", "acme", "usd=0.00"], "'usd=0.00': more than 0"),
        (["top-up", "acme", "tokens=5", "--id", "a b"], "--id: use 1 to 128 printable ASCII characters"),
        (["top-up", "acme", "tokens=5", "--id", ""], "--id: use 1 to 128 printable ASCII characters"),
        (["top-up", "acme", "tokens=5", "--note", "x" * 1_001], "--note: String should have at most 1000 characters"),
    ],
)
def test_a_slip_is_told_in_one_line_and_changes_nothing(tollgate: Command, args: list[str], words: str) -> None:
    tollgate.done("limits", "set", "acme", "tokens/day=1", "inflight=1")
    assert words in tollgate.refused("limits", *args, code=2)
    assert limits_of(tollgate) == {"tokens/day": (1, False), "inflight": (1, False)}
    assert tollgate.json("limits", "plans") == []


@pytest.mark.parametrize("command", [["set", "tokens/day=5"], ["unset", "tokens/day"]])
def test_an_owner_that_nobody_knows_is_told(tollgate: Command, command: list[str]) -> None:
    name, limit = command
    assert tollgate.refused("limits", name, "nobody", limit) == "there is no tenant nobody"
    assert tollgate.refused("limits", name, "--key", "key_0", limit).startswith("there is no key key_0")


def test_what_is_shown_or_paid_by_nobody_is_told(tollgate: Command) -> None:
    assert tollgate.refused("limits", "show", "nobody") == "there is no tenant nobody"
    assert tollgate.refused("limits", "show", "--key", "key_0").startswith("there is no key key_0")
    assert tollgate.refused("limits", "top-up", "nobody", "tokens=5") == "there is no tenant nobody"
    assert "there is no plan pro; a plan is made by its first limit" in tollgate.refused(
        "limits", "show", "--plan", "pro"
    )
    assert "use 1 to 64 lower-case letters" in tollgate.refused("limits", "set", "--plan", "Pro", "tokens/day=5")


def test_all_limits_of_a_call_are_taken_away_or_none(tollgate: Command) -> None:
    tollgate.done("limits", "set", "acme", "tokens/day=1", "inflight=1")
    tollgate.done("limits", "set", "acme", "tokens/day=2", "--model", "gpt-4o*")
    assert "has no limit requests/day" in tollgate.refused("limits", "unset", "acme", "tokens/day", "requests/day")
    assert len(limits_of(tollgate)) == 3
    said = tollgate.done("limits", "unset", "acme", "tokens/day", "inflight")
    assert said == "No longer set for tenant acme: tokens/day; inflight.\n"
    assert limits_of(tollgate) == {"tokens/day (of gpt-4o*)": (2, False)}
    assert tollgate.json("limits", "unset", "acme", "tokens/day", "--model", "gpt-4o*")["limits"] == []


def test_a_tenant_s_own_limit_takes_the_place_of_its_plan_s_until_it_is_unset(tollgate: Command) -> None:
    tollgate.done("limits", "set", "--plan", "pro", "tokens/month=1000", "max_tokens=50")
    tollgate.done("tenants", "set-plan", "acme", "pro")
    tollgate.done("limits", "set", "acme", "tokens/month=10")
    shown = tollgate.json("limits", "show", "acme")["limits"]
    assert [(one["limit"], one["value"], one["origin"]) for one in shown] == [
        ("tokens/month", 10, "tenant"),
        ("max_tokens", 50, "plan pro"),
    ]
    tollgate.done("limits", "unset", "acme", "tokens/month")
    assert tollgate.json("limits", "show", "acme")["limits"][0]["origin"] == "plan pro"


def test_what_is_used_and_left_of_each_limit_is_shown(tollgate: Command) -> None:
    tollgate.record(settlement("req_1", time_ms=now_ms()), settlement("req_2", time_ms=now_ms(), subject="other"))
    tollgate.done("limits", "set", "acme", "tokens/total=1000", "inflight=3", "requests/minute=60")
    tollgate.done("limits", "set", "acme", "tokens/total=100", "--kind", "output", "--soft")
    assert rows(tollgate.done("limits", "show", "acme")) == [
        ["requests/minute", "60", "1", "59", "slides", "tenant", "hard"],
        ["tokens/total", "1,000", f"{TOKENS_EACH}", f"{1_000 - TOKENS_EACH}", "never", "tenant", "hard"],
        ["tokens/total (output)", "100", "195", "0", "never", "tenant", "soft"],
        ["inflight", "3", "tenant", "hard"],
    ]
    shown = tollgate.json("limits", "show", "acme")
    assert (shown["tenant_id"], shown["key_id"], shown["time_zone"]) == ("acme", None, "UTC")
    assert [(one["used"], one["remaining"], one["renews_at"]) for one in shown["limits"]] == [
        (1, 59, None),
        (TOKENS_EACH, 1_000 - TOKENS_EACH, None),
        (195, 0, None),
        (None, None, None),
    ]


def test_who_has_no_limits_is_told_how_to_set_one(tollgate: Command) -> None:
    assert "tollgate limits set acme tokens/month=10000" in tollgate.done("limits", "show", "acme")
    assert tollgate.json("limits", "show", "acme")["limits"] == []


def test_a_limit_renews_at_midnight_in_the_time_zone_that_is_set(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLLGATE_LIMITS__TIME_ZONE", "Asia/Kolkata")
    tollgate.done("limits", "set", "acme", "tokens/day=1000")
    shown = tollgate.json("limits", "show", "acme")
    assert shown["time_zone"] == "Asia/Kolkata"
    assert shown["limits"][0]["renews_at"].endswith("T18:30:00.000Z")


def test_a_key_s_limits_come_on_top_and_count_its_own_usage(tollgate: Command) -> None:
    tollgate.done("limits", "set", "acme", "requests/total=10")
    key_id = key_of(tollgate)
    said = tollgate.done("limits", "set", "--key", key_id, "requests/total=5")
    assert said == f"Set for key {key_id}, in force within a second: requests/total 5.\n"
    tollgate.record(settlement("req_1", key_id=key_id), settlement("req_2"))
    for named in (["--key", key_id], ["acme", "--key", key_id]):
        shown = tollgate.json("limits", "show", *named)
        assert (shown["tenant_id"], shown["key_id"]) == ("acme", key_id)
        assert [(one["value"], one["used"], one["origin"]) for one in shown["limits"]] == [
            (10, 2, "tenant"),
            (5, 1, "key"),
        ]
    assert len(tollgate.json("limits", "show", "acme")["limits"]) == 1
    tollgate.done("limits", "unset", "--key", key_id, "requests/total")
    assert limits_of(tollgate, key_id, "key") == {}


def test_a_key_is_shown_with_whom_it_may_act_for(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "other")
    tollgate.done("limits", "set", "other", "tokens/day=5")
    plain, trusted = key_of(tollgate), key_of(tollgate, "--trusted")
    said = tollgate.refused("limits", "show", "other", "--key", plain)
    assert said == f"key {plain} is tenant acme's, and acts for nobody else"
    assert tollgate.json("limits", "show", "other", "--key", trusted)["limits"][0]["value"] == 5


def test_plans_are_listed_with_their_limits_and_tenants(tollgate: Command) -> None:
    assert "There are no plans" in tollgate.done("limits", "plans")
    tollgate.done("limits", "set", "--plan", "pro", "tokens/month=1000", "--soft")
    tollgate.done("limits", "set", "--plan", "free", "requests/day=10")
    tollgate.done("tenants", "create", "other", "--plan", "pro")
    tollgate.done("tenants", "set-plan", "acme", "pro")
    assert rows(tollgate.done("limits", "plans")) == [
        ["free", "0", "requests/day 10", "managed"],
        ["pro", "2", "tokens/month 1,000 (soft)", "managed"],
    ]
    listed = tollgate.json("limits", "plans")
    assert [(one["plan"], one["tenants"], len(one["limits"])) for one in listed] == [("free", 0, 1), ("pro", 2, 1)]
    assert tollgate.json("limits", "show", "--plan", "pro") == listed[1]
    assert rows(tollgate.done("limits", "show", "--plan", "pro")) == [["tokens/month", "1,000", "soft"]]


def test_a_plan_whose_limits_are_gone_is_listed_while_tenants_are_on_it(tollgate: Command) -> None:
    tollgate.done("limits", "set", "--plan", "pro", "tokens/month=1000")
    tollgate.done("tenants", "set-plan", "acme", "pro")
    tollgate.done("limits", "unset", "--plan", "pro", "tokens/month")
    assert tollgate.json("limits", "plans") == [{"plan": "pro", "tenants": 1, "limits": [], "origin": "managed"}]
    assert rows(tollgate.done("limits", "plans")) == [["pro", "1", "none", "managed"]]
    assert tollgate.done("limits", "show", "--plan", "pro") == "It has no limits.\n"
    tollgate.done("tenants", "create", "other", "--plan", "pro")
    for tenant in ("acme", "other"):
        tollgate.done("tenants", "set-plan", tenant, "")
    assert tollgate.json("limits", "plans") == []


def test_a_prepaid_amount_is_added_once_for_each_id(tollgate: Command) -> None:
    tollgate.record(settlement("req_1"))
    tollgate.done("limits", "set", "acme", "tokens/minute=9", "tokens/month=9", "requests/total=9")
    left = 50_000 - TOKENS_EACH
    paid = ["limits", "top-up", "acme", "tokens=50_000", "--id", "invoice/7", "--note", "November"]
    said = tollgate.done(*paid)
    assert said == f"Top-up invoice/7 added 50,000 tokens for tenant acme: {left:,} of 50,000 are left.\n"
    again = tollgate.done(*paid)
    assert again == f"Top-up invoice/7 was made already, and nothing was added: {left:,} of 50,000 are left.\n"
    assert "of another amount or for another tenant" in tollgate.refused(*paid[:3], "tokens=1", "--id", "invoice/7")
    shown = tollgate.json("limits", "show", "acme")["limits"]
    assert [(one["limit"], one["value"]) for one in shown if one["origin"] == "prepaid"] == [("tokens/total", 50_000)]


def test_prepaid_amounts_are_listed_newest_first(tollgate: Command) -> None:
    assert "There are no top-ups" in tollgate.done("limits", "top-ups")
    tollgate.done("tenants", "create", "other")
    tollgate.done("limits", "top-up", "acme", "tokens=50_000", "--id", "invoice-7", "--note", "November")
    tollgate.done("limits", "top-up", "other", "requests=5", "--id", "invoice-8")
    listed = tollgate.json("limits", "top-ups")
    assert [one["id"] for one in listed] == ["invoice-8", "invoice-7"]
    (mine,) = tollgate.json("limits", "top-ups", "acme")
    assert mine == listed[1]
    assert (mine["unit"], mine["amount"], mine["note"]) == ("tokens", 50_000, "November")
    ((name, tenant, unit, amount, _, note),) = rows(tollgate.done("limits", "top-ups", "acme"))
    assert (name, tenant, unit, amount, note) == ("invoice-7", "acme", "tokens", "50,000", "November")
    assert tollgate.refused("limits", "top-ups", "nobody") == "there is no tenant nobody"


def test_a_prepaid_amount_without_an_id_gets_one_and_is_added_each_time(tollgate: Command) -> None:
    tollgate.done("limits", "set", "acme", "requests/total=5")
    first, second = (tollgate.json("limits", "top-up", "acme", "requests=10") for _ in range(2))
    assert first["id"] != second["id"]
    assert first["id"].startswith("top_")
    assert first["id"] in tollgate.done("limits", "top-up", "acme", "requests=10", "--id", first["id"])
    assert (second["tenant_id"], second["unit"], second["amount"], second["added"]) == ("acme", "requests", 10, True)
    assert (second["total"]["value"], second["total"]["origin"]) == (25, "tenant, prepaid")


def test_money_is_set_topped_up_and_shown_in_dollars(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "rich")
    said = tollgate.done("limits", "set", "rich", "usd/month=100.50", "usd/day=0.000000000001")
    assert "usd/month 100.5; usd/day 0.000000000001" in said
    said = tollgate.done("limits", "top-up", "rich", "usd=20", "--id", "invoice-1")
    assert "added 20 usd for tenant rich: 20 of 20 are left." in said
    tollgate.record(settlement("req_1", subject="rich", cost=Cost(PICO // 4, CostState.PRICED)))
    added = tollgate.json("limits", "top-up", "rich", "usd=0.5", "--id", "invoice-2")
    assert (added["amount"], added["total"]["value"], added["total"]["remaining"]) == ("0.5", "20.5", "20.25")
    shown = {one["limit"]: one for one in tollgate.json("limits", "show", "rich")["limits"]}
    assert [shown[name]["value"] for name in ("usd/month", "usd/total")] == ["100.5", "20.5"]
    total = next(line for line in tollgate.done("limits", "show", "rich").splitlines() if line.startswith("usd/total"))
    assert total.split() == ["usd/total", "20.5", "0.25", "20.25", "never", "prepaid", "hard"]
    tollgate.done("limits", "set", "--plan", "pro", "usd/month=7.25")
    assert "usd/month 7.25" in tollgate.done("limits", "plans")
    assert "7.25" in tollgate.done("limits", "show", "--plan", "pro")
    tollgate.done("limits", "unset", "rich", "usd/day")
