from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxy.admin.events import Filters
from proxy.errors import WrongInput
from proxy.store import outbox
from proxy.store.ledger import EVERY, Wanted
from tests.admin.asking import Operator, operating
from tests.cli.conftest import settlement
from tests.delivery.ledger import event_of
from tests.running import Running
from tests.web.asking import put

DELIVERED_MS = 1_776_076_201_456


@pytest.fixture(scope="module")
def three(operated: tuple[Running, Operator]) -> Operator:
    """One that was taken, one that is dead, and one that waits, of this minute."""
    server, operator = operated
    put(
        server,
        settlement("req_1"),
        settlement("req_2", subject="other"),
        settlement("req/3", time_ms=time.time_ns() // 1_000_000 - 90_000),
    )
    with server.app.database.transaction() as connection:
        outbox.accept(connection, ["req_1"], DELIVERED_MS)
        outbox.refuse(connection, "req_2", "400: unknown meter")
    return operator


def ids(operator: Operator, **query: str) -> list[str]:
    return [one["id"] for one in operator.all("/events", 1, **query)]


def test_how_delivery_stands_is_counted(three: Operator) -> None:
    found = three.done("GET", "/delivery")
    assert 90 <= found.pop("oldest_pending_age_s") < 120
    counts = {"pending": 1, "accepted": 1, "dead": 1, "discarded": 0, "recorded": 3}
    assert found == counts | {"warning": ""}  # without a sink nothing is late


def test_events_are_listed_newest_first_in_pages_and_by_filters(three: Operator) -> None:
    assert ids(three) == ["req/3", "req_2", "req_1"]
    assert ids(three, tenant_id="acme") == ["req/3", "req_1"]
    assert ids(three, state="dead") == ids(three, error="UNKNOWN meter") == ["req_2"]
    assert ids(three, **{"from": "2026-04-13", "to": "2026-04-14"}) == ["req_2", "req_1"]
    (dead,) = three.all("/events", 10, state="dead")
    assert (dead["subject"], dead["total_tokens"], dead["buckets"]["cached_input"]) == ("other", 247, 12)
    assert (dead["state"], dead["attempts"], dead["delivered_at"]) == ("dead", 1, None)


def test_a_page_begins_where_the_last_one_ended_though_events_are_added(tmp_path: Path) -> None:
    with operating(tmp_path) as (server, operator):
        put(server, *(settlement(f"req_{number}") for number in range(5)))
        page = operator.done("GET", "/events?limit=2")
        put(server, settlement("req_new"))
        rest = operator.done("GET", f"/events?limit=9&after={page['next']}")
        assert [one["id"] for one in page["data"] + rest["data"]] == [f"req_{number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"state": "lost"}, "state"),
        ({"from": "x"}, "from"),
        ({"from": "2026-04-14", "to": "2026-04-13"}, "from"),
        ({"after": "req_none"}, "after"),
        ({"error": "x" * 2_001}, "error"),
    ],
)
def test_a_filter_that_cannot_be_names_its_parameter(three: Operator, query: dict[str, str], field: str) -> None:
    said = three.refused("GET", "/events", 400, "wrong_input", params=query)
    assert said["errors"][0]["field"] == field


def test_events_of_who_never_was_are_a_slip(three: Operator) -> None:
    for unknown in ("nobody", ""):
        three.refused("GET", "/events", 404, "no_such", params={"tenant_id": unknown})


def test_an_event_is_shown_as_it_is_sent_and_explained(three: Operator) -> None:
    shown = three.done("GET", "/events/req_1")
    assert shown["events"] == [event_of(settlement("req_1"), "tollgate")]
    assert (shown["state"], shown["delivered_at"]) == ("accepted", "2026-04-13T10:30:01.456Z")
    told = three.done("GET", "/events/req%2F3/explanation")
    assert (told["id"], told["usage"]["total_tokens"], told["delivery"]["state"]) == ("req/3", 247, "pending")
    assert three.refused("GET", "/events/req_9", 404, "no_such")["detail"] == "there is no event req_9"
    three.refused("GET", "/events/req_9/explanation", 404, "no_such")


def test_filters_that_are_not_said_filter_nothing() -> None:
    assert Filters().wanted == EVERY


def test_instants_are_read_as_usage_reads_them() -> None:
    asked = Filters(error="400", begin="2026-04-13", end="2026-04-13T10:30:00.123+02:00", tenant_id="acme")
    assert asked.wanted == Wanted("acme", "400", 1_776_038_400_000, 1_776_069_000_123)


@pytest.mark.parametrize(("begin", "end"), [("2026-04-13", "2026-04-13"), ("soon", None), (None, "13.4.2026")])
def test_a_time_that_is_none_is_wrong(begin: str | None, end: str | None) -> None:
    with pytest.raises(WrongInput):
        _ = Filters(begin=begin, end=end).wanted
