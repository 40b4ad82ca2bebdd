"""A metering engine that grants: a real server on a loopback socket that answers in both dialects.

Every question and every answer is checked against the descriptions, and a fault of either kind is in `faults`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.billing import contract
from tests.billing.contract import Operation
from tests.billing.engine import problem
from tests.running import serve

FEATURE = "ai_tokens"
MADE = "2026-01-01T00:00:00Z"

V1 = (Path(__file__).with_name("openmeter-v1-entitlements.yaml"),)
V3 = tuple(Path(__file__).with_name(f"{name}-v3-entitlements.yaml") for name in ("openmeter", "konnect"))
CUSTOMERS, ACCESS = ("/openmeter/customers", "get"), ("/openmeter/customers/{customerId}/entitlement-access", "get")
CUSTOMERS_V1, CUSTOMER_V1 = ("/api/v1/customers", "get"), ("/api/v1/customers/{customerIdOrKey}", "get")
VALUE_V1 = ("/api/v1/customers/{customerIdOrKey}/entitlements/{featureKey}/value", "get")
V1_OPERATIONS, V3_OPERATIONS = (CUSTOMERS_V1, CUSTOMER_V1, VALUE_V1), (CUSTOMERS, ACCESS)


@dataclass(slots=True)
class Customer:
    """A customer, and what it is granted: a balance (None: it is not counted), or nothing of this feature."""

    key: str
    subjects: tuple[str, ...] = ()
    granted: bool | None = True
    balance: float | None = None
    used: float = 0
    soft: bool = False
    number: int = 0

    @property
    def id(self) -> str:
        return f"01G65Z755AFWAKHE12NY{self.number:06d}"

    @property
    def left(self) -> float | None:
        return None if self.balance is None else max(0, self.balance - self.used)

    @property
    def has_access(self) -> bool:
        return bool(self.granted) and (self.left is None or self.left > 0 or self.soft)


class Granting:
    """Serves v1 below `v1` and v3 below `v3`. `answers` is asked before each answer, and may give one instead."""

    def __init__(self) -> None:
        self.customers: list[Customer] = []
        self.answers: Callable[[Request], Response | None] = lambda _: None
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.faults: list[str] = []
        self.url = ""

    def forget(self) -> None:
        """As it was at first."""
        self.customers.clear()
        self.asked.clear()
        self.tokens.clear()
        self.faults.clear()
        self.answers = lambda _: None

    def add(self, key: str, **given: Any) -> Customer:
        customer = Customer(key, **given, number=len(self.customers) + 1)
        self.customers.append(customer)
        return customer

    @property
    def v1(self) -> str:
        return f"{self.url}/api/v1"

    @property
    def v3(self) -> str:
        return f"{self.url}/api/v3/openmeter"

    @contextmanager
    def running(self, port: int = 0) -> Iterator[Granting]:
        app = Starlette(
            routes=[
                Route("/api/v3/openmeter/events", self._ingest, methods=["POST"]),
                Route("/api/v3/openmeter/customers", self._customers),
                Route("/api/v3/openmeter/customers/{id}/entitlement-access", self._access),
                Route("/api/v1/customers", self._customers_v1),
                Route("/api/v1/customers/{id}", self._customer_v1),
                Route("/api/v1/customers/{id}/entitlements/{feature}/value", self._value_v1),
            ],
            lifespan=_nothing,
        )
        with socket.create_server(("127.0.0.1", port)) as listener, serve(app, listener):
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield self

    async def _ingest(self, request: Request) -> Response:
        for event in orjson.loads(await request.body()):
            for one in self.customers:
                if event["subject"] in (one.key, *one.subjects):
                    one.used += event["data"]["total_tokens"]
        return Response(status_code=202)

    async def _customers(self, request: Request) -> Response:
        if (instead := self._instead(request, CUSTOMERS, V3)) is not None:
            return instead
        given = dict(request.query_params)
        key, subject = given.get("filter[key][eq]"), given.get("filter[usage_attribution_subject_key][eq]")
        found = [one for one in self.customers if one.key == key or (subject is not None and subject in one.subjects)]
        items = [
            {"id": one.id, "name": one.key, "key": one.key, "created_at": MADE, "updated_at": MADE}
            | {"usage_attribution": {"subject_keys": list(one.subjects)}}
            for one in found
        ]
        meta = {"page": {"size": 20, "number": 1, "total": len(items)}}
        return self._answer(CUSTOMERS, V3, {"data": items, "meta": meta})

    async def _access(self, request: Request) -> Response:
        if (instead := self._instead(request, ACCESS, V3)) is not None:
            return instead
        found = next((one for one in self.customers if one.id == request.path_params["id"]), None)
        if found is None:
            return problem(404, "no such customer")
        granted = [{"type": "static", "feature_key": "other", "has_access": False, "config": "{}"}]
        if found.granted is not None:
            kind = "boolean" if found.balance is None else "metered"
            granted.append({"type": kind, "feature_key": FEATURE, "has_access": found.has_access})
        return self._answer(ACCESS, V3, {"data": granted})

    async def _customers_v1(self, request: Request) -> Response:
        if (instead := self._instead(request, CUSTOMERS_V1, V1)) is not None:
            return instead
        subject = request.query_params["subject"].lower()
        number, size = int(request.query_params["page"]), int(request.query_params["pageSize"])
        found = [one for one in self.customers if any(subject in known.lower() for known in one.subjects)]
        items = [_v1(one) for one in found[(number - 1) * size : number * size]]
        page = {"items": items, "totalCount": len(found), "page": number, "pageSize": size}
        return self._answer(CUSTOMERS_V1, V1, page)

    async def _customer_v1(self, request: Request) -> Response:
        if (instead := self._instead(request, CUSTOMER_V1, V1)) is not None:
            return instead
        found = self._named(request)
        return problem(404, "no such customer") if found is None else self._answer(CUSTOMER_V1, V1, _v1(found))

    async def _value_v1(self, request: Request) -> Response:
        if (instead := self._instead(request, VALUE_V1, V1)) is not None:
            return instead
        found = self._named(request)
        if found is None:
            return problem(404, "no such customer")
        if found.granted is None or request.path_params["feature"] != FEATURE:
            return self._answer(VALUE_V1, V1, {"hasAccess": False})
        value: dict[str, Any] = {"hasAccess": found.has_access}
        if found.balance is not None:
            value |= {"balance": found.left, "usage": found.used, "totalAvailableGrantAmount": found.balance}
            value |= {"overage": max(0, found.used - found.balance)}
        return self._answer(VALUE_V1, V1, value)

    def _named(self, request: Request) -> Customer | None:
        named = request.path_params["id"]
        return next((one for one in self.customers if named in (one.id, one.key)), None)

    def _instead(self, request: Request, operation: Operation, documents: tuple[Path, ...]) -> Response | None:
        self.asked.append(request.url.path)
        self.tokens.add(request.headers.get("authorization", ""))
        self.faults += contract.faults_of_parameters(operation, _numbers(request), documents)
        return self.answers(request)

    def _answer(self, operation: Operation, documents: tuple[Path, ...], document: dict[str, Any]) -> Response:
        self.faults += contract.faults_of_answer(operation, document, documents)
        return Response(orjson.dumps(document), media_type="application/json")


def _v1(customer: Customer) -> dict[str, Any]:
    named = {"id": customer.id, "name": customer.key, "key": customer.key, "createdAt": MADE, "updatedAt": MADE}
    return named | {"usageAttribution": {"subjectKeys": list(customer.subjects)}}


def _numbers(request: Request) -> dict[str, Any]:
    """What the query says; a size is a number."""
    return {
        name: int(value) if name == "pageSize" and value.isdigit() else value
        for name, value in request.query_params.items()
    }


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield
