from __future__ import annotations

import time

import pytest

from proxy.model import EventState, Outcome, UsageSource
from proxy.store import outbox
from tests.cli.conftest import Command, settlement
from tests.delivery.ledger import event_of

DELIVERED_MS = 1_776_076_201_456
ALSO_ON_A_SERVER = True
#: Its server would try for five seconds, at its end, to reach the sink that is none.
ONLY_HERE = ("test_the_status_warns_before_the_receivers_windows_run_out",)


@pytest.fixture
def three(tollgate: Command) -> Command:
    """One event of each state, the oldest accepted, the newest pending."""
    tollgate.record(
        settlement("req_1"),
        settlement("req_2", subject="other", outcome=Outcome.TRUNCATED, usage_source=UsageSource.ESTIMATED),
        settlement("req_3", time_ms=time.time_ns() // 1_000_000 - 90_000),
    )
    with tollgate.database.transaction() as connection:
        outbox.accept(connection, ["req_1"], DELIVERED_MS)
        outbox.refuse(connection, "req_2", "400: unknown meter \x1b[31m[bold]")
        outbox.note_failure(connection, ["req_3"], "503: try later")
    return tollgate


def ids(tollgate: Command, *options: str) -> list[str]:
    return [event["id"] for event in tollgate.json("events", "list", *options)]


def test_the_status_of_an_empty_ledger(tollgate: Command) -> None:
    counts = {"pending": 0, "accepted": 0, "dead": 0, "discarded": 0, "recorded": 0}
    assert tollgate.json("events", "status") == counts | {"oldest_pending_age_s": None, "warning": ""}
    assert [line.split() for line in tollgate.done("events", "status").splitlines()][:2] == [
        ["pending", "0"],
        ["accepted", "0"],
    ]


def test_the_status_counts_and_tells_the_oldest_pending_events_age(three: Command) -> None:
    status = three.json("events", "status")
    assert 90 <= status.pop("oldest_pending_age_s") < 120
    counts = {"pending": 1, "accepted": 1, "dead": 1, "discarded": 0, "recorded": 3}
    assert status == counts | {"warning": ""}
    assert "s old" in three.done("events", "status")


@pytest.mark.parametrize(("age_s", "words"), [(44 * 60, ""), (46 * 60, "45 minutes"), (21 * 3600, "20 hours")])
def test_the_status_warns_before_the_receivers_windows_run_out(
    tollgate: Command, monkeypatch: pytest.MonkeyPatch, age_s: int, words: str
) -> None:
    tollgate.record(settlement("req_1", time_ms=time.time_ns() // 1_000_000 - age_s * 1_000))
    assert tollgate.json("events", "status")["warning"] == "", "without a sink nothing is late"
    monkeypatch.setenv("KONNECT_API_URL", "http://127.0.0.1:9")
    assert words in tollgate.json("events", "status")["warning"]
    assert ("warning" in tollgate.done("events", "status")) == bool(words)


def test_events_are_listed_newest_first_and_by_tenant_state_and_limit(three: Command) -> None:
    assert ids(three) == ["req_3", "req_2", "req_1"]
    assert ids(three, "--limit", "2") == ["req_3", "req_2"]
    assert ids(three, "--tenant", "acme") == ["req_3", "req_1"]
    assert ids(three, "--state", "accepted") == ["req_1"]
    assert ids(three, "--state", "pending", "--tenant", "other") == []
    assert ids(three, "--state", "dead", "--tenant", "other") == ["req_2"]
    assert ids(three, "--error", "UNKNOWN meter") == ["req_2"]
    assert ids(three, "--from", "2026-04-13", "--to", "2026-04-14") == ["req_2", "req_1"]
    assert ids(three, "--from", "2026-04-13T10:30:00.124Z", "--to", "2026-04-14") == []


def test_a_listed_event_tells_how_the_request_ended_and_where_its_event_stands(three: Command) -> None:
    (dead,) = three.json("events", "list", "--state", "dead")
    assert dead["time"] == "2026-04-13T10:30:00.123Z"
    assert (dead["subject"], dead["outcome"], dead["usage_source"]) == ("other", "truncated", "estimated")
    assert (dead["total_tokens"], dead["buckets"]["cached_input"]) == (247, 12)
    assert (dead["state"], dead["attempts"], dead["delivered_at"]) == ("dead", 1, None)
    assert dead["error"].startswith("400: unknown meter")
    table = three.done("events", "list")
    assert [line.split()[1] for line in table.splitlines() if "req_" in line] == ["req_3", "req_2", "req_1"]
    assert "There are no such events." in three.done("events", "list", "--state", "pending", "--tenant", "other")


@pytest.mark.parametrize("options", [("--state", "lost"), ("--limit", "0"), ("--limit", "9" * 30), ("--from", "x")])
def test_a_filter_that_is_none_is_a_usage_error(three: Command, options: tuple[str, str]) -> None:
    assert options[0] in three.refused("events", "list", *options, code=2)


@pytest.mark.parametrize("unknown", ["nobody", ""])
def test_events_of_a_tenant_that_never_was_are_a_slip(three: Command, unknown: str) -> None:
    assert three.refused("events", "list", "--tenant", unknown) == f"there is no tenant {unknown}".strip()


def test_an_event_is_shown_as_it_is_sent_with_its_standing(three: Command) -> None:
    shown = three.json("events", "show", "req_1")
    assert shown == {
        "events": [event_of(settlement("req_1"), "tollgate")],
        "key_id": "key_1",
        "state": "accepted",
        "attempts": 1,
        "error": "",
        "delivered_at": "2026-04-13T10:30:01.456Z",
        "reason": "",
    }
    assert shown["events"][0]["data"]["total_tokens"] == 247
    pending = three.json("events", "show", "req_3")
    assert (pending["state"], pending["attempts"], pending["error"]) == ("pending", 1, "503: try later")


def test_the_source_is_the_one_that_is_set(three: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLGATE_SINK__SOURCE", "edge-7")
    assert three.json("events", "show", "req_1")["events"][0]["source"] == "edge-7"


def test_the_receivers_words_steer_no_terminal(three: Command) -> None:
    said = three.done("events", "show", "req_2")
    assert "400: unknown meter \\x1b[31m[bold]" in said
    assert '"subject": "other"' in said


def test_a_discarded_event_shows_why_and_what_the_receiver_said(three: Command) -> None:
    with three.database.transaction() as connection:
        outbox.move(connection, EventState.DEAD, EventState.DISCARDED, ["req_2"], "a test\x1b tenant's")
    said = three.done("events", "show", "req_2")
    assert "discarded because  a test\\x1b tenant's" in said
    assert "400: unknown meter" in said
    assert three.json("events", "list", "--state", "discarded")[0]["reason"] == "a test\x1b tenant's"


def test_an_unknown_event_is_refused(three: Command) -> None:
    assert three.refused("events", "show", "req_9") == "there is no event req_9"
