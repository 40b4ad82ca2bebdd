from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.routing import Route

from proxy.admin.description import describe
from proxy.admin.operations import OPERATIONS
from proxy.store import outbox
from proxy.store.ledger import record
from tests.admin.asking import TOKEN, operating
from tests.cli.conftest import settlement
from tests.payments.senders import HOOKS
from tests.running import tollgate

DESCRIPTION = describe(OPERATIONS)
#: What tests put there, so that not all that is asked for by an id is missing.
KNOWN = {"tenant_id": "acme", "plan": "pro", "event_id": "req_1"}
#: Who may ask is tested elsewhere; and what fits the description may still be no instant, no plan, or said twice.
NOT_CHECKED = [ignored_auth, positive_data_acceptance]


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(DESCRIPTION).validate()


def test_every_route_of_the_application_is_in_it_and_nothing_else(tmp_path: Path) -> None:
    described = {path for path in DESCRIPTION["paths"] if not path.startswith("/admin/")}
    with tollgate(tmp_path, **HOOKS) as server:
        routes = [route for route in server.app._web.routes if isinstance(route, Route) and route.path != "/admin"]
        assert {route.path for route in routes} == described
        for path in described:
            for method in DESCRIPTION["paths"][path]:
                status = httpx.request(method, f"{server.url}{path}").status_code
                assert status not in (404, 405), (method, path)
    assert {(method.upper(), path) for path in DESCRIPTION["paths"] for method in DESCRIPTION["paths"][path]} >= {
        (one.method, one.path) for one in OPERATIONS
    }
    assert "/v1/*" in DESCRIPTION["info"]["description"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description as a real server serves it, and that server."""
    upstream = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    with operating(tmp_path_factory.mktemp("described"), **upstream) as (server, operator):
        operator.done("PATCH", "/plans/pro/limits", json={"limits": ["tokens/month=5"]})
        operator.done("POST", "/tenants", 201, json={"id": "acme", "plan": "pro"})
        with server.app.database.transaction() as connection:
            record(connection, [settlement("req_1"), settlement("req_2")])
            outbox.refuse(connection, "req_1", "400: no meter")
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("name", [one.name for one in OPERATIONS])
def test_the_service_keeps_to_its_description(served: Any, name: str) -> None:
    """Whatever is asked, what is answered is what the description says, and nothing fails."""

    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(served.find_operation_by_id(name).as_strategy())
    def ask(case: schemathesis.Case[Any]) -> None:
        for part in case.path_parameters or {}:
            case.path_parameters[part] = KNOWN.get(part, case.path_parameters[part])
        case.call_and_validate(headers={"authorization": f"Bearer {TOKEN}"}, excluded_checks=NOT_CHECKED)

    ask()
