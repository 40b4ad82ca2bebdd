"""The descriptions that notifications, questions and answers are checked against."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.billing.contract import excerpt, faults_of_answer, faults_of_question
from tests.delivery.contract import load
from tests.payments import contract
from tests.payments.contract import BILLING, CREATED, INSTALL, STRIPE_EVENT, faults_of
from tests.payments.senders import openmeter_event, stripe_event


def whole(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name the document")
    return Path(os.environ[variable])


def test_an_excerpt_says_what_the_whole_document_says_of_v1() -> None:
    document = load(whole("OPENMETER_V1_YAML"))
    assert load(contract.TOLD) == contract.told(document)
    assert load(contract.V1[0]) == excerpt(document, contract.V1_OPERATIONS)


def test_an_excerpt_says_what_the_whole_document_says_of_v3() -> None:
    assert load(contract.V3[0]) == excerpt(load(whole("OPENMETER_V3_YAML")), contract.V3_OPERATIONS)


def test_the_check_refuses_what_nobody_sends() -> None:
    good = openmeter_event("invoice.created", status="draft")
    assert faults_of(CREATED, good) == []
    assert faults_of(CREATED, good | {"type": "invoice.paid"}), "OpenMeter has no such type"
    assert faults_of(CREATED, openmeter_event("invoice.created", status="open")), "a status of Stripe's"
    assert faults_of(STRIPE_EVENT, stripe_event("invoice.paid")) == []
    assert faults_of(STRIPE_EVENT, stripe_event("invoice.paid", created="2026-04-13T10:30:00Z"))
    assert faults_of_question(INSTALL, {"apiKey": "sk_test_1"}, contract.V1) == []
    assert faults_of_question(INSTALL, {"api_key": "sk_test_1"}, contract.V1), "a member of v3"
    assert faults_of_answer(BILLING, {"app_data": {"stripe": {"customer_id": "cus_1"}}}, contract.V3) == []
    assert faults_of_answer(BILLING, {"app_data": {"stripe": {"stripeCustomerId": "cus_1"}}}, contract.V3)
