"""A metering engine that keeps what it is sent, as well as it is told to: a real server on a loopback socket.

What it answers is what OpenMeter v3 answers: whole seconds, numbers through float64, a page of a hundred at most, no
parameter that is not described, complaints only when events are read. Every question and every answer is checked
against the descriptions (`contract.py`), and a fault of either kind is in `faults`.
"""

from __future__ import annotations

import base64
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.billing import contract
from tests.delivery.contract import faults as faults_of_batch
from tests.running import serve

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an event after its 202: how many rows, stored how long after its time, changed in what."""

    rows: int = 1
    late_s: float = 2.0
    changes: dict[str, Any] = field(default_factory=dict)


KEPT = Fate()
LOST = Fate(rows=0)


@dataclass(frozen=True, slots=True)
class Row:
    number: int
    event: Event
    time_s: int
    stored_s: float


def meter(key: str, event_type: str, value: str | None, **dimensions: str) -> dict[str, Any]:
    """A meter that sums `$.value`, or counts where there is none."""
    made = "2026-01-01T00:00:00Z"
    found = {"id": _ulid(key), "key": key, "name": key, "event_type": event_type, "aggregation": "count"}
    if value is not None:
        found |= {"aggregation": "sum", "value_property": f"$.{value}"}
    return found | {"dimensions": {name: f"$.{path}" for name, path in dimensions.items()}} | _stamps(made)


class Engine:
    """Serves the v3 API below `url`. `answers` is asked before each answer to a read, and may give one instead."""

    def __init__(self, fate: Callable[[Event], Fate] = lambda _: KEPT, *, drops_repeats: bool = True) -> None:
        self.fate = fate
        self.rows: list[Row] = []
        self.meters: list[dict[str, Any]] = []
        #: Subjects that have a customer; None for all.
        self.customers: set[str] | None = None
        self.answers: Callable[[Request], Response | None] = lambda _: None
        #: Every question, as method and path with its query.
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.faults: list[str] = []
        self.url = ""
        self._drops_repeats = drops_repeats
        self._known: set[tuple[str, str]] = set()

    # What it has

    @property
    def ids(self) -> list[str]:
        return sorted(row.event["id"] for row in self.rows)

    def store(self, event: Event, fate: Fate = KEPT) -> None:
        """Keep an event that was taken. A repeat of one that is kept is dropped; one that was lost is not."""
        key = event["source"], event["id"]
        if self._drops_repeats and key in self._known:
            return
        read = orjson.loads(orjson.dumps(event)) | fate.changes
        time_s = int(datetime.fromisoformat(read["time"]).timestamp())
        for _ in range(fate.rows):
            self._known.add(key)
            self.rows.append(Row(len(self.rows), read, time_s, time_s + fate.late_s))

    # The API

    def routes(self, below: str) -> list[Route]:
        """What it does with events, whoever has the meters."""
        return [
            Route(f"{below}/events", self._ingest, methods=["POST"]),
            Route(f"{below}/events", self._list, methods=["GET"]),
            Route(f"{below}/meters/{{id}}/query", self._query, methods=["POST"]),
        ]

    @contextmanager
    def running(self) -> Iterator[Engine]:
        meters = Route("/v3/openmeter/meters", self._meters, methods=["GET"])
        app = Starlette(routes=[meters, *self.routes("/v3/openmeter")], lifespan=_nothing)
        with socket.create_server(("127.0.0.1", 0)) as listener, serve(app, listener):
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v3/openmeter"
            yield self

    async def _ingest(self, request: Request) -> Response:
        batch = orjson.loads(await request.body())
        if found := faults_of_batch(batch):
            return _problem(400, found[0])
        for event in batch:
            self.store(event, self.fate(event))
        return Response(status_code=202)

    async def _list(self, request: Request) -> Response:
        if (instead := self._instead(request)) is not None:
            return instead
        given = dict(request.query_params)
        size = int(given.get("page[size]", "20"))
        if (found := contract.faults_of_parameters(contract.EVENTS, given)) or not 1 <= size <= 100:
            self.faults += found
            return _problem(400, found[0] if found else "page[size] must be between 1 and 100")
        named, _, direction = given.get("sort", "time desc").partition(" ")
        rows = [row for row in self.rows if _passes(row, given)]
        rows.sort(key=lambda row: _place(row, named), reverse=direction != "asc")
        if "page[after]" in given:
            at, number = orjson.loads(base64.b64decode(given["page[after]"]))
            after = (at, number)
            rows = [
                row
                for row in rows
                if (_place(row, named) > after if direction == "asc" else _place(row, named) < after)
            ]
        page = rows[:size]
        following = base64.b64encode(orjson.dumps(_place(page[-1], named))).decode() if len(page) == size else None
        meta = {"page": {"size": size, "next": following, "previous": None}}
        return self._answer(contract.EVENTS, {"data": [self._item(row) for row in page], "meta": meta})

    async def _meters(self, request: Request) -> Response:
        if (instead := self._instead(request)) is not None:
            return instead
        given = dict(request.query_params)
        if found := contract.faults_of_parameters(contract.METERS, given):
            self.faults += found
            return _problem(400, found[0])
        size, number = int(given.get("page[size]", "20")), int(given.get("page[number]", "1"))
        page = self.meters[(number - 1) * size : number * size]
        meta = {"page": {"size": size, "number": number, "total": len(self.meters)}}
        return self._answer(contract.METERS, {"data": page, "meta": meta})

    async def _query(self, request: Request) -> Response:
        if (instead := self._instead(request)) is not None:
            return instead
        question = orjson.loads(await request.body())
        found = next((one for one in self.meters if one["id"] == request.path_params["id"]), None)
        if found is None:
            return _problem(404, "no such meter")
        known = {"subject", "customer_id", *found["dimensions"]}
        unknown = set(question.get("group_by_dimensions", [])) - known
        if (faults := contract.faults_of_question(contract.QUERY, question)) or unknown:
            self.faults += faults
            return _problem(400, faults[0] if faults else f"no such dimensions: {unknown}")
        return self._answer(contract.QUERY, {"data": list(self._sums(found, question))})

    def _sums(self, found: dict[str, Any], question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        assert question["granularity"] == "PT1H"
        from_s, to_s = (datetime.fromisoformat(question[name]).timestamp() for name in ("from", "to"))
        sums: defaultdict[tuple[int, tuple[str, ...]], float] = defaultdict(float)
        for row in self.rows:
            if row.event["type"] == found["event_type"] and from_s <= row.time_s < to_s:
                names = tuple(_dimension(row, found, name) for name in question["group_by_dimensions"])
                sums[row.time_s // 3600 * 3600, names] += _value(row, found) or 0
        for (hour_s, names), value in sums.items():
            dimensions = dict(zip(question["group_by_dimensions"], names, strict=True))
            yield {"value": f"{value:g}" if value > 1e15 else str(int(value)), "dimensions": dimensions} | {
                "from": _rfc3339(hour_s),
                "to": _rfc3339(hour_s + 3600),
            }

    def _item(self, row: Row) -> dict[str, Any]:
        event = row.event | {"time": _rfc3339(row.time_s)}
        item: dict[str, Any] = {
            "event": event,
            "ingested_at": _rfc3339(row.stored_s),
            "stored_at": _rfc3339(row.stored_s),
        }
        complaints = [{"code": "validation_error", "message": words} for words in self._complaints(row.event)]
        return item | ({"validation_errors": complaints} if complaints else {})

    def _complaints(self, event: Event) -> Iterator[str]:
        """In OpenMeter's words, and as it does: at reading, by the meters and customers that there are then."""
        meters = [one for one in self.meters if one["event_type"] == event["type"]]
        for one in meters:
            path = one.get("value_property", "")
            if path and event["data"].get(path.removeprefix("$.")) is None:
                yield f'event data is missing value property at "{path}"'
        if not meters:
            yield f"no meter found for event type: {event['type']}"
        if self.customers is not None and event["subject"] not in self.customers:
            yield f"no customer found for event subject: {event['subject']}"

    def _instead(self, request: Request) -> Response | None:
        query = f"?{request.url.query}" if request.url.query else ""
        self.asked.append(f"{request.method} {request.url.path.removeprefix('/v3/openmeter')}{query}")
        self.tokens.append(request.headers.get("authorization", ""))
        return self.answers(request)

    def _answer(self, operation: contract.Operation, document: dict[str, Any]) -> Response:
        self.faults += contract.faults_of_answer(operation, document)
        return Response(orjson.dumps(document), media_type="application/json")


