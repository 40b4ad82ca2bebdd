"""The descriptions that questions and answers are checked against."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.billing.contract import (
    EVENTS,
    KONNECT,
    METERS,
    OPENMETER,
    QUERY,
    excerpt,
    faults_of_answer,
    faults_of_parameters,
    faults_of_question,
)
from tests.delivery.contract import load


@pytest.mark.parametrize(("path", "variable"), [(OPENMETER, "OPENMETER_V3_YAML"), (KONNECT, "KONNECT_V3_YAML")])
def test_an_excerpt_says_what_the_whole_document_says(path: Path, variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name the document")
    assert load(path) == excerpt(load(Path(os.environ[variable])))


def test_the_check_refuses_what_the_engines_refuse() -> None:
    good = {"filter[time][gte]": "2026-04-13T10:00:00Z", "page[size]": "100", "sort": "time asc"}
    assert faults_of_parameters(EVENTS, good) == []
    assert faults_of_parameters(EVENTS, {"filter[subject][oeq]": "a,b", "page[after]": "x"}) == []
    assert faults_of_parameters(EVENTS, {"limit": "100"}), "a parameter of v1"
    assert faults_of_parameters(EVENTS, {"filter[model][eq]": "x"}), "no such field"
    assert faults_of_parameters(EVENTS, {"filter[id][like]": "x"}), "no such operator"
    assert faults_of_parameters(EVENTS, {"page[number]": "1"}), "cursors, not numbers"
    both = {"filter[time][gte]": "2026-04-13T10:00:00Z", "filter[time][lt]": "2026-04-13T11:00:00Z"}
    (fault,) = faults_of_parameters(EVENTS, both)
    assert fault.startswith("konnect"), "Konnect takes one comparison for each field"
    assert faults_of_parameters(METERS, {"page[number]": "1", "page[size]": "100"}) == []
    assert faults_of_question(QUERY, {"granularity": "PT1H"}) == []
    assert faults_of_question(QUERY, {"windowSize": "HOUR"}), "a member of v1"


def test_the_check_knows_what_answers_look_like() -> None:
    page = {"size": 100, "next": None, "previous": None}
    assert faults_of_answer(EVENTS, {"data": [], "meta": {"page": page}}) == []
    assert faults_of_answer(EVENTS, {"data": [], "meta": {"page": {"size": 100}}})
    assert faults_of_answer(EVENTS, [])
    row = {"value": "12", "from": "2026-04-13T10:00:00Z", "to": "2026-04-13T11:00:00Z", "dimensions": {"subject": "a"}}
    assert faults_of_answer(QUERY, {"data": [row]}) == []
    assert faults_of_answer(QUERY, {"data": [row | {"value": 12}]}), "numbers are text"
