from __future__ import annotations

import pytest

from proxy.model import Cost, CostState
from tests.cli.conftest import Command, settlement

APRIL = ("--from", "2026-04-01", "--to", "2026-05-01")
OWN = """
[[price]]
model = "gpt-4o"
from = 2026-06-01
input_per_million = 0.0000025
output_per_million = "10"
[[price.tiers]]
above_input_tokens = 1000
input_per_million = "5"
"""


@pytest.fixture
def own(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    (tollgate.directory / "prices.toml").write_text(OWN)
    monkeypatch.setenv("TOLLGATE_PRICES__FILE", "prices.toml")
    return tollgate


def test_a_price_is_shown_with_where_it_comes_from(tollgate: Command) -> None:
    shown = tollgate.json("prices", "show", "gpt-4o-mini-2024-07-18", "--provider", "openai", "--at", "2026-04-13")
    assert shown["origin"].startswith("genai-prices ")
    assert shown["origin"].endswith(": openai/gpt-4o-mini")
    assert (shown["state"], shown["from"], shown["at"]) == ("priced", None, "2026-04-13T00:00:00.000Z")
    (step,) = shown["prices"]
    assert (step["above_input_tokens"], step["input_per_million"], step["cached_input_per_million"]) == (
        None,
        "0.15",
        "0.075",
    )
    said = tollgate.done("prices", "show", "gpt-4o-mini", "--provider", "openai")
    assert [line.split() for line in said.splitlines()[-3:]] == [
        ["input", "per", "million", "0.15"],
        ["cached", "input", "per", "million", "0.075"],
        ["output", "per", "million", "0.6"],
    ]


def test_what_is_free_and_what_is_not_known_are_told_apart(tollgate: Command) -> None:
    assert tollgate.json("prices", "show", "gpt-4o")["origin"] == "the sandbox"
    assert "free" in tollgate.done("prices", "show", "gpt-4o")
    unknown = tollgate.json("prices", "show", "mine", "--provider", "openai")
    assert (unknown["state"], unknown["prices"]) == ("unpriced", [])
    assert "not known" in tollgate.done("prices", "show", "mine\x1b[2J", "--provider", "openai")


def test_own_prices_go_before_the_list_from_their_date_on(own: Command) -> None:
    before = own.json("prices", "show", "gpt-4o", "--provider", "openai", "--at", "2026-05-31T23:59:59Z")
    after = own.json("prices", "show", "gpt-4o", "--provider", "openai", "--at", "2026-06-01")
    assert (before["to"], before["prices"][0]["input_per_million"]) == ("2026-06-01T00:00:00.000Z", "2.5")
    assert after["origin"] == "prices.toml: line 3: price 1: model = gpt-4o"
    assert [step["above_input_tokens"] for step in after["prices"]] == [None, 1000]
    assert [step["input_per_million"] for step in after["prices"]] == ["0.0000025", "5"]
    said = own.done("prices", "show", "gpt-4o", "--at", "2026-06-01")
    assert "1,000 input tokens" in said
    assert "from 2026-06-01T00:00:00.000Z until further notice" in said


def test_a_wrong_date_is_told(tollgate: Command) -> None:
    assert "--at" in tollgate.refused("prices", "show", "gpt-4o", "--at", "soon", code=2)


def test_check_config_questions_an_odd_price_and_refuses_a_wrong_one(own: Command) -> None:
    result = own("check-config")
    assert result.exit_code == 0
    assert result.stderr.startswith(
        "tollgate: prices.toml: line 5: price 1: input_per_million: 0.0000025 dollars for a"
    )
    assert result.stderr.count("\n") == 1
    assert "prices.file = prices.toml" in result.stdout
    (own.directory / "prices.toml").write_text("[[price]]\nmodel = 3\n")
    words = "prices.file (TOLLGATE_PRICES__FILE): prices.toml: line 2: price 1: model: name it"
    for command in (("check-config",), ("prices", "show", "x")):
        assert own.refused(*command, code=2).startswith(words)
    started = own.process("serve", "--port", "0", env={"TOLLGATE_PRICES__FILE": "prices.toml"})
    assert started.returncode == 2
    assert started.stderr.startswith(f"tollgate: {words}")


def test_models_without_a_price_are_listed(tollgate: Command) -> None:
    unpriced = Cost(0, CostState.UNPRICED)
    tollgate.record(
        settlement("1", model="mine", cost=unpriced),
        settlement("2", model="mine", cost=unpriced),
        settlement("3", model="[b]theirs", cost=unpriced),
        settlement("4", cost=Cost(5, CostState.PRICED)),
        settlement("5", model="old"),
    )
    assert tollgate.json("prices", "unpriced", *APRIL) == [
        {"model": "mine", "requests": 2, "tokens": 494},
        {"model": "[b]theirs", "requests": 1, "tokens": 247},
    ]
    assert "[b]theirs" in tollgate.done("prices", "unpriced", *APRIL)
    assert "Every model that was used has a price." in tollgate.done("prices", "unpriced", "--from", "2026-05-01")
