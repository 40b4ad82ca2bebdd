"""No secret shows anywhere but where it is meant to be: canary values, searched for in all that leaves the process.

What objects and tracebacks show is in `test_secrets_shown`. All other tests are searched too, by `tests.canaries`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import typer
import typer.main
from typer.core import TyperGroup

from proxy.cli import app as cli
from tests.canaries import files_in
from tests.delivery.receiver import Answer, Receiver
from tests.process import Process, command, process
from tests.running import WAIT_S, wait_until
from tests.scripted import Peer, Script, ScriptedUpstream, answer
from tests.streams import ASK, ASK_STREAM, PLAIN, SSE_HEAD, STREAM_WITH_USAGE, chunk

UPSTREAM_KEY = "sk-CANARY-upstream"
OWN_KEY = "sk-CANARY-of-acme"
SINK_TOKEN = "kpat_CANARY-sink"
ADMIN_TOKEN = "CANARY-admin"
IMPORTED_KEY = "ak_CANARY_user1"
UNKNOWN_KEY = "tg_CANARY_unknown"
CHAT = "/v1/chat/completions"

#: Makes a server say all that it and its libraries can say, and fail where a model's name asks for it.
LOUD = """
import logging
from proxy.gateway.forward import Exchange
names = ("uvicorn", "httpx", "httpcore", "asyncio")
set_level, show = logging.Logger.setLevel, Exchange._show

def setLevel(self, level):
    set_level(self, logging.DEBUG if self.name in names else level)

async def _show(self, answer):
    if self._call.model == "fails":
        raise RuntimeError("planted")
    await show(self, answer)