def problem(status: int, detail: str = "no", **headers: str) -> Response:
    """An error in the shape of v3."""
    body = {"type": "about:blank", "status": status, "title": "No", "instance": "konnect:trace:1", "detail": detail}
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")


_problem = problem


@asynccontextmanager
async def _nothing(_: Starlette) -> AsyncIterator[None]:
    yield


def _passes(row: Row, given: dict[str, str]) -> bool:
    for name, value in given.items():
        if name.startswith("filter["):
            key, operator = name.removeprefix("filter[").removesuffix("]").split("][")
            if key == "time":
                instant = datetime.fromisoformat(value).timestamp()
                passes = {"gte": row.time_s >= instant, "eq": row.time_s == instant}[operator]
            else:
                values = value.split(",") if operator == "oeq" else [value]
                assert len(values) <= 50
                assert len(value) <= 1024
                passes = row.event[key] in values
            if not passes:
                return False
    return True


def _place(row: Row, named: str) -> tuple[float, int]:
    """Where a row stands in a listing: its id plays no part."""
    return (row.time_s if named == "time" else row.stored_s), row.number * 7919 % 10_007 * 1_000_000 + row.number


def _value(row: Row, found: dict[str, Any]) -> float | None:
    if found["aggregation"] == "count":
        return 1
    value = row.event["data"].get(found["value_property"].removeprefix("$."))
    return None if value is None else float(value)


def _dimension(row: Row, found: dict[str, Any], name: str) -> str:
    if name == "subject":
        return str(row.event["subject"])
    return str(row.event["data"].get(found["dimensions"][name].removeprefix("$."), ""))


def _rfc3339(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).isoformat().replace("+00:00", "Z")


def _stamps(made: str) -> dict[str, str]:
    return {"created_at": made, "updated_at": made}


def _ulid(name: str) -> str:
    """An id in the alphabet of ULIDs."""
    return f"01{''.join('ABCDEFGHJKMNPQRSTVWXYZ'[ord(char) % 22] for char in name):0<24.24}"
