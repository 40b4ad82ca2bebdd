from __future__ import annotations

import pytest

from proxy.admin.settlements import SETTLEMENTS_MAX
from proxy.store.unrecorded import Unrecorded, Way, line_of
from tests.admin.asking import Operator
from tests.cli.conftest import settlement


def line(event_id: str, way: Way = Way.PLAIN) -> str:
    return line_of(Unrecorded(settlement(event_id, response_id=f"resp_{event_id}"), way))


def test_settlements_are_taken_in_once(operator: Operator) -> None:
    lines = [line("req_1"), f"2026-04-13T10:30:01.5Z stderr F {line('req_2')}", line("req_1")]
    assert operator.done("POST", "/events/import", json={"lines": lines}) == {"imported": 2, "known": 1}
    assert operator.done("POST", "/events/import", json={"lines": lines}) == {"imported": 0, "known": 3}
    assert operator.done("GET", "/events/req_1")["state"] == "pending"
    later = {"lines": [line("req_3", Way.LATER)]}
    assert operator.done("POST", "/events/import", json=later) == {"imported": 1, "known": 0}
    operator.refused("GET", "/events/req_3", 404, "no_such")


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ([line("req_8"), "hello"], "lines.1"),
        ([line("req_8"), line("req_9")[:-40]], "lines.1"),
        ([line("req_8")] * (SETTLEMENTS_MAX + 1), "lines"),
        (["x" * 20_000], "lines.0"),
    ],
)
def test_a_damaged_line_is_named_and_none_is_taken_in(operator: Operator, lines: list[str], field: str) -> None:
    said = operator.refused("POST", "/events/import", 400, "wrong_input", json={"lines": lines})
    assert said["errors"][0]["field"] == field
    operator.refused("GET", "/events/req_8", 404, "no_such")
