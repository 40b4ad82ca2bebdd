from __future__ import annotations

import csv
from pathlib import Path

import pytest

from proxy.admin import desk
from proxy.store.usage import Bounds
from tests.admin.asking import Operator, operating
from tests.cli.conftest import settlement
from tests.running import Running
from tests.web.asking import APRIL, put


@pytest.fixture
def used(server: Running, tenant: str) -> str:
    put(server, *(settlement(f"{tenant}-{number}", subject=tenant, model=f"m{number % 2}") for number in range(3)))
    return tenant


def test_usage_is_told_by_what_is_asked_for(operator: Operator, used: str) -> None:
    found = operator.done("GET", "/usage", params={**APRIL, "tenant_id": used, "group_by": "model,day"})
    assert (found["from"], found["to"]) == ("2026-04-01T00:00:00.000Z", "2026-05-01T00:00:00.000Z")
    assert found["group_by"] == ["model", "day"]
    assert [(one["model"], one["day"], one["requests"]) for one in found["lines"]] == [
        ("m0", "2026-04-13", 2),
        ("m1", "2026-04-13", 1),
    ]
    assert "subject" not in found["lines"][0]
    assert (found["totals"]["requests"], found["limits"]) == (3, [])
    everybody = operator.done("GET", "/usage", params=APRIL)
    assert "limits" not in everybody
    assert used in {one["subject"] for one in everybody["lines"]}


def test_it_may_be_csv_with_the_groups_as_they_were_asked_for(operator: Operator, used: str) -> None:
    asked = {**APRIL, "tenant_id": used, "group_by": "day,model", "format": "csv"}
    answer = operator("GET", "/usage", params=asked)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, *rows = csv.reader(answer.text.splitlines())
    assert header[:5] == ["from", "to", "day", "model", "requests"]
    assert [row[2:5] for row in rows] == [["2026-04-13", "m0", "2"], ["2026-04-13", "m1", "1"]]
    nothing = operator("GET", "/usage", params=asked | {"from": "2020-01-01", "to": "2020-02-01"})
    assert next(csv.reader(nothing.text.splitlines())) == header


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "x"}, "from"),
        ({"from": "2026-05-01", "to": "2026-04-01"}, "from"),
        ({"to": "2026-04-01T00:00:00"}, "to"),
        ({"group_by": "colour"}, "group_by"),
        ({"format": "xml"}, "format"),
    ],
)
def test_a_question_that_cannot_be_names_its_parameter(operator: Operator, query: dict[str, str], field: str) -> None:
    said = operator.refused("GET", "/usage", 400, "wrong_input", params=query)
    assert said["errors"][0]["field"] == field


def test_usage_of_who_never_was_is_a_slip(operator: Operator) -> None:
    for unknown in ("nobody", ""):
        operator.refused("GET", "/usage", 404, "no_such", params={"tenant_id": unknown})


def test_more_than_an_answer_may_hold_is_refused(
    operator: Operator, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_BOUNDS", Bounds(1, 5.0))
    said = operator.refused("GET", "/usage", 400, "too_much", params=APRIL)
    assert "more than 1 rows" in said["detail"]


def test_dates_are_those_of_the_time_zone(tmp_path: Path) -> None:
    with operating(tmp_path, TOLLGATE_LIMITS__TIME_ZONE="Europe/Berlin") as (_, operator):
        assert operator.done("GET", "/usage", params=APRIL)["from"] == "2026-03-31T22:00:00.000Z"
