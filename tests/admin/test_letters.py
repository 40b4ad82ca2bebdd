from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.store import letters, outbox
from tests.admin.asking import Operator, operating
from tests.cli.conftest import settlement
from tests.delivery.receiver import Answer, Receiver
from tests.running import Running, wait_until
from tests.streams import ASK
from tests.web.asking import put

NOW_MS = time.time_ns() // 1_000_000


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[tuple[Running, Operator]]:
    """Five dead letters, the first of long ago, and one that waits."""
    with operating(tmp_path) as (server, operator):
        put(server, settlement("req_0"), *(settlement(f"req_{number}", time_ms=NOW_MS) for number in range(1, 6)))
        with server.app.database.transaction() as connection:
            for number in range(5):
                outbox.refuse(connection, f"req_{number}", f"400: word{number}")
        yield server, operator


def states(operator: Operator) -> str:
    """The first letters of the states, in the order of the commits."""
    return "".join(one["state"][0] for one in reversed(operator.all("/events", 100)))


def test_letters_are_moved_a_page_at_a_time_and_each_once(
    dead: tuple[Running, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "PAGE_EVENTS", 2)
    server, operator = dead
    counted = operator.done("POST", "/events/replay", json={"all": True, "dry_run": True})
    assert (counted["replayed"], counted["older_than_a_day"], states(operator)) == (2, 1, "dddddp")
    first = operator.done("POST", "/events/replay", json={"all": True})
    assert (first["replayed"], states(operator)) == (2, "ppdddp")
    with server.app.database.transaction() as connection:
        outbox.refuse(connection, "req_0", "400: again")
    moved, page = first["replayed"], first
    while page["next"] is not None:
        page = operator.done("POST", "/events/replay", json={"all": True, "after": page["next"]})
        moved += page["replayed"]
    assert moved == 5
    assert [one["id"] for one in operator.all("/events", 10, state="dead")] == ["req_0"]


def test_of_named_events_all_are_moved_or_none(dead: tuple[Running, Operator]) -> None:
    _, operator = dead
    before = operator.all("/events", 100)
    said = operator.refused("POST", "/events/replay", 409, "refused", json={"ids": ["req_1", "req_5"]})
    assert said["detail"] == "event req_5 is pending, and not dead or discarded"
    said = operator.refused("POST", "/events/discard", 404, "no_such", json={"ids": ["req_1", "no"], "reason": "x"})
    assert said["detail"] == "there is no event no"
    assert operator.all("/events", 100) == before
    body: dict[str, Any] = {"ids": ["req_1"], "reason": "a test's"}
    assert operator.done("POST", "/events/discard", json=body)["discarded"] == 1
    assert operator.done("GET", "/events/req_1")["reason"] == "a test's"
    assert operator.done("POST", "/events/replay", json={"ids": ["req_1", "req_2"]})["replayed"] == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "ids"),
        ({"all": True, "ids": ["req_1"]}, "ids"),
        ({"all": True, "error": "x"}, "ids"),
        ({"ids": ["x"] * 1_001}, "ids"),
        ({"all": True, "after": "1"}, "after"),
        ({"all": True, "reason": "  "}, "reason"),
        ({"error": "x", "from": "soon"}, "from"),
    ],
)
def test_what_cannot_be_names_its_field(operator: Operator, body: dict[str, Any], field: str) -> None:
    said = operator.refused("POST", "/events/discard", 400, "wrong_input", json={"reason": "x"} | body)
    assert said["errors"][0]["field"] == field


def test_a_repeated_replay_moves_nothing_again(dead: tuple[Running, Operator]) -> None:
    server, operator = dead
    again: dict[str, Any] = {"headers": {"idempotency-key": "r1"}, "json": {"error": "word3"}}
    first = operator.done("POST", "/events/replay", **again)
    with server.app.database.transaction() as connection:
        outbox.refuse(connection, "req_3", "400: word3 again")
    assert operator.done("POST", "/events/replay", **again) == first
    assert operator.done("GET", "/events/req_3")["state"] == "dead"


def test_what_is_replayed_is_sent_again_by_the_server_that_runs(tmp_path: Path) -> None:
    refusals = [Answer.problem(400, detail="no customer")]
    with (
        Receiver(judge=lambda _: refusals[0] if refusals else Answer(202)) as receiver,
        operating(tmp_path, KONNECT_API_URL=receiver.base_url, TOLLGATE_SINK__LINGER_S="0") as (server, operator),
    ):
        headers = {"x-api-key": server.key()}
        httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers)
        wait_until(lambda: operator.done("GET", "/delivery")["dead"] == 1)
        refusals.clear()
        assert operator.done("POST", "/events/replay", json={"error": "no customer"})["replayed"] == 1
        wait_until(lambda: receiver.accepted_ids == [server.settlement().id])
