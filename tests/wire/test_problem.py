"""What a metering engine says where an answer is no success."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.problem import RETRY_AFTER_MAX_S, ahead_s, problem, readable, retry_after_s

json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


def test_both_shapes_of_a_report_are_read_in_one_line() -> None:
    invalid = {"field": "filter[time]", "rule": "format", "reason": "no offset", "source": "query"}
    validation = {"code": "key_mismatch", "message": "no such feature", "field": "$.phases[0]"}
    assert problem(orjson.dumps({"detail": "Bad Request: no", "invalid_parameters": [invalid]})) == (
        "Bad Request: no; filter[time]: format: no offset"
    )
    assert problem(orjson.dumps({"title": "Bad Request", "extensions": {"validationErrors": [validation]}})) == (
        "Bad Request; $.phases[0]: key_mismatch: no such feature"
    )
    assert problem(b"<html>") == problem(b"[]") == problem(b"{}") == ""


@given(json)
def test_whatever_is_sent_is_no_trouble(report: object) -> None:
    assert isinstance(problem(orjson.dumps(report)), str)
    members = ("detail", "title", "invalid_parameters", "extensions")
    assert isinstance(problem(orjson.dumps(dict.fromkeys(members, report))), str)


@given(st.text())
def test_what_is_readable_is_one_line(text: str) -> None:
    assert readable(text).isprintable()
    assert "  " not in readable(text)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("86400", RETRY_AFTER_MAX_S),
        ("Mon, 13 Apr 2026 10:30:07 GMT", 7.0),
        ("Mon, 13 Apr 2026 10:29:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
    ],
)
def test_when_to_come_back_is_seconds_or_a_date(value: str, wait_s: float | None) -> None:
    assert retry_after_s(value, now_s=1_776_076_200.0) == wait_s


def test_a_date_is_ahead_of_now_or_behind() -> None:
    assert ahead_s("Mon, 13 Apr 2026 10:30:07 GMT", now_s=1_776_076_200.5) == 6.5
    assert ahead_s("Mon, 13 Apr 2026 12:29:00 +0200", now_s=1_776_076_200.0) == -60
    assert ahead_s("", now_s=0) is ahead_s("yesterday", now_s=0) is None