logging.Logger.setLevel, Exchange._show = setLevel, _show
"""


def says(data: bytes) -> Script:
    def answer_one(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.close()

    return answer_one


def says_nothing(peer: Peer) -> None:
    peer.request()
    peer.stall()


def scripts() -> list[Script]:
    """What the upstream answers, one after the other; the key that it was sent is in most of them."""
    echo = orjson.dumps({"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}"}})
    return [
        says(answer(PLAIN, "content-type: application/json")),
        says(SSE_HEAD + chunk(STREAM_WITH_USAGE) + chunk(b"")),
        says(answer(echo, status="401 Unauthorized")),
        says(answer(echo, f"x-key: {UPSTREAM_KEY}", status="429 Too Many Requests")),
        says(answer(PLAIN)[:-4]),
        says(b"garbage " + UPSTREAM_KEY.encode() + b"\r\n\r\n"),
        says(answer(PLAIN, "content-type: application/json")),
    ]


class Repeats:
    """A judge that repeats the token that it was sent: at first, and for ever of the event that came first."""

    def __init__(self) -> None:
        self.first = ""

    def __call__(self, events: list[dict[str, Any]]) -> Answer:
        if not self.first:
            self.first = events[0]["id"]
            return Answer.problem(401, detail=f"bad token {SINK_TOKEN}")
        is_refused = self.first in [event["id"] for event in events]
        return Answer.problem(400, detail=f"bad event of {SINK_TOKEN}") if is_refused else Answer()


def variables_for(upstream: ScriptedUpstream, receiver: Receiver) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": UPSTREAM_KEY,
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "ACME_KEY": OWN_KEY,
        "KONNECT_API_URL": receiver.base_url,
        "KONNECT_TOKEN": SINK_TOKEN,
        "TOLLGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "TOLLGATE_LOG_LEVEL": "debug",
        "TOLLGATE_SINK__PAUSE_S": "0.1",
    }


def make_keys(directory: Path, variables: dict[str, str]) -> tuple[str, str, str]:
    """Keys of two tenants, of which the second has an upstream key of its own; and what else was printed."""
    said = command(directory, "tenants", "create", "user-001", **variables)
    said += command(directory, "tenants", "create", "acme", "--upstream-key", "env:ACME_KEY", **variables)
    said += command(directory, "keys", "create", "user-001", "--import", IMPORTED_KEY, **variables)
    made, acme = (
        orjson.loads(command(directory, "keys", "create", tenant, "--json", **variables))["key"]
        for tenant in ("user-001", "acme")
    )
    return made, acme, said


@contextmanager
def loud(directory: Path, variables: dict[str, str]) -> Iterator[Process]:
    """A server that says all that it can."""
    (directory / "sitecustomize.py").write_text(LOUD)
    extra = {"PYTHONPATH": str(directory), "PYTHONASYNCIODEBUG": "1", "PYTHONFAULTHANDLER": "1"}
    with process(directory, **variables, **extra) as server:
        yield server


def ask(server: Process, key: str, body: dict[str, object] = ASK) -> str:
    """Whatever comes back, to a request that has the key wherever a client may put it."""
    headers = {"authorization": f"Bearer {key}", "x-api-key": key, "api-key": key, "cookie": f"a={key}"}
    try:
        seen = httpx.post(server.url + CHAT, json=body, headers=headers)
    except httpx.TransportError as error:
        return str(error)  # the answer that breaks off
    return f"{seen.headers}{seen.text}"


def left_in(directory: Path) -> str:
    return "\n".join(path.read_bytes().decode("latin-1") for path in files_in(directory) if path.suffix != ".py")


def assert_nothing_shown(everything: str, *keys: str) -> None:
    for secret in (UPSTREAM_KEY, OWN_KEY, SINK_TOKEN, ADMIN_TOKEN, IMPORTED_KEY, UNKNOWN_KEY, *keys, "CANARY"):
        assert secret not in everything


def test_no_canary_leaves_the_process(tmp_path: Path) -> None:
    with ScriptedUpstream(*scripts()) as upstream, Receiver(judge=Repeats()) as receiver:
        variables = variables_for(upstream, receiver)
        said = [command(tmp_path, "check-config", *words, **variables) for words in ([], ["--json"])]
        made, acme, printed = make_keys(tmp_path, variables)
        said.append(printed)
        with loud(tmp_path, variables) as server:
            said += [
                ask(server, key, ASK_STREAM if key == IMPORTED_KEY else ASK)
                for key in (made, IMPORTED_KEY, made, made, made, made, acme, UNKNOWN_KEY)
            ]
            said.append(httpx.post(server.url + CHAT, content=f'{{"{made}', headers={"x-api-key": made}).text)
            wait_until(lambda: len(receiver.accepted) == 6 and "is a dead letter now" in server.log)
            said += [httpx.get(server.url + path).text for path in ("/readyz", "/openapi.json", "/metrics", "/docs")]
            scraped = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
            assert scraped.status_code == 200
            said.append(scraped.text)
            command_line = Path(f"/proc/{server.process.pid}/cmdline")
            said.append(command_line.read_text() if command_line.exists() else "")
            assert server.stop() == 0
        said += [command(tmp_path, *words, **variables) for words in LISTINGS]
        (dead,) = orjson.loads(command(tmp_path, "events", "list", "--state", "dead", "--json", **variables))
        for request_id in (dead["id"], receiver.accepted[0]["id"]):
            said += [command(tmp_path, *words, request_id, **variables) for words in (["events", "show"], ["explain"])]
        said.append(reconciled(tmp_path, receiver, variables))
        said += [str(event) for event in receiver.taken]
        sent_up = "".join(request.head.decode("latin-1") for request in upstream.requests)
    said.append(left_in(tmp_path))
    everything = "\n".join(said)
    for really_there in (
        "listens on",
        "receive_response_headers",
        "SQLite format 3",
        "bad token ***",
        "bad event of ***",
    ):
        assert really_there in everything, really_there
    assert (tmp_path / "copy.db").exists()
    assert_nothing_shown(everything, made, acme)
    assert OWN_KEY in sent_up
    assert made not in sent_up
    assert IMPORTED_KEY not in sent_up


LISTINGS = (
    ("tenants", "list", "--json"),
    ("tenants", "show", "user-001", "--json"),
    ("tenants", "show", "acme"),
    ("keys", "list", "--json"),
    ("events", "list", "--json"),
    ("events", "status"),
    ("usage", "--json"),
    ("backup", "copy.db"),
)


def reconciled(directory: Path, receiver: Receiver, variables: dict[str, str]) -> str:
    """What `reconcile` says of an engine that refuses its token, and repeats it."""
    receiver.judge = lambda _: Answer.problem(401, detail=f"bad token {SINK_TOKEN}")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "reconcile"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_with_requests_in_flight_shows_none(tmp_path: Path, number: signal.Signals) -> None:
    with ScriptedUpstream(default=says_nothing) as upstream, Receiver() as receiver:
        variables = variables_for(upstream, receiver)
        made, acme, _ = make_keys(tmp_path, variables)
        with loud(tmp_path, variables) as server:
            clients = [threading.Thread(target=ask, args=(server, key)) for key in (made, acme, IMPORTED_KEY)]
            for client in clients:
                client.start()
            wait_until(lambda: len(upstream.requests) == len(clients))
            assert server.stop(number) == -number
            for client in clients:
                client.join(WAIT_S)
    left = left_in(tmp_path)
    assert "Fatal Python error" in left  # the crash, with where each thread was
    assert left.count('"id":"req_') + left.count("req_") >= 3  # the traces of what was in flight
    assert_nothing_shown(left, made, acme)


def test_an_unhandled_failure_shows_none_at_the_loudest(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, Receiver() as receiver:
        variables = variables_for(upstream, receiver)
        made, acme, _ = make_keys(tmp_path, variables)
        with loud(tmp_path, variables) as server:
            said = "".join(ask(server, key, ASK | {"model": "fails"}) for key in (made, acme, IMPORTED_KEY))
            wait_until(lambda: len(receiver.accepted) == 3)
            assert server.stop() == 0
    assert said.count("internal_error") == 3
    left = left_in(tmp_path)
    assert left.count("RuntimeError: planted") == 3
    assert_nothing_shown(said + left, made, acme)


def test_a_settlement_that_goes_to_standard_error_shows_none(tmp_path: Path) -> None:
    is_gone = threading.Event()

    def waits(peer: Peer) -> None:
        peer.request()
        peer.wait(is_gone)
        peer.send(answer(PLAIN, "content-type: application/json"))

    with ScriptedUpstream(default=waits) as upstream, Receiver() as receiver:
        variables = variables_for(upstream, receiver)
        made, acme, _ = make_keys(tmp_path, variables)
        with loud(tmp_path, variables) as server:
            clients = [threading.Thread(target=ask, args=(server, key)) for key in (made, acme)]
            for client in clients:
                client.start()
            wait_until(lambda: len(upstream.requests) == len(clients))
            (tmp_path / "var" / "tollgate.db").rename(tmp_path / "elsewhere.db")
            is_gone.set()
            for client in clients:
                client.join(WAIT_S)
            wait_until(lambda: server.log.count('{"tollgate_settlement"') == len(clients))
            assert server.stop() == 0
    assert_nothing_shown(left_in(tmp_path), made, acme)


#: Options and arguments by whose names one could think that they take a secret. Only the first does; the others take a
#: key's id, and where an upstream's key is found.
NAMED_SO = {
    "billing connect-stripe --key",  # takes - alone
    "billing onboard --import",
    "billing onboard --key-name",
    "billing onboard --no-key",
    "keys create --import",
    "keys revoke key_id",
    "keys rotate key_id",
    "limits set --key",
    "limits show --key",
    "limits unset --key",
    "tenants create --upstream-key",
    "tenants set-upstream-key where",
}


def test_no_command_but_two_takes_a_secret_where_every_user_of_the_machine_sees_it() -> None:
    found = set()
    for path, one in commands(typer.main.get_command(cli)):
        for parameter in one.params:
            shown = parameter.opts[0]
            if re.search(r"(?i)key|token|secret|password|import|credential|where", shown):
                found.add(f"{path} {shown}")
    assert found == NAMED_SO


def commands(one: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each command that can be given, and its name."""
    if not isinstance(one, TyperGroup):
        yield path, one
        return
    context = typer.Context(one)
    for name in one.list_commands(context):
        yield from commands(one.get_command(context, name), f"{path} {name}".strip())


@pytest.mark.parametrize("command_line", ["keys create user-001", "billing onboard user-001 --plan starter"])
def test_the_two_can_read_it_from_standard_input(tmp_path: Path, command_line: str) -> None:
    command(tmp_path, "tenants", "create", "user-001")
    words = [sys.executable, "-m", "proxy", *command_line.split(), "--import", "-"]
    done = subprocess.run(words, cwd=tmp_path, input=IMPORTED_KEY, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0
    assert_nothing_shown(done.stdout + done.stderr + left_in(tmp_path))


def test_nobody_else_on_the_machine_can_read_what_is_kept(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream, Receiver() as receiver:
        variables = variables_for(upstream, receiver)
        made, _, _ = make_keys(tmp_path, variables)
        with process(tmp_path, **variables) as server:
            ask(server, made)
            command(tmp_path, "backup", "copy.db", **variables)
            kept = [*(tmp_path / "var").iterdir(), tmp_path / "copy.db"]
            assert len(kept) >= 4  # the ledger, its log and index, the traces, the copy
            assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
