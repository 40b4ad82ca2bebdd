from __future__ import annotations

import csv

import pytest

from proxy.cli.instants import iso, parse_instant
from proxy.limits import Written
from proxy.model import NO_USAGE, Cost, CostState, Units, Usage, UsageSource
from proxy.money import PICO
from proxy.store.limits import set_limit
from tests.cli.conftest import Command, settlement

NOW_MS = 1_776_076_200_123  # 2026-04-13T10:30:00.123Z
APRIL = ("--from", "2026-04-01", "--to", "2026-05-01")
ALSO_ON_A_SERVER = True


def test_totals_are_told_per_tenant_model_endpoint_and_source(tollgate: Command) -> None:
    tollgate.record(
        settlement("req_1"),
        settlement("req_2", key_id="key_2"),
        settlement("req_3", usage=NO_USAGE, usage_source=UsageSource.NONE),
        settlement("req_4", subject="other", model="[bold]x[/bold]\x1b[2J", endpoint="/v1/responses"),
        settlement("req_5", time_ms=parse_instant("2026-03-31T23:59:59.999Z")),
        settlement("req_6", time_ms=parse_instant("2026-05-01")),
    )
    report = tollgate.json("usage", *APRIL)
    assert (report["from"], report["to"]) == ("2026-04-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z")
    none, reported, other = report["lines"]
    assert reported == {
        "subject": "acme",
        "model": "gpt-4o-mini-2024-07-18",
        "endpoint": "/v1/chat/completions",
        "usage_source": "reported",
        "requests": 2,
        "prompt_tokens": 104,
        "completion_tokens": 390,
        "total_tokens": 494,
        "cached_tokens": 24,
        "reasoning_tokens": 40,
        "buckets": {
            "uncached_input": 80,
            "cached_input": 24,
            "cache_write": 0,
            "audio_input": 0,
            "text_output": 350,
            "reasoning": 40,
            "audio_output": 0,
        },
        "reported_requests": 2,
        "reported_tokens": 494,
        "estimated_requests": 0,
        "estimated_tokens": 0,
        "images": 0,
        "audio_ms": 0,
        "characters": 0,
    }
    assert (none["usage_source"], none["requests"], none["total_tokens"]) == ("none", 1, 0)
    assert (other["subject"], other["endpoint"], other["total_tokens"]) == ("other", "/v1/responses", 247)
    totals = report["totals"]
    assert (totals["requests"], totals["total_tokens"], totals["buckets"]["reasoning"]) == (4, 741, 60)

    table = tollgate.done("usage", *APRIL)
    heading, by_source = table.splitlines()[:2]
    assert heading == "Usage from 2026-04-01T00:00:00Z until 2026-05-01T00:00:00Z"
    assert by_source == "Tokens: 741 reported, 0 estimated"
    assert "[bold]x[/bold]\\x1b[2J" in table  # neither rich nor the terminal obeys a client's model name
    assert table.rstrip().splitlines()[-1].split() == ["total", "4", "156", "36", "585", "60", "741"]


def test_one_tenants_usage_is_its_own(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "quiet")
    tollgate.record(settlement("req_1"), settlement("req_2", subject="other"))
    assert tollgate.json("usage", "other", *APRIL)["totals"]["requests"] == 1
    assert tollgate.json("usage", "quiet", *APRIL)["totals"]["total_tokens"] == 0
    assert "There was no usage." in tollgate.done("usage", "quiet", *APRIL)
    assert tollgate.done("usage", "other", *APRIL).startswith("Usage of other from 2026-04-01")


def test_a_subject_that_never_was_is_a_slip_and_one_that_was_once_is_not(tollgate: Command) -> None:
    tollgate.record(settlement("req_1", subject="user-of-a-trusted-key"))
    for unknown in ("nobody", ""):  # an empty variable of a script is not everybody
        assert tollgate.refused("usage", unknown, *APRIL) == f"there is no tenant {unknown}".strip()
    assert tollgate.json("usage", "user-of-a-trusted-key", "--from", "2020-01-01", "--to", "2020-02-01")["lines"] == []


