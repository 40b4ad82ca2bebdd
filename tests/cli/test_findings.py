"""How findings are kept to be told: the first of each kind in memory, all in a file."""

from __future__ import annotations

import io
from decimal import Decimal

import orjson
import pytest

from proxy.billing.comparison import Finding, Kind, Tally
from proxy.billing.meters import Difference
from proxy.cli.findings import Findings, print_json_report


def finding(kind: Kind, number: int) -> Finding:
    return Finding(kind, f"req_{number}", "acme", "prompt", 1_776_076_200_123, "words")


def difference(number: int) -> Difference:
    return Difference("total", 3_600 * number, "acme", "", Decimal("12.50"), Decimal(number))


def filled(findings: Findings, count: int) -> None:
    tally = Tally()
    for number in range(count):
        for kind in (Kind.MISSING, Kind.UNKNOWN):
            tally.findings[kind] += 1
            findings.add(finding(kind, number), tally)
        findings.add(difference(number), tally)


def test_the_first_of_each_kind_are_kept_however_many_there_are() -> None:
    findings = Findings(3)
    filled(findings, 1_000)
    assert [one.id for one in findings.shown if one.kind is Kind.MISSING] == ["req_0", "req_1", "req_2"]
    assert len(findings.shown) == 6
    assert (len(findings.differences), findings.difference_count) == (3, 1_000)


def test_all_of_them_are_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    spool = io.BytesIO()
    filled(Findings(1, spool), 100)
    print_json_report({"requests": 1}, spool)
    report = orjson.loads(capsys.readouterr().out)
    assert report["requests"] == 1
    assert len(report["findings"]) == 300
    missing, _, summed = report["findings"][:3]
    assert missing == {
        "kind": "missing",
        "id": "req_0",
        "subject": "acme",
        "type": "prompt",
        "time": "2026-04-13T10:30:00.123Z",
        "words": "words",
    }
    assert summed == {
        "kind": "sum",
        "meter": "total",
        "hour": "1970-01-01T00:00:00.000Z",
        "subject": "acme",
        "model": "",
        "ledger": "12.50",
        "engine": "0",
    }


def test_with_nothing_found_it_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_report({"requests": 0}, io.BytesIO())
    assert orjson.loads(capsys.readouterr().out) == {"requests": 0, "findings": []}
