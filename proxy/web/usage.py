"""`GET /api/usage`: what a key's subject has used, and what is left of its limits. Free, and leaves no event."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from proxy.errors import InvalidRequest, LedgerUnavailable, ProxyError, RateLimited, TooMuch
from proxy.gateway.call import Arrival
from proxy.gateway.counters import Counter as Used
from proxy.gateway.handle import Gateway
from proxy.gateway.quotas import Quotas
from proxy.instants import Period, WrongPeriod, iso
from proxy.limits import Calendar, shown
from proxy.model import ENGINE, TIMELESS, Caller, Limit, Window
from proxy.store.reader import Reader
from proxy.store.sums import Remembered
from proxy.store.usage import Bounds, Group, Question, key_names, parse_groups
from proxy.web.report import counts_json, csv_text, limit_json, lines_json

log = logging.getLogger(__name__)

GROUPS = (Group.MODEL, Group.ENDPOINT, Group.DAY, Group.KEY, Group.SOURCE)
FORMATS = ("json", "csv")
PARAMETERS = ("from", "to", "group_by", "format")

#: What one answer may hold and take. Questions are answered one after the other.
ROWS_MAX = 10_000
DAYS_MAX = 366
_SECONDS_MAX = 5.0
#: Questions of one subject, and of all, that may wait.
_OF_ONE_MAX = 4
_OF_ALL_MAX = 100

_DAY_MS = 86_400_000
#: A plus that stands in a query for itself is read as a space.
_LOST_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for."""

    period: Period
    groups: tuple[Group, ...]
    as_csv: bool


class Usage:
    """The endpoint. Days and months are the calendar's, in the zone of this name."""

    def __init__(
        self, gateway: Gateway, quotas: Quotas, reader: Reader, calendar: Calendar, zone: str, now_ms: Callable[[], int]
    ) -> None:
        self._gateway = gateway
        self._quotas = quotas
        self._reader = reader
        self._calendar = calendar
        self._zone = zone
        self._now_ms = now_ms
        self._remembered = Remembered(calendar)  # for the reader's thread
        self._waiting: Counter[str] = Counter()

    async def usage(self, request: Request) -> Response:
        """Raises `ProxyError`."""
        try:
            caller = await self._gateway.authenticate(request.scope)
            asked = read(request, self._calendar, self._now_ms())
            body = await self._answer(caller, asked)
        except ProxyError as error:
            self._gateway.refusals[error.code or error.type] += 1
            raise
        request_id = Arrival().id
        headers = {
            "cache-control": "no-store",
            "vary": "accept, authorization, x-api-key, x-tollgate-subject",
            "x-request-id": request_id,
            "x-tollgate-request-id": request_id,
        }
        if asked.as_csv:
            headers["content-disposition"] = 'attachment; filename="usage.csv"'
            return Response(body, headers=headers, media_type="text/csv")
        return Response(body, headers=headers, media_type="application/json")

    async def _answer(self, caller: Caller, asked: Asked) -> bytes:
        if self._waiting[caller.subject] >= _OF_ONE_MAX or self._waiting.total() >= _OF_ALL_MAX:
            message = "Questions about usage are asked faster than they are answered. Try again soon."
            raise RateLimited(message, "requests", retry_after_s=1)
        self._waiting[caller.subject] += 1
        try:
            found = await self._reader.read(partial(self._body, caller=caller, asked=asked))
            return found if asked.as_csv else _with_limits(found, await self._limits(caller))
        except TooMuch as error:
            message = f"You ask for too much at once: {error}. Ask for a shorter period, or for fewer groups."
            raise InvalidRequest(message, param="group_by" if asked.groups else "from") from None
        except sqlite3.Error as error:
            log.error("usage could not be read: %s", error)
            raise LedgerUnavailable("Usage cannot be read at the moment. Try again soon.") from None
        finally:
            self._waiting[caller.subject] -= 1
            self._waiting += Counter()  # those that are 0 go

    def _body(self, connection: sqlite3.Connection, caller: Caller, asked: Asked) -> bytes:
        """In the reader's thread, as this may take a while."""
        subject, period, groups = caller.subject, asked.period, asked.groups
        # Whose trusted key has acted for somebody is another tenant's business.
        names = key_names(connection, subject, caller.key_id)
        question = Question(period, groups, subject, frozenset(names))
        found = self._remembered.report(connection, question, Bounds(ROWS_MAX, _SECONDS_MAX))
        if asked.as_csv:
            return csv_text(found, period, groups, names, line_end="\r\n").encode()
        return orjson.dumps(
            {
                "object": "usage",
                "subject": subject,
                "from": iso(period.from_ms),
                "to": iso(period.to_ms),
                "time_zone": self._zone,
                "group_by": groups,
                "totals": counts_json(found.total),
                "data": lines_json(found, groups, names) if groups else [],
            }
        )

    async def _limits(self, caller: Caller) -> list[dict[str, Any]]:
        account = await self._quotas.account(caller)
        self._quotas.look(account)
        now_ms = self._now_ms()
        own = [entry for entry in account.entries if entry.limit.counted.scope != ENGINE]
        return [
            *(standing_json(entry.limit, entry.counter, now_ms) for entry in own),
            *(standing_json(limit, None, now_ms) for limit in account.largest),
        ]


