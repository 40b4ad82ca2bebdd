"""No secret shows anywhere but where it is meant to be: canary values, searched for in all that leaves the process."""

from __future__ import annotations

from pathlib import Path

import httpx
import orjson

from tests.delivery.receiver import Answer, Receiver
from tests.process import command, process
from tests.running import wait_until
from tests.scripted import Peer, ScriptedUpstream, answer
from tests.streams import ASK, ASK_STREAM, PLAIN, SSE_HEAD, STREAM_WITH_USAGE, chunk

UPSTREAM_KEY = "sk-CANARY-upstream"
SINK_TOKEN = "kpat_CANARY-sink"
ADMIN_TOKEN = "CANARY-admin"
IMPORTED_KEY = "ak_CANARY_user1"
UNKNOWN_KEY = "tg_CANARY_unknown"
CHAT = "/v1/chat/completions"


def scripts() -> list[bytes]:
    """What the upstream answers, one after the other; the key that it was sent is in most of them."""
    echo = orjson.dumps({"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}"}})
    return [
        answer(PLAIN, "content-type: application/json"),
        SSE_HEAD + chunk(STREAM_WITH_USAGE) + chunk(b""),
        answer(echo, status="401 Unauthorized"),
        answer(PLAIN)[:-4],
        b"garbage " + UPSTREAM_KEY.encode() + b"\r\n\r\n",
    ]


def answered_in_turn() -> list[object]:
    def script(data: bytes) -> object:
        def answer_one(peer: Peer) -> None:
            peer.request()
            peer.send(data)
            peer.close()

        return answer_one

    return [script(data) for data in scripts()]


def test_no_canary_leaves_the_process(tmp_path: Path) -> None:
    refusals = iter([Answer.problem(401, detail=f"bad token {SINK_TOKEN}"), Answer.problem(400, detail=SINK_TOKEN)])
    with (
        ScriptedUpstream(*answered_in_turn()) as upstream,  # type: ignore[arg-type] # scripts, typed where they are made
        Receiver(judge=lambda _: next(refusals, Answer(202))) as receiver,
    ):
        variables = {
            "OPENAI_API_KEY": UPSTREAM_KEY,
            "OPENAI_BASE_URL": f"{upstream.url}/v1",
            "KONNECT_API_URL": receiver.base_url,
            "KONNECT_TOKEN": SINK_TOKEN,
            "TOLLGATE_ADMIN_TOKEN": ADMIN_TOKEN,
            "TOLLGATE_LOG_LEVEL": "debug",
            "TOLLGATE_SINK__PAUSE_S": "0.1",
        }
        said = [
            command(tmp_path, "check-config", **variables),
            command(tmp_path, "check-config", "--json", **variables),
        ]
        command(tmp_path, "tenants", "create", "user-001", **variables)
        made = orjson.loads(command(tmp_path, "keys", "create", "user-001", "--json", **variables))["key"]
        said.append(command(tmp_path, "keys", "create", "user-001", "--import", IMPORTED_KEY, **variables))
        with process(tmp_path, **variables) as server:
            for key in (made, IMPORTED_KEY, made, made, made, UNKNOWN_KEY):
                headers = {"authorization": f"Bearer {key}", "x-api-key": key, "api-key": key, "cookie": f"a={key}"}
                try:
                    seen = httpx.post(
                        server.url + CHAT, json=ASK_STREAM if key == IMPORTED_KEY else ASK, headers=headers
                    )
                    said.append(f"{seen.headers}{seen.text}")
                except httpx.RemoteProtocolError as error:
                    said.append(str(error))  # the answer that breaks off
            broken = httpx.post(server.url + CHAT, content=f'{{"{made}', headers={"x-api-key": made})
            said.append(broken.text)
            wait_until(lambda: len(receiver.accepted) >= 4)
            said.append(httpx.get(f"{server.url}/readyz").text)
            scraped = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
            assert scraped.status_code == 200
            said.append(scraped.text)
            assert server.stop() == 0
            said.append(server.log)
        said += [command(tmp_path, *words, **variables) for words in LISTINGS]
        said += [str(event) for event in receiver.taken]
        said += [file.read_bytes().decode("latin-1") for file in (tmp_path / "var").iterdir()]
        sent_up = "".join(request.head.decode("latin-1") for request in upstream.requests)
    everything = "\n".join(said)
    assert "listens on" in everything  # what is searched is really there
    for secret in (UPSTREAM_KEY, SINK_TOKEN, ADMIN_TOKEN, IMPORTED_KEY, UNKNOWN_KEY, made):
        assert secret not in everything
    assert "CANARY" not in everything
    assert made not in sent_up
    assert IMPORTED_KEY not in sent_up


LISTINGS = (
    ("tenants", "list", "--json"),
    ("tenants", "show", "user-001", "--json"),
    ("keys", "list", "--json"),
    ("events", "list", "--json"),
    ("events", "list", "--state", "dead", "--json"),
    ("usage", "--json"),
)
