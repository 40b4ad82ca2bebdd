from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.model import EventState
from proxy.store import outbox
from proxy.store.database import begin
from proxy.store.ledger import record
from tests.cli.conftest import Command, settlement
from tests.delivery.receiver import Answer, Receiver
from tests.process import command
from tests.running import tollgate as running
from tests.running import wait_until
from tests.streams import ASK

NOW_MS = time.time_ns() // 1_000_000
LATE = "are older than a day"
ALSO_ON_A_SERVER = True
#: A server's writer has no lock to share: `tests.admin.test_desk` shows what it does for others.
ONLY_HERE = ("test_many_letters_are_moved_in_short_transactions_between_which_others_write",)


@pytest.fixture
def dead(tollgate: Command) -> Command:
    """Three dead letters, the first of long ago, the last another tenant's, and two that are elsewhere."""
    tollgate.record(
        settlement("req_1"),
        settlement("req_2", time_ms=NOW_MS),
        settlement("req_3", time_ms=NOW_MS, subject="other"),
        settlement("req_4", time_ms=NOW_MS),
        settlement("req_5", time_ms=NOW_MS),
    )
    with tollgate.database.transaction() as connection:
        outbox.refuse(connection, "req_1", "400: no customer")
        outbox.refuse(connection, "req_2", "400: no meter")
        outbox.refuse(connection, "req_3", "400: no customer")
        outbox.accept(connection, ["req_5"], NOW_MS)
    return tollgate


def ids(tollgate: Command, state: str) -> list[str]:
    return sorted(event["id"] for event in tollgate.json("events", "list", "--state", state))


def replayed(tollgate: Command, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = tollgate.json("events", "replay", *words)
    return found


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (("--all",), ["req_1", "req_2", "req_3"]),
        (("--error", "CUSTOMER"), ["req_1", "req_3"]),
        (("--tenant", "other"), ["req_3"]),
        (("--to", "2026-06-01"), ["req_1"]),
        (("--from", "2026-04-01", "--error", "meter"), ["req_2"]),
        (("--error", "nobody said this"), []),
        (("req_3", "req_1", "req_3"), ["req_1", "req_3"]),
    ],
)
def test_the_letters_that_are_meant_wait_to_be_sent_again(
    dead: Command, words: tuple[str, ...], moved: list[str]
) -> None:
    counted = replayed(dead, *words, "--dry-run")
    assert ids(dead, "dead") == ["req_1", "req_2", "req_3"]
    done = replayed(dead, *words)
    assert done["replayed"] == counted["replayed"] == len(moved)
    assert done["older_than_a_day"] == counted["older_than_a_day"] == ("req_1" in moved)
    assert ids(dead, "pending") == sorted([*moved, "req_4"])


