from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from proxy.errors import StoreError
from proxy.model import EventState, Notification, Topic
from proxy.store import notifications, outbox
from proxy.store.ledger import record
from proxy.store.notifications import NOTIFICATIONS, Counts
from proxy.store.tenants import create_key, create_tenant, keys_expiring, revoke_key, set_active
from tests.store.samples import settlements

PENDING, ACCEPTED, DEAD, DISCARDED = EventState
SAMPLE = Notification("msg_0", Topic.LIMIT_EXHAUSTED, "user-001", "one", '{"type":"limit.exhausted"}', 7)


def sample(number: int, **changes: object) -> Notification:
    return replace(SAMPLE, id=f"msg_{number}", about=f"thing {number}", **changes)  # type: ignore[arg-type]


def test_the_same_thing_is_noted_once(connection: sqlite3.Connection) -> None:
    assert notifications.note(connection, [sample(1), sample(2)]) == 2
    again = replace(sample(1), id="msg_9", body="{}")
    assert notifications.note(connection, [again, sample(3)]) == 1
    assert outbox.waiting(connection, NOTIFICATIONS, 9) == [sample(1), sample(2), sample(3)]
    assert outbox.waiting(connection, NOTIFICATIONS, 2, newest=True) == [sample(3), sample(2)]


def test_how_far_the_look_has_come_moves_on_only_and_is_forgotten_when_webhooks_are_off(
    connection: sqlite3.Connection,
) -> None:
    assert notifications.noted_seq(connection) is None
    record(connection, settlements(3))
    notifications.switch(connection, on=True)
    assert notifications.noted_seq(connection) == 3
    notifications.note(connection, [], 9)
    notifications.note(connection, [], 4)
    notifications.switch(connection, on=True)
    assert notifications.noted_seq(connection) == 9
    notifications.switch(connection, on=False)
    assert not notifications.is_on(connection)
    notifications.note(connection, [], 2)
    assert notifications.noted_seq(connection) == 3, "the end of the ledger"


def test_it_makes_the_moves_of_events(connection: sqlite3.Connection) -> None:
    notifications.note(connection, [sample(number) for number in range(5)])
    outbox.accept(connection, ["msg_0"], 42, line=NOTIFICATIONS)
    outbox.refuse(connection, "msg_1", "400: no", line=NOTIFICATIONS)
    outbox.refuse(connection, "msg_2", "400: no", line=NOTIFICATIONS)
    outbox.note_failure(connection, ["msg_0", "msg_3"], "503", line=NOTIFICATIONS)
    assert notifications.counts(connection) == Counts(pending=2, dead=2)
    assert notifications.dead(connection) == ["msg_1", "msg_2"]
    assert notifications.discard(connection, ["msg_2"], "a test") == 1
    stands = [
        (sent.notification.id, sent.state, sent.attempts, sent.error, sent.delivered_ms, sent.reason)
        for sent in notifications.newest(connection, limit=9)
    ]
    assert stands == [
        ("msg_4", PENDING, 0, "", None, ""),
        ("msg_3", PENDING, 1, "503", None, ""),
        ("msg_2", DISCARDED, 1, "400: no", None, "a test"),
        ("msg_1", DEAD, 1, "400: no", None, ""),
        ("msg_0", ACCEPTED, 1, "", 42, ""),
    ]
    assert notifications.replay(connection, ["msg_1", "msg_2"]) == 2
    assert notifications.counts(connection) == Counts(pending=4, dead=0)


@pytest.mark.parametrize(("ids", "words"), [(["msg_1", "msg_7"], "no webhook msg_7"), (["msg_0"], "is pending")])
def test_what_cannot_be_moved_is_refused_and_nothing_is_moved(
    connection: sqlite3.Connection, ids: list[str], words: str
) -> None:
    notifications.note(connection, [sample(0), sample(1)])
    outbox.refuse(connection, "msg_1", "no", line=NOTIFICATIONS)
    with pytest.raises(StoreError, match=words):
        notifications.replay(connection, ids)
    with pytest.raises(StoreError, match=words):
        notifications.discard(connection, ids, "so")
    assert notifications.counts(connection) == Counts(pending=1, dead=1)


def test_the_newest_by_state_type_and_tenant(connection: sqlite3.Connection) -> None:
    notifications.note(
        connection, [sample(0), sample(1, subject="user-002"), sample(2, topic=Topic.KEY_EXPIRING), sample(3)]
    )
    outbox.refuse(connection, "msg_3", "no", line=NOTIFICATIONS)

    def found(**wanted: object) -> list[str]:
        asked = {"limit": 9} | wanted
        return [sent.notification.id for sent in notifications.newest(connection, **asked)]  # type: ignore[arg-type]

    assert found() == ["msg_3", "msg_2", "msg_1", "msg_0"]
    assert found(limit=1) == ["msg_3"]
    assert found(state=DEAD) == ["msg_3"]
    assert found(subject="user-002") == ["msg_1"]
    assert found(topic=Topic.KEY_EXPIRING) == ["msg_2"]
    assert found(topic=Topic.LIMIT_EXHAUSTED, state=PENDING, subject="user-001") == ["msg_0"]


def test_keys_that_expire_are_those_that_can_still_be_used(connection: sqlite3.Connection) -> None:
    for tenant in ("a", "b"):
        create_tenant(connection, tenant, now_ms=0)
    made = {ms: create_key(connection, "a", expires_ms=ms, now_ms=0)[0] for ms in (30, 10, 20, 40)}
    create_key(connection, "a", now_ms=0)
    create_key(connection, "b", expires_ms=20, now_ms=0)
    set_active(connection, "b", active=False)
    assert keys_expiring(connection, 10, 30) == [made[20], made[30]]
    revoke_key(connection, made[20].id, now_ms=5)
    assert keys_expiring(connection, 10, 30) == [made[30]]