def read(request: Request, calendar: Calendar, now_ms: int) -> Asked:
    """What the query asks for. Raises `InvalidRequest`, which names the parameter and what to write instead."""
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise InvalidRequest(f"Unknown parameter: '{name[:100]}'. There are {known}.", param=name[:100])
        if name in given:
            raise InvalidRequest(f"'{name}' stands in your query twice. Give it once.", param=name)
        given[name] = value
    begin, end = (with_plus(given[name]) if name in given else None for name in ("from", "to"))
    try:
        period = Period.of(begin, end, calendar, now_ms)
    except WrongPeriod as error:
        raise InvalidRequest(f"'{error.end}' is wrong: {error}.", param=error.end) from None
    if period.to_ms - period.from_ms > DAYS_MAX * _DAY_MS:
        message = f"The period is longer than {DAYS_MAX} days. Ask for it in parts, with 'from' and 'to'."
        raise InvalidRequest(message, param="from")
    try:
        groups = parse_groups(given["group_by"], GROUPS) if "group_by" in given else ()
    except ValueError as error:
        raise InvalidRequest(f"'group_by' is wrong: {error}.", param="group_by") from None
    wanted = given.get("format")
    if wanted not in (None, *FORMATS):
        raise InvalidRequest(f"'format' is wrong: use {' or '.join(FORMATS)}.", param="format")
    return Asked(period, groups, wanted == "csv" or (wanted is None and _prefers_csv(request)))


def with_plus(instant: str) -> str:
    """An instant of a query, with the plus of its offset, where that was read as a space."""
    return _LOST_PLUS.sub(r"\1+\2", instant)


def _prefers_csv(request: Request) -> bool:
    """Whether `Accept` names CSV, and does not name JSON as gladly."""
    weights = {"text/csv": 0.0, "application/json": 0.0}
    for header in request.headers.getlist("accept"):
        for part in header.split(","):
            media_type, _, parameters = part.partition(";")
            found = re.search(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters.lower())
            weights[media_type.strip().lower()] = float(found[1]) if found else 1.0
    return weights["text/csv"] > weights["application/json"]


def _with_limits(body: bytes, limits: list[dict[str, Any]]) -> bytes:
    """The answer with one member more: it is not taken apart again in the event loop, however long it is."""
    return b'%b,"limits":%b}' % (body[:-1], orjson.dumps(limits))


def standing_json(limit: Limit, counter: Used | None, now_ms: int) -> dict[str, Any]:
    """How a limit stands. Of the largest output of one request nothing is ever used."""
    counted = limit.counted
    used = reserved = 0
    renews_at = None
    if counter is not None:
        counter.move(now_ms)
        used, reserved = counter.used, counter.reserved
        if counted.unit not in TIMELESS and counted.window not in (Window.MINUTE, Window.TOTAL):
            renews_at = iso(counter.end_ms)
    return limit_json(limit) | {
        "used": shown(counted.unit, used),
        "reserved": shown(counted.unit, reserved),
        "remaining": shown(counted.unit, max(0, limit.value - used - reserved)),
        "renews_at": renews_at,
    }