@pytest.mark.parametrize("verb", [("replay",), ("discard", "--reason", "x")])
@pytest.mark.parametrize("words", [(), ("--all", "--tenant", "other"), ("--all", "req_1"), ("req_1", "--error", "x")])
def test_it_must_be_said_in_one_way_which_are_meant(
    dead: Command, verb: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert "name the events by their ids, or by filters" in dead.refused("events", *verb, *words, code=2)


def test_old_letters_are_replayed_with_a_warning(dead: Command) -> None:
    result = dead("events", "replay", "--all")
    assert (result.exit_code, result.stdout) == (0, "3 events will be sent again\n")
    assert LATE in result.stderr
    assert dead.done("events", "replay", "--all") == "0 events will be sent again\n"


@pytest.mark.parametrize(
    ("ids_", "words"),
    [
        (("req_1", "req_9"), "there is no event req_9"),
        (("req_1", "req_4"), "event req_4 is pending, and not dead or discarded"),
        (("req_1", "req_5"), "event req_5 is accepted, and not dead or discarded"),
    ],
)
def test_of_named_events_all_are_replayed_or_none(dead: Command, ids_: tuple[str, ...], words: str) -> None:
    assert dead.refused("events", "replay", *ids_) == words
    assert ids(dead, "dead") == ["req_1", "req_2", "req_3"]


def test_a_tenant_that_never_was_is_a_slip(dead: Command) -> None:
    assert dead.refused("events", "replay", "--tenant", "nobody") == "there is no tenant nobody"
    assert dead.refused("events", "discard", "--tenant", "nobody", "--reason", "x") == "there is no tenant nobody"


def test_a_discarded_letter_keeps_its_reason_and_comes_back_by_its_id_alone(dead: Command) -> None:
    assert dead.json("events", "discard", "--error", "customer", "--reason", "a test's")["discarded"] == 2
    assert ids(dead, "discarded") == ["req_1", "req_3"]
    assert dead.json("events", "show", "req_1")["reason"] == "a test's"
    assert dead.json("events", "status")["discarded"] == 2
    assert replayed(dead, "--all")["replayed"] == 1, "those that were given up are not meant by all"
    assert replayed(dead, "req_3")["replayed"] == 1
    assert ids(dead, "pending") == ["req_2", "req_3", "req_4"]
    assert dead.json("events", "show", "req_3")["reason"] == "a test's", "kept as a record"
    assert dead.json("events", "status")["recorded"] == 5


def test_letters_are_discarded_by_their_ids_and_only_dead_ones(dead: Command) -> None:
    assert dead.done("events", "discard", "req_1", "--reason", "x", "--dry-run") == "1 event would be discarded\n"
    assert dead.done("events", "discard", "req_1", "--reason", "x") == "1 event discarded\n"
    assert (
        dead.refused("events", "discard", "req_2", "req_1", "--reason", "x") == "event req_1 is discarded, and not dead"
    )
    assert ids(dead, "dead") == ["req_2", "req_3"]


@pytest.mark.parametrize("reason", [(), ("--reason", ""), ("--reason", "  ")])
def test_whoever_discards_says_why(dead: Command, reason: tuple[str, ...]) -> None:
    assert "--reason" in dead.refused("events", "discard", "--all", *reason, code=2)
    assert ids(dead, "discarded") == []


def test_many_letters_are_moved_in_short_transactions_between_which_others_write(tollgate: Command) -> None:
    with tollgate.database.transaction() as connection:
        record(connection, [settlement(f"req_{number:05}", time_ms=NOW_MS) for number in range(20_000)])
        connection.execute("UPDATE events SET state = 'dead'")
    stopping, waits_s = threading.Event(), []

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            begun = time.monotonic()
            with closing(tollgate.database.connect()) as connection, begin(connection):
                record(connection, [settlement(f"new_{number}", time_ms=NOW_MS)])
            waits_s.append(time.monotonic() - begun)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert replayed(tollgate, "--all")["replayed"] == 20_000
    finally:
        stopping.set()
        writer.join()
    assert len(waits_s) > 10
    assert max(waits_s) < 3, "far below the five seconds that a server waits for the file"
    with closing(tollgate.database.connect()) as connection:
        assert outbox.backlog(connection).pending == 20_000 + len(waits_s)


def test_a_mended_receiver_gets_what_it_refused_while_the_server_runs(tmp_path: Path) -> None:
    refusals = [Answer.problem(400, detail="no customer for user-001")]
    with Receiver(judge=lambda _: refusals[0] if refusals else Answer(202)) as receiver:
        variables = {"KONNECT_API_URL": receiver.base_url, "TOLLGATE_SINK__LINGER_S": "0"}
        with running(tmp_path, **variables) as server:
            headers = {"x-api-key": server.key()}
            httpx.post(f"{server.url}/v1/chat/completions", json=ASK, headers=headers)
            only = server.settlement().id
            variables["TOLLGATE_DATABASE_URL"] = f"sqlite:///{tmp_path}/tollgate.db"

            def states() -> str:
                return command(tmp_path, "events", "list", "--json", **variables)

            wait_until(lambda: f'"state": "{EventState.DEAD}"' in states())
            assert "no customer for user-001" in command(tmp_path, "events", "show", only, **variables)
            refusals.clear()
            command(tmp_path, "events", "replay", "--error", "no customer", **variables)
            wait_until(lambda: receiver.accepted_ids == [only])
            wait_until(lambda: f'"state": "{EventState.ACCEPTED}"' in states())
