"""The operation on usage: totals from the rollups, of all tenants or of one."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

from pydantic import Field

from proxy.admin.limits import Standing, standings_of
from proxy.admin.margins import Margin, margin_of
from proxy.admin.operation import Answer, Asked, Context, operation
from proxy.errors import WrongInput
from proxy.instants import Period, WrongPeriod, iso
from proxy.store import limits, tenants
from proxy.store.usage import Group, has_usage, parse_groups, report
from proxy.web.report import COSTS, COUNTS, costs_json, counts_json, csv_of, lines_json

GROUPS = "tenant,model,endpoint,source"


class _Groups(Answer):
    subject: str = ""
    model: str = ""
    endpoint: str = ""
    day: str = ""
    key_id: str = ""
    usage_source: str = ""


class Counts(Answer):
    """What is counted, and the disjoint buckets of the tokens."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    buckets: dict[str, int]
    reported_requests: int
    reported_tokens: int
    estimated_requests: int
    estimated_tokens: int
    images: int
    audio_ms: int
    characters: int
    cost_usd: str | None = None
    """What it cost whoever runs this service, at list prices; with the counts below only where costs are asked for."""
    priced_requests: int = 0
    free_requests: int = 0
    unpriced_requests: int = 0
    unpriced_tokens: int = 0


class Line(Counts, _Groups):
    """The sums of what has the same of its first members: those that were asked for by `group_by`."""


class UsageReport(Answer):
    """What was used from one hour on until another."""

    begin: str = Field(alias="from")
    to: str
    group_by: list[Group]
    lines: list[Line]
    totals: Counts
    limits: list[Standing] = Field(default=[])
    """How the limits of the tenant that was asked for stand now."""
    margins: dict[str, Margin] = Field(default={})
    """Of each tenant, where costs are asked for by tenant alone: what it is charged, and what is left of that."""


class ReportUsage(Asked):
    """Dates, days and months are those of the limits' time zone."""

    tenant_id: str | None = None
    """Only this tenant's (or subject's), with its limits."""
    begin: str | None = Field(None, alias="from")
    """A date or an RFC 3339 instant. Default: the month's begin."""
    end: str | None = Field(None, alias="to")
    """Until then, exclusively. Default: the end of the current month."""
    group_by: str = Field(GROUPS, max_length=100)
    """What to tell apart, with commas: any of tenant, model, endpoint, day, key and source."""
    costs: bool = False
    """With what it cost, at the list prices of its time."""
    format: Literal["json", "csv"] = "json"


def csv_text(answer: UsageReport) -> str:
    """One row a line; the period stands in each."""
    rows = [line.json_object() for line in answer.lines]
    counts = COUNTS if answer.totals.cost_usd is None else (*COUNTS, *COSTS)
    return csv_of(rows, (answer.begin, answer.to), [group.field for group in answer.group_by], counts)


@operation("GET", "/admin/usage", csv=csv_text)
def report_usage(context: Context, asked: ReportUsage) -> UsageReport:
    """Tell requests and tokens apart by tenant, model, endpoint, day, key or source of the numbers.

    Usage is kept by the hour, and an hour belongs to the day and to the period that it begins in.
    """
    connection = context.connection
    try:
        groups = parse_groups(asked.group_by, tuple(Group))
    except ValueError as error:
        raise WrongInput(str(error), "group_by") from None
    try:
        period = Period.of(asked.begin, asked.end, context.calendar, context.now_ms)
    except WrongPeriod as error:
        raise WrongInput(str(error), error.end) from None
    found = report(connection, period, context.calendar, groups, subject=asked.tenant_id or "", bounds=context.bounds)
    said: dict[str, Any] = {
        "from": iso(period.from_ms),
        "to": iso(period.to_ms),
        "group_by": groups,
        "lines": lines_json(found, groups, costs=asked.costs),
        "totals": counts_json(found.total) | (costs_json(found.total) if asked.costs else {}),
    }
    if asked.tenant_id is not None:
        check_subject(connection, asked.tenant_id)
        said["limits"] = standings_of(context, limits.effective(connection, asked.tenant_id))
    if asked.costs and groups == (Group.TENANT,):
        said["margins"] = {line.values[0]: margin_of(context, line.values[0], line, period) for line in found.lines}
    return UsageReport.model_validate(said)


def check_subject(connection: sqlite3.Connection, subject: str) -> None:
    """Raises `NoSuch` for one that is neither a tenant nor has ever used anything: a slip of the pen."""
    if not subject or not has_usage(connection, subject):
        tenants.tenant(connection, subject)
