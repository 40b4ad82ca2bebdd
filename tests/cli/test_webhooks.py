from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import pytest

from proxy.model import EventState, Key, Notification
from proxy.store import notifications, outbox
from proxy.store.notifications import NOTIFICATIONS
from proxy.webhooks.messages import backlog_late, key_expiring, limit_exhausted, threshold_crossed
from tests.cli.conftest import Command
from tests.delivery.receiver import Answer, Receiver
from tests.webhooks.hooks import SECRET, verified
from tests.webhooks.test_messages import KEY, STANDING

NOW_MS = 1_776_076_200_123
DEAD, DISCARDED, PENDING = EventState.DEAD, EventState.DISCARDED, EventState.PENDING


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as receiver:
        monkeypatch.setenv("TOLLGATE_WEBHOOKS__URL", receiver.url)
        monkeypatch.setenv("TOLLGATE_WEBHOOKS__SECRET", SECRET)
        yield receiver


def named(number: int, one: Notification) -> Notification:
    return replace(one, id=f"msg_{number}")


@pytest.fixture
def noted(tollgate: Command) -> Command:
    """Four: one of them taken, one dead, one discarded."""
    key = Key(KEY.id, "user-002", "ci\x1b[31m", "", (), False, 0, NOW_MS, None)
    found = [
        named(1, threshold_crossed(STANDING, 80, NOW_MS, NOW_MS)),
        named(2, limit_exhausted(STANDING, NOW_MS, NOW_MS)),
        named(3, key_expiring(key, NOW_MS)),
        named(4, backlog_late(7, NOW_MS, 2_700, "it is late", NOW_MS)),
    ]
    with tollgate.database.transaction() as connection:
        notifications.note(connection, found)
        outbox.accept(connection, ["msg_1"], NOW_MS, line=NOTIFICATIONS)
        for one_id in ("msg_2", "msg_3"):
            outbox.refuse(connection, one_id, "400 Bad Request\nno such \x1btenant", line=NOTIFICATIONS)
        notifications.discard(connection, ["msg_3"], "a test")
    return tollgate


def state(command: Command, one_id: str) -> EventState:
    with command.database.transaction() as connection:
        return notifications.notification(connection, one_id).state


# test


def test_a_test_is_signed_and_what_the_receiver_answers_is_shown(tollgate: Command, receiver: Receiver) -> None:
    receiver.script.append(Answer(200, b"thanks \x1b[31m"))
    said = tollgate.done("webhooks", "test")
    hook = verified(receiver.received[0])
    assert hook.type == "webhook.test"
    assert hook.id in said
    assert "200 OK" in said
    assert "thanks [31m" in said
    assert " ms" in said
    told = tollgate.json("webhooks", "test")
    assert told | {"took_ms": 0} == {
        "id": verified(receiver.received[1]).id,
        "accepted": True,
        "words": "202 Accepted",
        "said": "",
        "took_ms": 0,
    }
    assert tollgate.json("webhooks", "list") == [], "it is sent at once, and never noted"


def test_a_test_that_is_not_taken_fails(tollgate: Command, receiver: Receiver) -> None:
    receiver.script += [Answer(401, b'{"title":"bad signature"}'), Answer(500), Answer(302, headers={"location": "/"})]
    said = tollgate("webhooks", "test")
    assert said.exit_code == 1
    assert "401 Unauthorized: the receiver refuses the signature; check webhooks.secret" in said.stdout
    assert "bad signature" in said.stdout
    assert tollgate("webhooks", "test", "--json").exit_code == 1
    assert "redirects are not followed" in tollgate("webhooks", "test").stdout
    assert len(receiver.received) == 3
    receiver.stop()
    said = tollgate("webhooks", "test")
    assert said.exit_code == 1
    assert "no connection to http://127.0.0.1:" in said.stdout


def test_a_test_without_a_url_says_what_is_missing(tollgate: Command) -> None:
    assert "TOLLGATE_WEBHOOKS__URL" in tollgate.refused("webhooks", "test", code=2)


# list and show


def test_the_newest_are_listed_first_with_what_they_are_about(noted: Command) -> None:
    lines = noted.done("webhooks", "list").splitlines()[2:]
    for line, words in zip(
        lines,
        [
            ("msg_4", "sink.backlog_late", "it is late", "pending"),
            ("msg_3", "key.expiring", "user-002", "key_1 at 2026-04-13", "discarded", "400 Bad Request"),
            ("msg_2", "limit.exhausted", "user-001", "requests/day", "dead", "400 Bad Request"),
            ("msg_1", "limit.threshold_crossed", "user-001", "80 % of requests/day", "accepted"),
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line
        assert "\x1b" not in line


def test_they_are_listed_by_state_type_and_tenant(noted: Command) -> None:
    def ids(*options: str) -> list[str]:
        return [one["id"] for one in noted.json("webhooks", "list", *options)]

    assert ids("--state", "dead") == ["msg_2"]
    assert ids("--type", "key.expiring") == ["msg_3"]
    assert ids("--tenant", "user-001", "--limit", "1") == ["msg_2"]
    assert noted.done("webhooks", "list", "--tenant", "nobody") == "There are no such webhooks.\n"
    assert "'nothing' is not one of" in noted.refused("webhooks", "list", "--type", "nothing", code=2)


def test_one_is_shown_as_it_is_sent(noted: Command) -> None:
    said = noted.done("webhooks", "show", "msg_3")
    assert '"type": "key.expiring"' in said
    assert "discarded because  a test" in said
    assert "\x1b" not in said
    (listed,) = noted.json("webhooks", "list", "--type", "limit.exhausted")
    assert noted.json("webhooks", "show", "msg_2") == listed
    assert listed["error"] == "400 Bad Request\nno such \x1btenant"
    assert listed["data"]["limit"] == "requests/day"
    assert "there is no webhook msg_9" in noted.refused("webhooks", "show", "msg_9")


# replay and discard


def test_dead_letters_are_sent_again_or_given_up(noted: Command) -> None:
    assert noted.done("webhooks", "replay", "--all") == "1 webhook will be sent again\n"
    assert (state(noted, "msg_2"), state(noted, "msg_3")) == (PENDING, DISCARDED)
    assert noted.json("webhooks", "replay", "msg_3") == {"replayed": 1}
    assert state(noted, "msg_3") is PENDING
    with noted.database.transaction() as connection:
        _kill(connection, "msg_2", "msg_3")
    assert noted.json("webhooks", "discard", "msg_2", "--reason", " old ") == {"discarded": 1}
    assert noted.done("webhooks", "discard", "--all", "--reason", "old") == "1 webhook discarded\n"
    assert noted.json("webhooks", "show", "msg_2")["reason"] == "old"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("replay",), "name the webhooks by their ids", 2),
        (("replay", "msg_2", "--all"), "name the webhooks by their ids", 2),
        (("replay", "msg_2", "msg_4"), "webhook msg_4 is pending, and not dead or discarded", 1),
        (("replay", "msg_9"), "there is no webhook msg_9", 1),
        (("discard", "--all"), "--reason", 2),
        (("discard", "--all", "--reason", " "), "say why", 2),
        (("discard", "msg_3", "--reason", "x"), "webhook msg_3 is discarded, and not dead", 1),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_moved(
    noted: Command, arguments: tuple[str, ...], words: str, code: int
) -> None:
    assert words in noted.refused("webhooks", *arguments, code=code)
    assert (state(noted, "msg_2"), state(noted, "msg_3"), state(noted, "msg_4")) == (DEAD, DISCARDED, PENDING)


def _kill(connection: sqlite3.Connection, *ids: str) -> None:
    for one_id in ids:
        outbox.refuse(connection, one_id, "no", line=NOTIFICATIONS)
