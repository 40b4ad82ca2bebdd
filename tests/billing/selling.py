"""A metering engine that sells: a real server on a loopback socket that has meters, features, plans, customers and
subscriptions, and is as strict as OpenMeter v3 and Konnect are.

Every question and every answer is checked against the descriptions, and a fault of either kind is in `faults`. What it
has can be read in v1 as well, in which the official client speaks.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.billing import contract
from tests.billing.dialect_v1 import answer_v1
from tests.billing.engine import problem
from tests.billing.rules import broken_rules, dimensions_fault
from tests.running import serve

Item = dict[str, Any]

OPENMETER = Path(__file__).with_name("openmeter-v3-selling.yaml")
KONNECT = Path(__file__).with_name("konnect-v3-selling.yaml")
DOCUMENTS = (OPENMETER, KONNECT)

_ROOT = "/openmeter"
OPERATIONS = tuple(
    (f"{_ROOT}{path}", method)
    for path, methods in {
        "/meters": ("get", "post"),
        "/meters/{meterId}": ("put", "delete"),
        "/features": ("get", "post"),
        "/features/{featureId}": ("delete",),
        "/plans": ("get", "post"),
        "/plans/{planId}": ("get", "put", "delete"),
        "/plans/{planId}/publish": ("post",),
        "/plans/{planId}/archive": ("post",),
        "/customers": ("get", "post"),
        "/subscriptions": ("get", "post"),
        "/profiles": ("get",),
    }.items()
    for method in methods
)
_PATTERNS = [(re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), path, method) for path, method in OPERATIONS]
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

#: Before a call takes effect, and after: a response instead of the right one.
Fault = Callable[[str], Response | None]


class Refusal(Exception):
    """An answer that is no success, in the shape of requests that are wrong, or of rules of the domain."""

    def __init__(self, status: int, words: str, *, code: str = "") -> None:
        super().__init__(words)
        self.status = status
        self.code = code

    def answer(self) -> Response:
        if not self.code:
            return problem(self.status, str(self))
        errors = [{"code": self.code, "message": str(self), "field": "$.phases[0]"}]
        body = {"type": "about:blank", "title": "Bad Request", "status": self.status, "detail": "validation error"}
        content = orjson.dumps(body | {"extensions": {"validationErrors": errors}})
        return Response(content, self.status, media_type="application/problem+json")


class Selling:
    """Serves v3 below `url`, and reads in v1 below `v1`. Lists at most `page_max` items a page."""

    def __init__(self, *, konnect: bool = False) -> None:
        self.document = KONNECT if konnect else OPENMETER
        self.base = ""
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """As it was at first."""
        self.meters: list[Item] = []
        self.features: list[Item] = []
        self.plans: list[Item] = []
        self.customers: list[Item] = []
        self.subscriptions: list[Item] = []
        self.profiles: list[Item] = []
        self.events: list[Item] = []
        self.before: Fault = lambda _: None
        self.after: Fault = lambda _: None
        #: Fields of rate cards that it does not know, and drops without a word.
        self.drops: set[str] = set()
        self.payment_is_broken = False
        #: Of its clock, before everybody else's.
        self.ahead_s = 0.0
        #: Every call, as `POST /meters`.
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.count = 0

    @property
    def url(self) -> str:
        return f"{self.base}/api/v3/openmeter"

    @property
    def changes(self) -> list[str]:
        return [one for one in self.asked if not one.startswith("GET")]

    @contextmanager
    def running(self, *first: Route) -> Iterator[Selling]:
        """Serves, and before that these routes of another part of the engine."""
        route = Route("/{path:path}", self._serve, methods=["GET", "POST", "PUT", "DELETE", "PATCH"])
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            serve(Starlette(routes=[*first, route], lifespan=_nothing), listener),
        ):
            self.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield self

    async def _serve(self, request: Request) -> Response:
        body = await request.body()
        # In a thread, so that a fault may take its time while others are answered.
        answer = await run_in_threadpool(self._answer, request, body)
        answer.headers["date"] = formatdate(time.time() + self.ahead_s, usegmt=True)
        return answer

    def _answer(self, request: Request, body: bytes) -> Response:
        path = request.url.path
        if path.startswith("/api/v1/"):
            return answer_v1(self, path.removeprefix("/api/v1"), dict(request.query_params))
        if not path.startswith("/api/v3/openmeter/"):
            return problem(404, "there is no such path")
        path = path.removeprefix("/api/v3/openmeter")
        call = f"{request.method} {path}"
        self.asked.append(call)
        if (instead := self.before(call)) is not None:
            return instead
        with self._lock:
            try:
                answer = self._judged(request, path, body)
            except Refusal as refusal:
                answer = refusal.answer()
        return self.after(call) or answer

    def _judged(self, request: Request, path: str, body: bytes) -> Response:
        operation, steps = self._operation(request.method.lower(), path)
        if operation[1] == "get" and not steps:
            return self._list(operation, path.removeprefix("/"), dict(request.query_params))
        given = orjson.loads(body) if body else None
        if given is not None and (found := contract.faults_of_question(operation, given, DOCUMENTS)):
            self.faults += found
            raise Refusal(400, found[0])
        name = f"_{operation[1]}{re.sub(r'/{.*?}', '_one', operation[0].removeprefix(_ROOT)).replace('/', '_')}"
        done = getattr(self, name)(*steps, *([] if given is None else [given]))
        if done is None:
            return Response(status_code=204)
        status = "201" if operation[1] == "post" and not steps else "200"
        self.faults += contract.faults_of_answer(operation, done, (self.document,), status=status)
        return Response(orjson.dumps(done), int(status), media_type="application/json")

    def _operation(self, method: str, path: str) -> tuple[contract.Operation, tuple[str, ...]]:
        if (method, path) == ("get", "/events"):
            return contract.EVENTS, ()
        for pattern, described, one in _PATTERNS:
            found = pattern.fullmatch(f"{_ROOT}{path}")
            if found and one == method:
                if not all(_ULID.fullmatch(step) for step in found.groups()):
                    raise Refusal(400, "an id must be a ULID")
                return (described, one), found.groups()
        raise Refusal(404, "there is no such operation")

    def _list(self, operation: contract.Operation, kind: str, given: dict[str, str]) -> Response:
        described = contract.DOCUMENTS if kind == "events" else DOCUMENTS
        told = contract.DOCUMENTS if kind == "events" else (self.document,)
        if found := contract.faults_of_parameters(operation, given, described):
            self.faults += found
            raise Refusal(400, found[0])
        filters = {name: value for name, value in given.items() if name.startswith("filter")}
        items = [one for one in getattr(self, kind) if _passes(one, filters)]
        size = int(given.get("page[size]", "20"))
        number = int(given.get("page[number]", given.get("page[after]", "after 1").removeprefix("after ")))
        page = items[(number - 1) * size : number * size]
        meta: Item = {"page": {"size": size, "number": number, "total": len(items)}}
        if kind == "events":
            following = f"after {number + 1}" if len(page) == size else None
            meta = {"page": {"size": size, "next": following, "previous": None}}
        elif kind == "plans":
            page = [one | {"validation_errors": self._errors(one)} for one in page]
        elif kind == "subscriptions":
            page = [self._told(one) for one in page]
        done = {"data": page, "meta": meta}
        self.faults += contract.faults_of_answer(operation, done, told)
        return Response(orjson.dumps(done), media_type="application/json")

    # Meters and features

    def _post_meters(self, given: Item) -> Item:
        if any(one["key"] == given["key"] for one in self.meters):
            raise Refusal(409, f"meter {given['key']} exists")
        path = given.get("value_property")
        if (path is None) != (given["aggregation"] == "count"):
            raise Refusal(400, "value_property goes with all aggregations but count")
        if fault := dimensions_fault(given, path):
            raise Refusal(400, fault)
        return self._made(self.meters, given)

    def _put_meters_one(self, known: str, given: Item) -> Item:
        meter = _one(self.meters, known)
        if fault := dimensions_fault(given, meter.get("value_property")):
            raise Refusal(400, fault)
        for name in ("description", "labels", "dimensions"):
            meter.pop(name, None)
        meter.update(given)
        return meter

    def _delete_meters_one(self, known: str) -> None:
        meter = _one(self.meters, known)
        if any(one.get("meter", {}).get("id") == known for one in self.features):
            raise Refusal(409, "features use this meter")
        self.meters.remove(meter)

    def _post_features(self, given: Item) -> Item:
        if any(one["key"] == given["key"] for one in self.features):
            raise Refusal(409, f"feature {given['key']} exists")
        if "meter" in given:
            meter = _one(self.meters, given["meter"]["id"], status=400)
            if unknown := given["meter"].get("filters", {}).keys() - meter.get("dimensions", {}).keys():
                raise Refusal(400, f"the meter has no dimensions {unknown}")
            if meter["aggregation"] in ("avg", "min", "max"):
                raise Refusal(400, "no feature is metered like this")
        return self._made(self.features, given)

    def _delete_features_one(self, known: str) -> None:
        self.features.remove(_one(self.features, known))

    # Plans

    def _post_plans(self, given: Item) -> Item:
        versions = [one for one in self.plans if one["key"] == given["key"]]
        if any(one["status"] == "draft" for one in versions):
            raise Refusal(409, "there is a draft of this plan already")
        kept = given | {"phases": self._phases(given)}
        return self._made(self.plans, kept | {"version": len(versions) + 1, "status": "draft"})

    def _get_plans_one(self, known: str) -> Item:
        plan = _one(self.plans, known)
        return plan | {"validation_errors": self._errors(plan)}

    def _put_plans_one(self, known: str, given: Item) -> Item:
        plan = _one(self.plans, known)
        if plan["status"] != "draft":
            raise Refusal(400, "only drafts can be changed")
        for name in ("description", "labels", "pro_rating_enabled"):
            plan.pop(name, None)
        plan.update(given | {"phases": self._phases(given)})
        return plan

    def _post_plans_one_publish(self, known: str) -> Item:
        plan = _one(self.plans, known)
        if plan["status"] != "draft":
            raise Refusal(400, "only drafts can be published")
        if errors := self._errors(plan):
            raise Refusal(400, errors[0]["message"], code=errors[0]["code"])
        for one in self.plans:
            if one["key"] == plan["key"] and one["status"] == "active":
                one["status"] = "archived"
        plan["status"] = "active"
        return plan

    def _post_plans_one_archive(self, known: str) -> Item:
        plan = _one(self.plans, known)
        if plan["status"] != "active":
            raise Refusal(400, "only active plans can be archived")
        plan["status"] = "archived"
        return plan

    def _delete_plans_one(self, known: str) -> None:
        plan = _one(self.plans, known)
        if plan["status"] == "active":
            raise Refusal(400, "active plans cannot be deleted")
        self.plans.remove(plan)

    def _phases(self, given: Item) -> list[Item]:
        return [
            phase
            | {
                "rate_cards": [
                    {key: value for key, value in card.items() if key not in self.drops} for card in phase["rate_cards"]
                ]
            }
            for phase in given["phases"]
        ]

    def _errors(self, plan: Item) -> list[Item]:
        """What stands in the way of its being published."""
        found = [(code, words) for code, words in broken_rules(plan, self.features) if plan["status"] == "draft"]
        return [{"code": code, "message": words, "field": "$.phases[0]"} for code, words in found]

    # Customers and subscriptions

    def _post_customers(self, given: Item) -> Item:
        subjects = given.get("usage_attribution", {}).get("subject_keys", [])
        for one in self.customers:
            taken = {one["key"], *one.get("usage_attribution", {}).get("subject_keys", [])}
            if taken & {given["key"], *subjects}:
                raise Refusal(409, "the key, or a subject, is another customer's")
        return self._made(self.customers, given)

    def _post_subscriptions(self, given: Item) -> Item:
        customer = _named(self.customers, given["customer"])
        plan = _named([one for one in self.plans if one["status"] == "active"], given["plan"])
        if any(one["customer_id"] == customer["id"] and one["status"] == "active" for one in self.subscriptions):
            raise Refusal(409, "only_single_subscription_allowed_per_customer_at_a_time")
        if self.payment_is_broken and any(
            card["price"]["type"] != "free" for phase in plan["phases"] for card in phase["rate_cards"]
        ):
            raise Refusal(409, "invalid billing setup")
        now = self.now().isoformat(timespec="seconds").replace("+00:00", "Z")
        reference = {"id": plan["id"], "key": plan["key"], "version": plan["version"]}
        made = {
            "customer_id": customer["id"],
            "plan_id": plan["id"],
            "plan": reference,
            "billing_anchor": given.get("billing_anchor", now),
            "status": "active",
            "name": plan["name"],
            "active_from": now,
            "invoice_currency": plan["currency"],
            "cost_basis_mode": "dynamic",
            "cost_basis_pins": [],
            "billing_cadence": plan["billing_cadence"],
            "phases": [],
        }
        known: Item = made | self._stamps(now)
        self.subscriptions.append(known)
        return self._told(known)

    def _told(self, subscription: Item) -> Item:
        """Konnect tells less of it."""
        if self.document == OPENMETER:
            return subscription
        kept = ("id", "created_at", "updated_at", "customer_id", "plan_id", "billing_anchor", "status")
        return {key: subscription[key] for key in kept}

    def _made(self, among: list[Item], given: Item) -> Item:
        made = given | self._stamps(self.now().isoformat(timespec="seconds").replace("+00:00", "Z"))
        among.append(made)
        return made

    def _stamps(self, now: str) -> Item:
        self.count += 1
        return {"id": f"01G65Z755AFWAKHE12NY{self.count:06d}", "created_at": now, "updated_at": now}


def _one(among: list[Item], known: str, *, status: int = 404) -> Item:
    found = next((one for one in among if one["id"] == known), None)
    if found is None:
        raise Refusal(status, f"there is no {known}")
    return found


def _named(among: list[Item], reference: Item) -> Item:
    for one in among:
        if all(one[key] == value for key, value in reference.items()):
            return one
    raise Refusal(400, f"there is none that is {reference}")


def _passes(one: Item, filters: dict[str, str]) -> bool:
    for written, value in filters.items():
        name, operator = written.removeprefix("filter[").removesuffix("]").split("][")
        if name == "usage_attribution_subject_key":
            passes = value in one.get("usage_attribution", {}).get("subject_keys", [])
        elif operator == "eq":
            passes = one.get(name, one.get("event", {}).get(name)) == value
        else:
            passes = operator in ("gte", "lt")
        if not passes:
            return False
    return True


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield
