from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.instants import Period
from proxy.model import BUCKETS, Units, Usage
from proxy.store.usage import Group, Line, Report
from proxy.web.report import COUNTS, counts_json, csv_cell, csv_text, lines_json

PERIOD = Period(0, 3_600_000)
ENDS = ["1970-01-01T00:00:00.000Z", "1970-01-01T01:00:00.000Z"]


def line(*values: str) -> Line:
    return Line(values, 6, Usage(1, 2, 3, 4, 5, 6, 7), Units(8, 9, 10), 3, 20, 2, 8)


def test_a_line_counts_by_openais_names_and_by_bucket() -> None:
    assert counts_json(line()) == {
        "requests": 6,
        "prompt_tokens": 10,
        "cached_tokens": 2,
        "completion_tokens": 18,
        "reasoning_tokens": 6,
        "total_tokens": 28,
        "buckets": dict(zip(BUCKETS, range(1, 8), strict=True)),
        "reported_requests": 3,
        "reported_tokens": 20,
        "estimated_requests": 2,
        "estimated_tokens": 8,
        "images": 8,
        "audio_ms": 9,
        "characters": 10,
    }


def test_csv_has_every_count_that_json_has_but_the_buckets() -> None:
    assert counts_json(line()).keys() - {"buckets"} == {*COUNTS}


def test_keys_have_their_names_and_those_that_are_not_to_be_told_are_null() -> None:
    report = Report([line("", "a"), line("key_1", "b")], line())
    groups = [Group.KEY, Group.MODEL]
    told = lines_json(report, groups, {"key_1": "ci"})
    assert [(one["key_id"], one["key_name"], one["model"]) for one in told] == [(None, None, "a"), ("key_1", "ci", "b")]
    header, *rows = csv.reader(csv_text(report, PERIOD, groups, {"key_1": "ci"}).splitlines())
    assert header == ["from", "to", "key_id", "key_name", "model", *COUNTS]
    assert [row[:5] for row in rows] == [[*ENDS, "", "", "a"], [*ENDS, "key_1", "ci", "b"]]


def test_without_groups_csv_has_the_totals() -> None:
    header, totals = csv.reader(csv_text(Report([line()], line()), PERIOD, []).splitlines())
    assert header == ["from", "to", *COUNTS]
    assert totals == [*ENDS, "6", "10", "2", "18", "6", "28", "3", "20", "2", "8", "8", "9", "10"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("gpt-4o", "gpt-4o"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("＝1", "'＝1"),
        ("\t=1", "\\t=1"),
        ("\r\n=1", "\\r\\n=1"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("ft:gpt-4o:acme::1", "ft:gpt-4o:acme::1"),
        ("é🙂", "é🙂"),
    ],
)
def test_no_spreadsheet_evaluates_a_cell_and_no_terminal_obeys_it(name: str, cell: str) -> None:
    assert csv_cell(name) == cell


@given(st.lists(st.text(), min_size=1))
def test_whatever_a_model_is_called_each_line_is_one_row(names: list[str]) -> None:
    report = Report([line(name) for name in names], line())
    _, *rows = csv.reader(csv_text(report, PERIOD, [Group.MODEL], line_end="\r\n").split("\r\n")[:-1])
    assert [row[2] for row in rows] == [csv_cell(name) for name in names]
    for row in rows:
        assert len(row) == 3 + len(COUNTS)
        assert row[2][:1] not in (*"=+-@\t\r\n",)
