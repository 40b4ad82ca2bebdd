"""Webhooks end to end: a real server, a real upstream, a real receiver, and the library that verifies."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.model import EventState, Topic
from proxy.store import notifications
from proxy.store.database import Database
from proxy.store.ledger import record
from proxy.store.tenants import create_key
from tests.crash.world import free_port
from tests.delivery.receiver import Answer, Receiver
from tests.documents import PAGES, ROOT
from tests.process import command
from tests.running import Running, tollgate, wait_until
from tests.scripted import ScriptedUpstream
from tests.store.samples import settlements
from tests.webhooks.hooks import CHAT, SECRET, SMALL, hooks, limit, telling, told, until_told, uses, variables

HARD = [("limit.threshold_crossed", 80), ("limit.threshold_crossed", 100), ("limit.exhausted", None)]
SOFT = HARD[:2]


def ask(server: Running, key: str, *, status: int = 200) -> None:
    answer = httpx.post(server.url + CHAT, json=SMALL, headers={"x-api-key": key})
    assert answer.status_code == status, answer.text


def health(server: Running) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/readyz")
    assert answer.status_code == 200, "webhooks keep nobody from serving"
    found: dict[str, Any] = answer.json()["webhooks"]
    return found


def states(database: Database) -> list[EventState]:
    with closing(database.connect(read_only=True)) as connection:
        return [sent.state for sent in notifications.newest(connection, limit=100)]


def test_a_jump_from_70_to_105_percent_tells_80_and_100_once_each_to_a_receiver_that_fails_twice(
    tmp_path: Path,
) -> None:
    failing = [Answer(500), Answer(500)]
    with Receiver(failing) as receiver, telling(tmp_path, receiver, 70, 35, 1) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/day=100")
        ask(server, key)
        server.settlements(1)
        ask(server, key)
        ask(server, key, status=429)
        until_told(receiver, 3)
        wait_until(lambda: states(server.app.database) == [EventState.ACCEPTED] * 3)
    assert told(receiver) == HARD
    assert len(receiver.received) == 5
    first, second, third, *_ = hooks(receiver)
    assert first.id == second.id == third.id, "a repeat has the same id"
    assert {one.data["used"] for one in hooks(receiver)} == {105}


def test_a_request_that_does_not_fit_tells_that_the_limit_is_exhausted_and_a_burst_does_not(tmp_path: Path) -> None:
    with Receiver() as receiver, telling(tmp_path, receiver, 59) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/month=60", "tokens/hour=100000", "requests/minute=2")
        ask(server, key)
        ask(server, key, status=429)
        until_told(receiver, 2)
        limit(server.app.database, "tokens/month=1000")
        time.sleep(0.6)  # until the server knows
        ask(server, key)
        ask(server, key, status=429)  # of two a minute
        time.sleep(0.6)
    assert told(receiver) == [("limit.threshold_crossed", 80), ("limit.exhausted", None)]
    assert hooks(receiver)[1].data["used"] == 59


def test_a_receiver_that_times_out_after_it_has_taken_one_gets_it_again_with_the_same_id(tmp_path: Path) -> None:
    with (
        Receiver([Answer(delay_s=1)]) as receiver,
        telling(tmp_path, receiver, 90, TOLLGATE_WEBHOOKS__TIMEOUT_S="0.2") as (server, _),
    ):
        key = server.key()
        limit(server.app.database, "tokens/day=100", soft=True)
        ask(server, key)
        wait_until(lambda: states(server.app.database) == [EventState.ACCEPTED])
    assert told(receiver) == SOFT[:1]
    assert len(receiver.received) == 2


def test_a_receiver_that_is_gone_for_good_pauses_webhooks_and_nothing_else(tmp_path: Path) -> None:
    with (
        Receiver([Answer(410)] * 2) as receiver,
        Receiver() as sink,
        telling(tmp_path, receiver, 90, TOLLGATE_WEBHOOKS__PAUSE_S="0.2", KONNECT_API_URL=sink.base_url) as (server, _),
    ):
        key = server.key()
        limit(server.app.database, "tokens/day=100", soft=True)
        ask(server, key)
        wait_until(lambda: health(server)["state"] == "failing")
        assert "410 Gone: the receiver wants no more webhooks" in health(server)["trouble"]
        wait_until(lambda: len(sink.accepted) == 1)
        wait_until(lambda: health(server) == {"state": "ok", "trouble": "", "pending": 0, "dead": 0})
        said = httpx.get(f"{server.url}/metrics").text
    assert told(receiver) == SOFT[:1]
    for line in ('result="accepted"} 1.0', 'result="failed"} 2.0', 'result="refused"} 0.0'):
        assert f"tollgate_webhook_deliveries_total{{{line}" in said


def test_one_that_is_refused_is_a_dead_letter_and_those_behind_it_go_on(tmp_path: Path) -> None:
    with Receiver([Answer(400)]) as receiver, telling(tmp_path, receiver, 105) as (server, _):
        key = server.key()
        limit(server.app.database, "tokens/day=100")
        ask(server, key)
        until_told(receiver, 3)
        wait_until(lambda: states(server.app.database).count(EventState.DEAD) == 1)
        with server.app.database.transaction() as connection:
            notifications.replay(connection, notifications.dead(connection))
        wait_until(lambda: states(server.app.database) == [EventState.ACCEPTED] * 3)
    ids = [one.id for one in hooks(receiver)]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 3


def test_a_sink_that_is_down_holds_up_no_webhook(tmp_path: Path) -> None:
    with (
        Receiver() as receiver,
        Receiver(judge=lambda _: Answer(401)) as sink,
        telling(tmp_path, receiver, 90, KONNECT_API_URL=sink.base_url) as (server, _),
    ):
        key = server.key()
        limit(server.app.database, "tokens/day=100", soft=True)
        ask(server, key)
        until_told(receiver, 1)
        assert server.pending() == 1


def test_a_late_backlog_and_a_key_about_to_expire_are_told_at_the_start(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        server.key()
        with server.app.database.transaction() as connection:
            record(connection, settlements(2))
            create_key(connection, "user-001", name="ci", expires_ms=_now_ms() + 3_600_000, now_ms=_now_ms())
    with Receiver() as receiver, Receiver(judge=lambda _: Answer(401)) as sink:
        down = {"KONNECT_API_URL": sink.base_url}
        for _ in range(2):
            with tollgate(tmp_path, **variables(receiver, **down)) as server:
                wait_until(lambda: httpx.get(f"{server.url}/readyz").json()["delivery"]["pending"] == 2)
                until_told(receiver, 2)
        with closing(server.app.database.connect(read_only=True)) as connection:
            found = notifications.newest(connection, limit=9)
    assert len(receiver.received) == 2
    topics = sorted(str(sent.notification.topic) for sent in found)
    assert topics == sorted([Topic.KEY_EXPIRING, Topic.BACKLOG_LATE])
    assert {sent.state for sent in found} == {EventState.ACCEPTED}


def test_without_a_url_nothing_is_noted_and_what_happened_then_is_not_told_later(tmp_path: Path) -> None:
    with ScriptedUpstream(default=uses(90, 1)) as upstream:
        up = {"OPENAI_API_KEY": "sk-upstream", "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        with tollgate(tmp_path, **up) as server:
            key = server.key()
            limit(server.app.database, "tokens/day=100", soft=True)
            ask(server, key)
            server.settlements(1)
            time.sleep(0.6)
            assert states(server.app.database) == []
            assert httpx.get(f"{server.url}/readyz").json()["webhooks"]["state"] == "off"
            with closing(server.app.database.connect()) as connection:
                assert not notifications.is_on(connection)
        with Receiver() as receiver, tollgate(tmp_path, **up, **variables(receiver)) as server:
            time.sleep(0.7)
            assert receiver.received == []
            ask(server, key)
            until_told(receiver, 1)
    assert told(receiver) == SOFT[:1]


def test_of_two_servers_one_tells_and_the_other_takes_over(tmp_path: Path) -> None:
    with Receiver() as receiver, ExitStack() as first:
        one, _ = first.enter_context(telling(tmp_path, receiver, 90))
        with telling(tmp_path, receiver, 1, 20) as (other, _):
            key = one.key()
            limit(one.app.database, "tokens/day=100", soft=True)
            ask(one, key)
            ask(other, key)
            until_told(receiver, 1)
            first.close()
            ask(other, key)
            until_told(receiver, 2)
            wait_until(lambda: states(other.app.database) == [EventState.ACCEPTED] * 2)
    assert told(receiver) == SOFT
    assert len(receiver.received) == 2


@pytest.mark.parametrize(("step", "sent"), [("before what webhooks tell is noted", 0), ("after a webhook is sent", 1)])
def test_killed_between_the_settlement_and_the_webhook_it_is_told_by_the_next_start(
    tmp_path: Path, step: str, sent: int
) -> None:
    """Nobody asks anything then: what was crossed before the kill is all that there is to tell."""
    log = (tmp_path / "tollgate.log").open("wb")
    with ScriptedUpstream(default=uses(105)) as upstream, Receiver() as receiver, log:
        up = {"OPENAI_API_KEY": "sk-upstream", "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        with tollgate(tmp_path, **up, **variables(receiver)) as server:
            key = server.key()
            limit(server.app.database, "tokens/day=100")
        environment = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/tollgate.db", **up, **variables(receiver)}
        killed = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server", step, "serve", "--port", "0"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), **environment},
            stderr=log,
        )
        wait_until(lambda: b"listens on" in (tmp_path / "tollgate.log").read_bytes() or killed.poll() is not None)
        url = (tmp_path / "tollgate.log").read_text().split("listens on ")[1].split()[0]
        assert httpx.post(url + CHAT, json=SMALL, headers={"x-api-key": key}).status_code == 200
        assert killed.wait(10) == -signal.SIGKILL
        assert len(receiver.received) == sent
        with tollgate(tmp_path, **up, **variables(receiver)) as server:
            until_told(receiver, 3)
            wait_until(lambda: states(server.app.database) == [EventState.ACCEPTED] * 3)
    assert told(receiver) == HARD
    assert len(receiver.received) == sent + 3, "what may not have arrived goes again, with the same id"


def test_the_documented_receiver_takes_what_is_signed_and_refuses_the_rest(tmp_path: Path) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", PAGES["docs/webhooks.md"], re.MULTILINE | re.DOTALL)[0]
    assert "9000" in code
    port = free_port()
    settings = {"TOLLGATE_WEBHOOKS__URL": f"http://127.0.0.1:{port}/hooks", "TOLLGATE_WEBHOOKS__SECRET": SECRET}
    with subprocess.Popen(
        [sys.executable, "-c", code.replace("9000", str(port))],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as receiver:
        wait_until(lambda: is_open(port))
        assert "204 No Content" in command(tmp_path, "webhooks", "test", **settings)
        other = SECRET.replace("C2", "D3")
        with pytest.raises(AssertionError):
            command(tmp_path, "webhooks", "test", **settings | {"TOLLGATE_WEBHOOKS__SECRET": other})
        receiver.kill()
        assert receiver.stdout is not None
        assert receiver.stdout.read() == """webhook.test {'message': "Tollgate's webhooks reach you."}\n"""


def test_no_secret_of_it_is_shown_by_a_server_that_fails_to_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--port", "0"],
        cwd=tmp_path,
        env={"TOLLGATE_WEBHOOKS__URL": "http://127.0.0.1:1/x", "TOLLGATE_WEBHOOKS__SECRET": SECRET[:-3]},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("tollgate: webhooks.secret (TOLLGATE_WEBHOOKS__SECRET): must be whsec_")
    assert done.stderr.count("\n") == 1


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
