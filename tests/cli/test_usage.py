from __future__ import annotations

import pytest
import typer

from proxy.cli.instants import iso, parse_instant
from proxy.cli.usage import period
from proxy.model import NO_USAGE, UsageSource
from tests.cli.conftest import Command, settlement

NOW_MS = 1_776_076_200_123  # 2026-04-13T10:30:00.123Z
HOUR_MS = 3_600_000
APRIL = ("--from", "2026-04-01", "--to", "2026-05-01")


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
    }
    assert (none["usage_source"], none["requests"], none["total_tokens"]) == ("none", 1, 0)
    assert (other["subject"], other["endpoint"], other["total_tokens"]) == ("other", "/v1/responses", 247)
    totals = report["totals"]
    assert (totals["requests"], totals["total_tokens"], totals["buckets"]["reasoning"]) == (4, 741, 60)

    table = tollgate.done("usage", *APRIL)
    assert table.startswith("Usage from 2026-04-01T00:00:00Z until 2026-05-01T00:00:00Z\n")
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


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (None, None, ("2026-04-01", "2026-05-01")),
        ("2026-02-03", None, ("2026-02-03", "2026-05-01")),
        (None, "2026-02-03", ("2026-02-01", "2026-02-03")),
        (None, "2026-03-01", ("2026-02-01", "2026-03-01")),
        # An hour belongs where it begins, so that periods that meet count each hour once.
        ("2026-04-13T10:30:00Z", "2026-04-13T11:30:00+00:00", ("2026-04-13T11:00:00Z", "2026-04-13T12:00:00Z")),
    ],
)
def test_the_period_is_made_of_whole_hours(begin: str | None, end: str | None, expected: tuple[str, str]) -> None:
    assert period(begin, end, NOW_MS) == (parse_instant(expected[0]), parse_instant(expected[1]))


def test_an_hour_that_is_cut_is_counted_where_it_begins(tollgate: Command) -> None:
    tollgate.record(settlement("req_1"))  # at 10:30:00.123
    before = tollgate.json("usage", "--from", "2026-04-13", "--to", "2026-04-13T10:10:00Z")
    after = tollgate.json("usage", "--from", "2026-04-13T10:10:00Z", "--to", "2026-04-14")
    assert (before["to"], before["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 1)
    assert (after["from"], after["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 0)


@pytest.mark.parametrize(
    ("begin", "end"), [("2026-05-01", "2026-04-01"), ("2026-05-01", "2026-05-01"), ("x", None), (None, "9999-12-31")]
)
def test_a_period_without_an_hour_and_a_date_that_is_none_are_usage_errors(begin: str | None, end: str | None) -> None:
    with pytest.raises(typer.BadParameter):
        period(begin, end, NOW_MS)


def test_the_usage_error_names_the_option(tollgate: Command) -> None:
    assert "'x': write a date" in tollgate.refused("usage", "--from", "x", code=2)
    assert "--from" in tollgate.refused("usage", "--from", "2026-05-01", "--to", "2026-04-01", code=2)
    assert "--to" in tollgate.refused("usage", "--to", iso(NOW_MS).rstrip("Z"), code=2)
