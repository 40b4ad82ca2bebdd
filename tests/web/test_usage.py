"""`GET /api/usage` through a real server."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.requests import Request
from typer.testing import CliRunner

from proxy.cli import app
from proxy.errors import InvalidRequest
from proxy.instants import HOUR_MS, parse_instant
from proxy.limits import Calendar
from proxy.model import NO_USAGE, Units, Usage, UsageSource
from proxy.store.tenants import set_active
from proxy.store.usage import Group
from proxy.web.usage import ROWS_MAX, read
from tests.running import Running, tollgate, wait_until
from tests.store.samples import settlement
from tests.streams import ASK
from tests.web.asking import APRIL, CHAT, key_id, limit, put, usage

NOW_MS = parse_instant("2026-04-13T10:30:00Z")


def test_what_was_used_this_month_is_told_with_the_period_it_holds_for(server: Running, client: httpx.Client) -> None:
    for _ in range(3):
        client.post(CHAT, json=ASK)
    client.post("/api/generate", json={"prompt": "Hello"})
    events = server.settlements(4)
    found = usage(client)
    assert (found["object"], found["subject"], found["time_zone"], found["group_by"]) == (
        *("usage", "user-001"),
        *("UTC", []),
    )
    assert found["from"].endswith("-01T00:00:00.000Z")
    assert parse_instant(found["from"]) <= events[0].time_ms < parse_instant(found["to"])
    total = sum(one.usage.total_tokens for one in events)
    assert total > 0
    assert (found["totals"]["requests"], found["totals"]["total_tokens"]) == (4, total)
    assert (found["totals"]["reported_tokens"], found["totals"]["estimated_tokens"]) == (total, 0)
    assert found["data"] == [], "nothing is told apart"
    assert found["limits"] == []


def test_a_tenant_that_used_nothing_has_no_lines_and_totals_of_nothing(client: httpx.Client) -> None:
    found = usage(client, group_by="model")
    assert found["data"] == []
    assert {*found["totals"].pop("buckets").values(), *found["totals"].values()} == {0}


def test_asking_is_free_and_leaves_no_event(server: Running, client: httpx.Client) -> None:
    limit(server, "requests/total=1")
    for _ in range(5):
        told = client.get("/api/usage")
    assert told.headers["x-tollgate-request-id"].startswith("req_")
    assert told.headers["cache-control"] == "no-store"
    assert client.post(CHAT, json=ASK).status_code == 200
    assert usage(client)["totals"]["requests"] == 1
    assert len(server.settlements(1)) == 1
    assert not [path for path in server.app.database.path.parent.iterdir() if "usage" in path.name]


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_a_key_comes_in_either_header(server: Running, name: str) -> None:
    secret = server.key()
    value = f"Bearer {secret}" if name == "authorization" else secret
    assert httpx.get(f"{server.url}/api/usage", headers={name: value}).json()["subject"] == "user-001"


def test_who_has_no_right_is_refused_in_openais_shape_before_anything_is_read(server: Running) -> None:
    secret = server.key()
    for headers in ({}, {"x-api-key": "tg_wrong"}):
        refused = httpx.get(f"{server.url}/api/usage?nonsense=1", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
        assert refused.headers["x-tollgate-request-id"]
    with server.app.database.transaction() as connection:
        set_active(connection, "user-001", active=False)
    refused = httpx.get(f"{server.url}/api/usage", headers={"x-api-key": secret})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "tenant_disabled")
    assert server.app.gateway.refusals == {"invalid_api_key": 2, "tenant_disabled": 1}


def test_only_get_is_served(client: httpx.Client) -> None:
    refused = client.post("/api/usage")
    assert (refused.status_code, refused.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in refused.headers["allow"]


def test_no_other_tenant_is_in_the_answer_whatever_is_asked(server: Running, client: httpx.Client) -> None:
    server.key("canary")
    theirs = key_id(server, "canary")
    put(server, settlement("req_1"), settlement("req_2", subject="canary", key_id=theirs, model="canary-model"))
    # A trusted key of another tenant has acted for this one.
    put(server, settlement("req_3", key_id=theirs))
    for name in ("x-tollgate-subject", "openai-organization"):
        said = client.get("/api/usage", params=APRIL | {"group_by": "model,key"}, headers={name: "canary"})
        assert "canary" not in said.text
        assert theirs not in said.text
        assert said.json()["subject"] == "user-001"
        assert said.json()["totals"]["requests"] == 2


def test_a_trusted_key_sees_the_subject_it_names(server: Running) -> None:
    secret = server.key("gateway", trusted=True)
    speaker = key_id(server, "gateway")
    put(server, settlement("req_1", subject="alice", key_id=speaker), settlement("req_2", subject="bob"))
    with httpx.Client(base_url=server.url, headers={"x-api-key": secret}) as client:
        client.headers["x-tollgate-subject"] = "alice"
        found = usage(client, **APRIL, group_by="key")
        assert (found["subject"], found["totals"]["requests"]) == ("alice", 1)
        assert [(line["key_id"], line["requests"]) for line in found["data"]] == [(speaker, 1)]
        client.headers["x-tollgate-subject"] = "no one"
        assert client.get("/api/usage").json()["error"]["param"] == "X-Tollgate-Subject"


def test_usage_is_told_apart_by_what_is_asked_for(server: Running, client: httpx.Client) -> None:
    mine = key_id(server, "user-001")
    estimated = {"usage_source": UsageSource.ESTIMATED, "usage": Usage(text_output=5)}
    put(
        server,
        settlement("req_1", key_id=mine, units=Units(1, 2, 3)),
        settlement("req_2", key_id=mine, model="gpt-4.1", time_ms=NOW_MS + 24 * HOUR_MS),
        settlement("req_3", endpoint="/api/generate", **estimated),
        settlement("req_4", usage=NO_USAGE, usage_source=UsageSource.NONE),
    )

    def told(groups: str) -> dict[tuple[Any, ...], int]:
        found = usage(client, **APRIL, group_by=groups)
        assert found["group_by"] == groups.split(",")
        for count in ("requests", "total_tokens", "reported_tokens", "estimated_tokens", "images", "characters"):
            assert sum(line[count] for line in found["data"]) == found["totals"][count] > 0
        values = [[value for name, value in line.items() if name not in found["totals"]] for line in found["data"]]
        return {tuple(of): line["requests"] for of, line in zip(values, found["data"], strict=True)}

    assert told("model") == {("gpt-4.1",): 1, ("gpt-4o-mini-2024-07-18",): 3}
    assert told("day") == {("2026-04-13",): 3, ("2026-04-14",): 1}
    assert told("endpoint") == {("/api/generate",): 1, ("/v1/chat/completions",): 3}
    assert told("key") == {(None, None): 2, (mine, ""): 2}
    assert told("source,day") == {
        ("estimated", "2026-04-13"): 1,
        ("none", "2026-04-13"): 1,
        ("reported", "2026-04-13"): 1,
        ("reported", "2026-04-14"): 1,
    }
    totals = usage(client, **APRIL)["totals"]
    assert (totals["reported_requests"], totals["reported_tokens"]) == (2, 2 * 247)
    assert (totals["estimated_requests"], totals["estimated_tokens"]) == (1, 5)


def test_days_and_months_are_those_of_the_time_zone(tmp_path: Path) -> None:
    with (
        tollgate(tmp_path, TOLLGATE_LIMITS__TIME_ZONE="Europe/Berlin") as server,
        httpx.Client(base_url=server.url, headers={"x-api-key": server.key()}) as client,
    ):
        put(server, settlement("req_1", time_ms=parse_instant("2026-04-13T22:30:00Z")))
        found = usage(client, **{"from": "2026-04-14", "to": "2026-04-15"}, group_by="day")
        assert (found["from"], found["to"]) == ("2026-04-13T22:00:00.000Z", "2026-04-14T22:00:00.000Z")
        assert [(line["day"], line["requests"]) for line in found["data"]] == [("2026-04-14", 1)]
        assert found["time_zone"] == "Europe/Berlin"
        local = parse_instant(usage(client)["from"])
        assert Calendar.of("Europe/Berlin").date_of(local).day == 1
        assert Calendar.of("Europe/Berlin").date_of(local - 1).day > 27


def test_hours_that_are_cut_are_counted_where_they_begin_which_the_answer_says(
    server: Running, client: httpx.Client
) -> None:
    put(server, settlement("req_1", time_ms=NOW_MS))  # 10:30
    before = usage(client, **{"from": "2026-04-13", "to": "2026-04-13T10:10:00Z"})
    after = usage(client, **{"from": "2026-04-13T12:10:00 02:00", "to": "2026-04-14"})  # a plus that was not escaped
    assert (before["to"], before["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 1)
    assert (after["from"], after["totals"]["requests"]) == ("2026-04-13T11:00:00.000Z", 0)


def test_csv_comes_by_format_or_by_accept(server: Running, client: httpx.Client) -> None:
    put(server, settlement("req_1", model="=1+1"), settlement("req_2"))
    for parameters, accept in (({"format": "csv"}, "*/*"), ({}, "text/csv"), ({}, "application/json;q=0.5, Text/CSV")):
        said = client.get("/api/usage", params=APRIL | {"group_by": "model"} | parameters, headers={"accept": accept})
        assert said.headers["content-type"] == "text/csv; charset=utf-8"
        assert said.headers["content-disposition"] == 'attachment; filename="usage.csv"'
        assert said.text.count("\r\n") == said.text.count("\n") == 3
        header, *rows = csv.reader(said.text.splitlines())
        assert header[:4] == ["from", "to", "model", "requests"]
        assert [row[2] for row in rows] == ["'=1+1", "gpt-4o-mini-2024-07-18"]
    for parameters, accept in (
        ({"format": "json"}, "text/csv"),
        ({}, "*/*"),
        ({}, "application/json, text/csv"),
        ({}, "application/json, text/csv;q=0.9"),
        ({}, "text/csv;q=0"),
    ):
        said = client.get("/api/usage", params=parameters, headers={"accept": accept})
        assert said.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("subject=other", "subject", "There are from, to, group_by, format."),
        ("From=2026-04-01", "From", "Unknown parameter: 'From'"),
        ("from=2026-04-01&from=2026-05-01", "from", "twice"),
        ("from=yesterday", "from", "write a date such as"),
        ("from=", "from", "write a date such as"),
        ("from=2026-13-01", "from", "month must be in 1..12"),
        ("to=9999-12-31", "to", "the year must be from 1970 to 9998"),
        ("from=2026-05-01&to=2026-04-01", "from", "no hour begins between"),
        ("from=2025-01-01&to=2026-01-03", "from", "longer than 366 days"),
        ("group_by=colour", "group_by", "'colour': use one or more of model, endpoint, day, key, source"),
        ("group_by=tenant", "group_by", "'tenant': use"),
        ("group_by=model,model", "group_by", "twice"),
        ("group_by=", "group_by", "'': use"),
        ("format=xml", "format", "use json or csv"),
        ("%00=1", "\0", "Unknown parameter"),
    ],
)
def test_what_is_wrong_is_refused_with_the_parameter_and_the_fix(query: str, param: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(asked(query), Calendar(), NOW_MS)
    assert refused.value.param == param
    assert words in str(refused.value)


def asked(query: str) -> Request:
    return Request({"type": "http", "query_string": query.encode(), "headers": []})


def test_a_year_and_every_group_can_be_asked_for_at_once() -> None:
    found = read(asked("from=2024-01-01&to=2025-01-01&group_by=key,model,day,endpoint,source"), Calendar(), NOW_MS)
    assert found.groups == (Group.KEY, Group.MODEL, Group.DAY, Group.ENDPOINT, Group.SOURCE)
    assert not found.as_csv


def test_the_refusal_is_in_openais_shape(client: httpx.Client) -> None:
    refused = client.get("/api/usage?colour=red")
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert refused.json()["error"]["param"] == "colour"


def test_more_rows_than_an_answer_may_have_are_refused_with_a_hint(server: Running, client: httpx.Client) -> None:
    put(server, *(settlement(f"req_{number}", model=f"model-{number}") for number in range(ROWS_MAX)))
    assert len(usage(client, **APRIL, group_by="model")["data"]) == ROWS_MAX
    put(server, settlement("req_more", model="one-more"))
    refused = client.get("/api/usage", params=APRIL | {"group_by": "model"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "group_by")
    assert "more than 10,000 rows. Ask for a shorter period, or for fewer groups." in refused.json()["error"]["message"]
    assert usage(client, **APRIL)["totals"]["requests"] == ROWS_MAX + 1


def test_totals_are_the_events_also_of_what_another_process_recorded(server: Running, client: httpx.Client) -> None:
    limit(server, "tokens/total=1000000")
    assert usage(client)["limits"][0]["used"] == 0
    put(server, *(settlement(f"req_{n}", time_ms=time.time_ns() // 1_000_000) for n in range(7)))
    assert usage(client)["totals"]["total_tokens"] == 7 * 247
    wait_until(lambda: usage(client)["limits"][0]["used"] == 7 * 247)


def test_the_command_tells_the_same(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        secret, other = server.key(), server.key("other")
        for number in range(4):
            key = (secret, other)[number % 2]
            httpx.post(f"{server.url}/api/generate", json={"prompt": "x" * number or "y"}, headers={"x-api-key": key})
        server.settlements(4)
        with httpx.Client(base_url=server.url, headers={"x-api-key": secret}) as client:
            told = usage(client, group_by="model,endpoint,day,source")
    variables = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db"}
    asked = ["usage", "user-001", "--group-by", "model,endpoint,day,source", "--json"]
    said = orjson.loads(CliRunner().invoke(app, asked, env=variables).stdout)
    assert (said["lines"], said["totals"]) == (told["data"], told["totals"])
    assert told["totals"]["requests"] == 2