def test_the_default_is_the_current_month(tollgate: Command) -> None:
    report = tollgate.json("usage")
    assert report["from"].endswith("-01T00:00:00.000Z")
    assert report["to"].endswith("-01T00:00:00.000Z")
    assert report["lines"] == []
    assert set(report["totals"].pop("buckets").values()) | set(report["totals"].values()) == {0}


def test_an_hour_that_is_cut_is_counted_where_it_begins(tollgate: Command) -> None:
    tollgate.record(settlement("req_1"))  # at 10:30:00.123
    before = tollgate.json("usage", "--from", "2026-04-13", "--to", "2026-04-13T10:10:00Z")
    after = tollgate.json("usage", "--from", "2026-04-13T10:10:00Z", "--to", "2026-04-14")
    assert (before["to"], before["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 1)
    assert (after["from"], after["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 0)


def test_the_usage_error_names_the_option(tollgate: Command) -> None:
    assert "'x': write a date" in tollgate.refused("usage", "--from", "x", code=2)
    assert "--from" in tollgate.refused("usage", "--from", "2026-05-01", "--to", "2026-04-01", code=2)
    assert "--to" in tollgate.refused("usage", "--to", iso(NOW_MS).rstrip("Z"), code=2)


def test_reported_and_estimated_are_apart_by_line_by_column_and_in_all(tollgate: Command) -> None:
    guessed = {"usage_source": UsageSource.ESTIMATED, "usage": Usage(uncached_input=3, text_output=4)}
    tollgate.record(settlement("req_1"), settlement("req_2", **guessed), settlement("req_3", key_id="key_2", **guessed))
    table = tollgate.done("usage", *APRIL)
    assert table.splitlines()[1] == "Tokens: 247 reported, 14 estimated"
    assert "estimated          2        6" in table
    by_key = tollgate.done("usage", *APRIL, "--group-by", "key").rstrip().splitlines()
    assert by_key[2].split()[-2:] == ["reported", "estimated"]
    assert by_key[4].split() == ["key_1", "2", "55", "12", "199", "20", "254", "247", "7"]
    assert by_key[-1].split() == ["total", "3", "58", "12", "203", "20", "261", "247", "14"]
    totals = tollgate.json("usage", *APRIL)["totals"]
    assert (totals["reported_requests"], totals["reported_tokens"]) == (1, 247)
    assert (totals["estimated_requests"], totals["estimated_tokens"]) == (2, 14)


@pytest.mark.parametrize("names", ["tenant", "model,day", "key", "day,source,endpoint,model,tenant,key"])
def test_any_groups_can_be_told_apart_and_their_sums_are_the_totals(tollgate: Command, names: str) -> None:
    tollgate.record(
        *(
            settlement(
                f"req_{number}",
                key_id=f"key_{number % 2}",
                model=f"model-{number % 3}",
                time_ms=NOW_MS + number * 5_000_000,
                units=Units(images=number),
            )
            for number in range(20)
        )
    )
    report = tollgate.json("usage", *APRIL, "--group-by", names)
    fields = {"tenant": "subject", "key": "key_id", "source": "usage_source"}
    assert {fields.get(name, name) for name in names.split(",")} == report["lines"][0].keys() - report["totals"].keys()
    for count in ("requests", "total_tokens", "reported_tokens", "images"):
        assert sum(line[count] for line in report["lines"]) == report["totals"][count] > 0
    if "day" in names:
        assert {line["day"] for line in report["lines"]} == {"2026-04-13", "2026-04-14"}


def test_csv_has_one_row_a_line_and_the_period_in_each(tollgate: Command) -> None:
    formula = "=cmd|' /C calc'!A0"
    tollgate.record(settlement("req_1"), settlement("req_2", model=formula), settlement("req_3", model='"'))
    said = tollgate.done("usage", *APRIL, "--group-by", "model", "--csv")
    header, *rows = csv.reader(said.splitlines())
    assert header[:4] == ["from", "to", "model", "requests"]
    assert [row[2] for row in rows] == ['"', f"'{formula}", "gpt-4o-mini-2024-07-18"]
    assert [dict(zip(header, row, strict=True))["total_tokens"] for row in rows] == ["247"] * 3
    assert {tuple(row[:2]) for row in rows} == {("2026-04-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z")}
    nothing = tollgate.done("usage", "--csv")
    assert len(nothing.splitlines()) == 1


def test_one_tenants_limits_are_told_with_its_usage(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    with tollgate.database.transaction() as connection:
        set_limit(connection, "tenant", "acme", Written.parse("tokens/total=1000"))
    tollgate.record(settlement("req_1"), settlement("req_2", subject="other"))
    (limit,) = tollgate.json("usage", "acme")["limits"]
    assert (limit["limit"], limit["value"], limit["used"]) == ("tokens/total", 1000, 247)
    assert "tokens/total" in tollgate.done("usage", "acme")
    assert tollgate.json("usage", "other")["limits"] == []
    assert "limits" not in tollgate.json("usage")


def test_days_and_dates_are_those_of_the_time_zone(tollgate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_LIMITS__TIME_ZONE", "Europe/Berlin")
    tollgate.record(settlement("req_1", time_ms=parse_instant("2026-04-13T22:30:00Z")))
    report = tollgate.json("usage", "--from", "2026-04-14", "--to", "2026-04-15", "--group-by", "day")
    assert report["from"] == "2026-04-13T22:00:00.000Z"
    assert [line["day"] for line in report["lines"]] == ["2026-04-14"]


def test_groups_that_are_none_and_two_formats_at_once_are_usage_errors(tollgate: Command) -> None:
    assert "'colour': use one or more of tenant, model" in tollgate.refused("usage", "--group-by", "colour", code=2)
    assert "--csv and --json" in tollgate.refused("usage", "--csv", "--json", code=2)


def test_what_it_cost_is_told_with_what_is_not_in_it(tollgate: Command) -> None:
    tollgate.record(
        settlement("req_1", cost=Cost(123_400_000, CostState.PRICED)),
        settlement("req_2", cost=Cost(2 * PICO, CostState.PRICED)),
        settlement("req_3", subject="other", cost=Cost(0, CostState.FREE)),
        settlement("req_4", subject="other", model="mine", cost=Cost(0, CostState.UNPRICED)),
        settlement("req_5", subject="old"),
    )
    found = tollgate.json("usage", "--cost", "--group-by", "tenant", *APRIL)
    names = ("cost_usd", "priced_requests", "free_requests", "unpriced_requests", "unpriced_tokens")
    told = {line["subject"]: tuple(line[name] for name in names) for line in [*found["lines"]]}
    assert told == {
        "acme": ("2.0001234", 2, 0, 0, 0),
        "other": ("0", 0, 1, 1, 247),
        "old": ("0", 0, 0, 0, 0),
    }
    assert tuple(found["totals"][name] for name in names) == ("2.0001234", 2, 1, 1, 247)
    assert "cost_usd" not in tollgate.json("usage", *APRIL)["totals"]

    said = tollgate.done("usage", "--cost", "--group-by", "tenant", *APRIL)
    assert "1 requests have no price and are not in it: see tollgate prices unpriced" in said
    assert "1 requests are not in it: they were recorded before costs were" in said
    assert said.rstrip().splitlines()[-1].split() == ["total", "5", "1,235", "2.0001234", "2", "1", "1", "247"]

    rows = [*csv.DictReader(tollgate.done("usage", "--cost", "--csv", "--group-by", "tenant", *APRIL).splitlines())]
    assert [row["cost_usd"] for row in rows] == ["2.0001234", "0", "0"]
    (total,) = csv.DictReader(
        tollgate.done("usage", "acme", "--cost", "--csv", "--group-by", "day", *APRIL).splitlines()
    )
    assert (total["cost_usd"], total["priced_requests"]) == ("2.0001234", "2")


def test_a_limit_in_money_is_told_in_dollars(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")
    tollgate.done("limits", "set", "acme", "usd/total=5")
    tollgate.record(settlement("req_1", cost=Cost(PICO // 4, CostState.PRICED)))
    (limit,) = tollgate.json("usage", "acme", *APRIL)["limits"]
    assert (limit["value"], limit["used"], limit["remaining"]) == ("5", "0.25", "4.75")
