"""The descriptions that questions about entitlements, and their answers, are checked against."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.billing.contract import Operation, excerpt, faults_of_answer, faults_of_parameters
from tests.billing.granting import ACCESS, CUSTOMERS, V1, V1_OPERATIONS, V3, V3_OPERATIONS, VALUE_V1
from tests.delivery.contract import load

DOCUMENTS = [
    (V1[0], "OPENMETER_V1_YAML", V1_OPERATIONS),
    (V3[0], "OPENMETER_V3_YAML", V3_OPERATIONS),
    (V3[1], "KONNECT_V3_YAML", V3_OPERATIONS),
]


@pytest.mark.parametrize(("path", "variable", "operations"), DOCUMENTS)
def test_an_excerpt_says_what_the_whole_document_says(
    path: Path, variable: str, operations: tuple[Operation, ...]
) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name the document")
    assert load(path) == excerpt(load(Path(os.environ[variable])), operations)


def test_the_check_refuses_what_the_engines_refuse() -> None:
    assert faults_of_parameters(CUSTOMERS, {"filter[key][eq]": "user-001"}, V3) == []
    assert faults_of_parameters(CUSTOMERS, {"key": "user-001"}, V3), "a parameter of v1"
    assert faults_of_parameters(CUSTOMERS, {"filter[subject][eq]": "user-001"}, V3), "no such field"
    assert faults_of_answer(VALUE_V1, {"hasAccess": True, "balance": 12.5}, V1) == []
    assert faults_of_answer(VALUE_V1, {"has_access": True}, V1), "a member of v3"
    assert faults_of_answer(ACCESS, {"data": [{"feature_key": "a", "has_access": True}]}, V3), "no type"
