from __future__ import annotations

import orjson
import pytest
from pydantic import ValidationError

from proxy.admin.keys import CreateKey
from proxy.admin.problem import KINDS, faults_of, problem
from proxy.errors import (
    BodyTooLarge,
    LedgerUnavailable,
    NoSuch,
    ProxyError,
    StoreError,
    TooMuch,
    WrongFields,
    WrongInput,
)


@pytest.mark.parametrize(
    ("error", "kind", "headers"),
    [
        (NoSuch("x"), "no_such", []),
        (StoreError("x"), "refused", []),
        (TooMuch("x"), "too_much", []),
        (WrongInput("x", "id"), "wrong_input", []),
        (LedgerUnavailable("x"), "ledger_unavailable", [(b"retry-after", b"5")]),
        (BodyTooLarge("x"), "request_too_large", [(b"connection", b"close")]),
        (ProxyError("x"), "internal_error", []),
    ],
)
def test_each_error_has_its_kind_its_status_and_its_headers(
    error: ProxyError | StoreError, kind: str, headers: list[tuple[bytes, bytes]]
) -> None:
    status, found, body = problem(error)
    assert status == KINDS[kind][0]
    assert found == [(b"content-type", b"application/problem+json"), *headers]
    said = orjson.loads(body)
    faults = {"errors": [{"field": "id", "detail": "x"}]} if kind == "wrong_input" else {}
    assert said == {"type": f"/docs#{kind}", "title": KINDS[kind][1], "status": status, "detail": "x"} | faults


def test_each_field_that_is_wrong_is_told_and_its_value_is_not() -> None:
    with pytest.raises(ValidationError) as caught:
        CreateKey.model_validate({"tenant_id": "acme", "models": ["a", ""], "key": 5, "trusted": "CANARY"})
    error = WrongFields(faults_of(caught.value))
    said = orjson.loads(problem(error)[2])
    assert error.field == "models.1"
    assert [one["field"] for one in said["errors"]] == ["models.1", "trusted", "key"]
    assert said["detail"].startswith("models.1: String should have at least 1 character; trusted: ")
    assert "CANARY" not in str(said)
