from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Mount

from proxy.admin import desk
from proxy.admin.api import AdminApi
from proxy.store.commit import Work
from proxy.store.ledger import record
from proxy.store.unrecorded import Unrecorded, line_of
from tests.admin.asking import TOKEN, Operator, operating, problem_of
from tests.cli.conftest import settlement
from tests.process import process
from tests.running import Running, wait_until
from tests.streams import ASK


def ask(server: Running, key: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers={"x-api-key": key})


def test_a_change_is_in_force_for_the_next_request(server: Running, operator: Operator, tenant: str) -> None:
    key = operator.done("POST", f"/tenants/{tenant}/keys", 201)
    for _ in range(5):
        assert ask(server, key["key"]).status_code == 200
        operator.done("PATCH", f"/tenants/{tenant}", json={"status": "disabled"})
        assert ask(server, key["key"]).status_code == 403
        operator.done("PATCH", f"/tenants/{tenant}", json={"status": "active"})
        assert ask(server, key["key"]).status_code == 200
        operator.done("PATCH", f"/tenants/{tenant}/limits", json={"limits": ["requests/total=0"]})
        assert ask(server, key["key"]).json()["error"]["code"] == "insufficient_quota"
        operator.done("DELETE", f"/tenants/{tenant}/limits", params={"limits": "requests/total"})
    operator.done("POST", f"/keys/{key['id']}/revoke")
    assert ask(server, key["key"]).status_code == 401


def test_settlements_that_come_back_count_in_this_server_at_once_and_once(server: Running, operator: Operator) -> None:
    key = server.key("acme")  # whose they are
    operator.done("PATCH", "/tenants/acme/limits", json={"limits": ["requests/total=4"]})
    assert ask(server, key).status_code == 200  # its counters are read now
    lines = [line_of(Unrecorded(settlement(f"req_{number}"))) for number in range(2)]
    for known in (0, 2):
        done = operator.done("POST", "/events/import", json={"lines": lines})
        assert done == {"imported": 2 - known, "known": known}
    assert [ask(server, key).status_code for _ in range(2)] == [200, 429]


def test_while_the_ledger_cannot_be_used_it_is_a_problem_that_passes(tmp_path: Path) -> None:
    with operating(tmp_path) as (server, operator):
        path = tmp_path / "tollgate.db"
        away = tmp_path / "away.db"
        path.rename(away)
        for method, where, more in (("GET", "/tenants", {}), ("POST", "/tenants", {"json": {"id": "acme"}})):
            answer = operator(method, where, **more)
            problem_of(answer, 503, "ledger_unavailable")
            assert answer.headers["retry-after"] == "5"
        away.rename(path)
        wait_until(lambda: operator("POST", "/tenants", json={"id": "acme"}).status_code == 201)
        assert httpx.get(f"{server.url}/readyz").status_code == 200


def test_a_question_that_takes_too_long_is_given_up_and_holds_nobody_up(
    server: Running, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.app.database.transaction() as connection:
        record(connection, [settlement(f"slow_{number}") for number in range(5_000)])
        connection.execute("UPDATE events SET error = 'said this'")
    (admin,) = (route.app for route in server.app._web.routes if isinstance(route, Mount))
    assert isinstance(admin, AdminApi)
    monkeypatch.setattr(admin._desk, "_seconds_max", 0.0)
    monkeypatch.setattr(desk, "_STEPS", 100)
    said = operator.refused("GET", "/events?error=nobody", 400, "too_much")
    assert "takes too long" in said["detail"]
    monkeypatch.setattr(admin._desk, "_seconds_max", 30.0)
    assert operator.done("GET", "/events?error=nobody")["data"] == []


def test_who_finds_too_many_waiting_is_told_to_come_back(
    server: Running, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_WAITING_MAX", 0)
    answer = operator("GET", "/tenants")
    problem_of(answer, 429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "1"


def test_tenants_are_served_while_an_operator_asks_and_changes_all_the_time(tmp_path: Path) -> None:
    with operating(tmp_path) as (server, operator):
        key = server.key("acme")
        with server.app.database.transaction() as connection:
            record(connection, [settlement(f"req_{number:05}") for number in range(3_000)])
            connection.execute("UPDATE events SET state = 'dead', error = 'said this'")
        stopping = threading.Event()
        moved: list[int] = []

        def operate() -> None:
            while not stopping.is_set():
                page: dict[str, Any] = {"next": ""}
                while page["next"] is not None:
                    body = {"error": "said", "after": page["next"], "dry_run": True}
                    page = operator.done("POST", "/events/replay", json=body)
                    moved.append(page["replayed"])

        thread = threading.Thread(target=operate)
        thread.start()
        try:
            statuses = [ask(server, key).status_code for _ in range(20)]
        finally:
            stopping.set()
            thread.join()
        assert statuses == [200] * 20
        assert len(moved) >= 3
        assert max(moved) == 1_000


def test_of_changes_there_is_one_at_a_time_in_a_commit(
    server: Running, operator: Operator, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, waiting, most = server.app.commit.run, 0, 0

    def counted(work: Work) -> asyncio.Future[Any]:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        done = run(work)
        done.add_done_callback(ended)
        return done

    def ended(_: asyncio.Future[Any]) -> None:
        nonlocal waiting
        waiting -= 1

    monkeypatch.setattr(server.app.commit, "run", counted)
    headers = {"authorization": f"Bearer {TOKEN}"}

    def create() -> None:
        answer = httpx.post(f"{server.url}/admin/tenants/{tenant}/keys", headers=headers)
        assert answer.status_code == 201

    threads = [threading.Thread(target=create) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(operator.all("/keys", 100, tenant_id=tenant)) == 10
    assert (waiting, most) == (0, 1)


def test_what_was_answered_is_there_after_kill_9_and_what_was_not_is_whole_or_not_at_all(tmp_path: Path) -> None:
    environment = {"TOLLGATE_ADMIN_TOKEN": TOKEN, "TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db"}
    (first, second) = (tmp_path / "first", tmp_path / "second")
    first.mkdir()
    second.mkdir()
    answered: list[str] = []
    with process(first, **environment) as running:
        url = running.url

        def create() -> None:
            with httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}) as client:
                for number in range(10_000):
                    headers = {"idempotency-key": f"t{number}"}
                    try:
                        answer = client.post("/admin/tenants", json={"id": f"t{number}"}, headers=headers)
                    except httpx.HTTPError:
                        return
                    assert answer.status_code == 201
                    answered.append(f"t{number}")

        thread = threading.Thread(target=create)
        thread.start()
        wait_until(lambda: len(answered) >= 20)
        running.process.kill()
        thread.join()
    with process(second, **environment) as running:
        client = Operator(httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {TOKEN}"}))
        with closing(client.client):
            there = {one["id"] for one in client.all("/tenants", 1_000)}
            assert there >= {*answered}
            assert len(there - {"demo", *answered}) <= 1
            unknown = f"t{len(answered)}"
            headers = {"idempotency-key": unknown}
            assert client("POST", "/tenants", json={"id": unknown}, headers=headers).status_code == 201
