"""A metering engine that collects by Stripe: a real server on a loopback socket, v3 and the one call of v1.

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
from starlette.routing import Mount, Route

from tests.billing import contract, granting
from tests.billing.contract import Operation
from tests.payments.contract import APPS, BILLING, INSTALL, PROFILES, V1, V3
from tests.running import serve

MADE = {"created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
STRIPE, SANDBOX = "01G65Z755AFWAKHE12NY000AA1", "01G65Z755AFWAKHE12NY000AA2"
_CAPABILITY = {
    "type": "collectPayments",
    "key": "stripe_collect_payments",
    "name": "Collect",
    "description": "Collects",
}


@dataclass(slots=True)
class Customer:
    """A customer, with what is known of its way to pay; `profile` is a billing profile's id, empty for the default."""

    key: str
    subjects: tuple[str, ...] = ()
    stripe_customer: str = ""
    payment_method: str = ""
    profile: str = ""
    deleted: bool = False
    number: int = 0

    @property
    def id(self) -> str:
        return f"01G65Z755AFWAKHE12NY{self.number:06d}"


class Collecting:
    """Serves v3 below `v3`, v1 below its own path, and v3 as Konnect does below `konnect`."""

    def __init__(self) -> None:
        self.customers: list[Customer] = []
        self.apps: list[dict[str, Any]] = [_app("sandbox", SANDBOX)]
        self.profiles: list[dict[str, Any]] = [profile("Sandbox", SANDBOX, default=True)]
        #: Asked before each answer; may give one instead.
        self.answers: Callable[[Request], Response | None] = lambda _: None
        self.asked: list[str] = []
        self.installed: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.url = ""

    def add(self, key: str, **given: Any) -> Customer:
        customer = Customer(key, **given, number=len(self.customers) + 1)
        self.customers.append(customer)
        return customer

    def install(self, *, key: str = "sk_test_0000", status: str = "ready") -> None:
        """With a billing profile of its own, in the sandbox's place."""
        masked = f"{key[:8]}***{key[-3:]}"
        self.apps.append(
            _app("stripe", STRIPE, status) | {"account_id": "acct_1", "livemode": False, "masked_api_key": masked}
        )
        self.profiles = [profile("Sandbox", SANDBOX), profile("Stripe", STRIPE, default=True)]

    @property
    def v3(self) -> str:
        return f"{self.url}/api/v3/openmeter"

    @property
    def konnect(self) -> str:
        return f"{self.url}/v3/openmeter"

    @contextmanager
    def running(self) -> Iterator[Collecting]:
        v3 = [
            Route("/apps", self._apps),
            Route("/profiles", self._profiles),
            Route("/customers", self._customers),
            Route("/customers/{id}/billing", self._billing),
        ]
        install = "/api/v1/marketplace/listings/stripe/install/apikey"
        app = Starlette(
            routes=[
                Mount("/api/v3/openmeter", routes=v3),
                Mount("/v3/openmeter", routes=v3),
                Route(install, self._install, methods=["POST"]),
            ],
            lifespan=_nothing,
        )
        with socket.create_server(("127.0.0.1", 0)) as listener, serve(app, listener):
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield self

    async def _apps(self, request: Request) -> Response:
        return self._page(request, APPS, V3, self.apps)

    async def _profiles(self, request: Request) -> Response:
        return self._page(request, PROFILES, V3, self.profiles)

    async def _customers(self, request: Request) -> Response:
        items = [
            {"id": one.id, "key": one.key, "name": one.key, "usage_attribution": {"subject_keys": list(one.subjects)}}
            | MADE
            | ({"deleted_at": "2026-02-01T00:00:00Z"} if one.deleted else {})
            for one in self.customers
        ]
        return self._page(request, granting.CUSTOMERS, granting.V3, items)

    async def _billing(self, request: Request) -> Response:
        one = next(one for one in self.customers if one.id == request.path_params["id"])
        ids = {"customer_id": one.stripe_customer, "default_payment_method_id": one.payment_method}
        document: dict[str, Any] = {"app_data": {"stripe": {name: value for name, value in ids.items() if value}}}
        if one.profile:
            document["billing_profile"] = {"id": one.profile}
        return self._answer(request, BILLING, V3, document)

    async def _install(self, request: Request) -> Response:
        question = orjson.loads(await request.body())
        self.faults += contract.faults_of_question(INSTALL, question, V1)
        self.installed.append(question)
        if (instead := self._instead(request)) is not None:
            return instead
        self.install(key=question["apiKey"])
        listing = {"type": "stripe", "name": "Stripe", "description": "Stripe", "capabilities": [_CAPABILITY]}
        app = {
            "id": STRIPE,
            "type": "stripe",
            "name": question["name"],
            "status": "ready",
            "livemode": False,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
            "stripeAccountId": "acct_1",
            "maskedAPIKey": "sk_test_***000",
            "listing": listing | {"installMethods": ["with_api_key"]},
        }
        document = {"app": app, "defaultForCapabilityTypes": ["collectPayments"]}
        self.faults += contract.faults_of_answer(INSTALL, document, V1)
        return Response(orjson.dumps(document), media_type="application/json")

    def _page(
        self, request: Request, operation: Operation, documents: tuple[Path, ...], items: list[dict[str, Any]]
    ) -> Response:
        given = dict(request.query_params)
        self.faults += contract.faults_of_parameters(operation, given, documents)
        size, number = int(given["page[size]"]), int(given["page[number]"])
        page = {"size": size, "number": number, "total": len(items)}
        document = {"data": items[(number - 1) * size : number * size], "meta": {"page": page}}
        return self._answer(request, operation, documents, document)

    def _answer(
        self, request: Request, operation: Operation, documents: tuple[Path, ...], document: dict[str, Any]
    ) -> Response:
        if (instead := self._instead(request)) is not None:
            return instead
        self.faults += contract.faults_of_answer(operation, document, documents)
        return Response(orjson.dumps(document), media_type="application/json")

    def _instead(self, request: Request) -> Response | None:
        self.asked.append(f"{request.method} {request.url.path}")
        return self.answers(request)


def profile(name: str, app: str, *, default: bool = False, method: str = "charge_automatically") -> dict[str, Any]:
    return {
        "id": f"01G65Z755AFWAKHE12NYPR{len(name):04d}",
        "name": name,
        "default": default,
        "supplier": {"name": "ACME"},
        "apps": {kind: {"id": app} for kind in ("tax", "invoicing", "payment")},
        "workflow": {"payment": {"collection_method": method}},
        **MADE,
    }


def _app(kind: str, app_id: str, status: str = "ready") -> dict[str, Any]:
    definition = {"type": kind, "name": kind, "description": kind, "capabilities": [], "install_methods": []}
    return {"id": app_id, "type": kind, "name": kind.title(), "status": status, "definition": definition, **MADE}


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield
