"""What a tenant makes through the proxy is its own at once, stays so, and works as if it had the account to itself."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from proxy.app import create_app
from proxy.errors import ConfigurationError
from proxy.settings import load
from tests.gateway.account import Account
from tests.gateway.test_forward import between, plain, streams
from tests.raw import RawClient
from tests.running import Running, tollgate, wait_until
from tests.scripted import Peer, answer
from tests.streams import event

ASK = {"model": "gpt-4o", "input": "hi"}


@contextmanager
def client(server: Running, tenant: str = "tenant-a") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key(tenant), max_retries=0) as made:
        yield made


def owners(server: Running) -> dict[str, str]:
    with closing(server.app.database.connect(read_only=True)) as connection:
        return dict(connection.execute("SELECT id, subject FROM owned").fetchall())


def test_the_sdk_s_whole_life_of_a_response_and_a_conversation(tmp_path: Path) -> None:
    with between(tmp_path, default=Account()) as (server, _), client(server) as a, client(server, "tenant-b") as b:
        first = a.responses.create(model="gpt-4o", input="one")
        second = a.responses.create(model="gpt-4o", input="two", previous_response_id=first.id)
        assert "one" in second.output_text
        assert a.responses.retrieve(first.id).id == first.id
        assert a.responses.input_items.list(first.id).data
        assert a.responses.cancel(first.id).id == first.id
        echoed = [one.to_dict() for one in second.output]  # as the SDK's examples carry a conversation on
        a.responses.create(model="gpt-4o", input=[*echoed, {"role": "user", "content": "three"}])  # type: ignore[list-item] # plain dicts
        a.responses.input_tokens.count(model="gpt-4o", previous_response_id=first.id)

        conversation = a.conversations.create(metadata={"topic": "x"})
        a.conversations.items.create(conversation.id, items=[{"role": "user", "content": "x"}])
        assert a.conversations.items.list(conversation.id).data
        a.conversations.update(conversation.id, metadata={"topic": "y"})
        a.responses.create(model="gpt-4o", input="four", conversation=conversation.id)
        a.conversations.delete(conversation.id)
        with pytest.raises(openai.NotFoundError):
            a.conversations.retrieve(conversation.id)

        with pytest.raises(openai.NotFoundError):
            b.responses.create(model="gpt-4o", input="x", previous_response_id=first.id)
        with pytest.raises(openai.NotFoundError):
            b.responses.delete(first.id)
        a.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            a.responses.retrieve(first.id)
        assert first.id not in owners(server)
        assert {one.endpoint for one in server.settlements()} == {"/v1/responses"}  # reading is not billed
        assert len(server.settlements()) == 4


def test_what_was_made_is_on_disk_before_its_maker_is_told(tmp_path: Path) -> None:
    with between(tmp_path, default=Account()) as (server, _), client(server) as a:
        for _ in range(10):
            for made in (a.responses.create(model="gpt-4o", input="x"), a.conversations.create()):
                assert owners(server)[made.id] == "tenant-a"


def test_a_stream_s_response_is_its_maker_s_as_soon_as_it_is_named(tmp_path: Path) -> None:
    account = Account()
    account.go_on.clear()
    with between(tmp_path, default=account) as (server, _), client(server) as a, client(server, "tenant-b") as b:
        with a.responses.create(model="gpt-4o", input="x", stream=True, background=True) as stream:
            created = next(iter(stream))
            assert created.type == "response.created"
            response_id = created.response.id
            assert a.responses.retrieve(response_id).status == "in_progress"
            for attempt in (b.responses.retrieve, b.responses.cancel, b.responses.delete):
                with pytest.raises(openai.NotFoundError):
                    attempt(response_id)
            assert a.responses.cancel(response_id).id == response_id
            wait_until(lambda: response_id in owners(server))
            account.go_on.set()
            last = [*stream][-1]
        assert last.type == "response.completed"
        assert {one.id for one in last.response.output if one.id} <= owners(server).keys()
        assert server.settlement().usage.total_tokens == 8


def test_a_stream_is_not_held_back_for_it(tmp_path: Path) -> None:
    """Its first event goes out although nothing can be written."""
    account = Account()
    account.go_on.clear()
    with between(tmp_path, default=account) as (server, _), RawClient(server.port) as peer:
        key = server.key("tenant-a")
        with closing(sqlite3.connect(tmp_path / "tollgate.db", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            peer.post("/v1/responses", key, ASK | {"stream": True})
            peer.read_until(b"response.created")
            writer.execute("ROLLBACK")
        account.go_on.set()
        peer.read_until(b"response.completed")
        server.settlement()


def test_a_restart_forgets_nothing_and_another_server_knows_it_too(tmp_path: Path) -> None:
    account = Account()
    with between(tmp_path, default=account) as (server, upstream), client(server) as a:
        response = a.responses.create(model="gpt-4o", input="x")
        variables = {"OPENAI_API_KEY": "sk-upstream-key", "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        with tollgate(tmp_path, **variables) as other, client(other) as again, client(other, "tenant-b") as b:
            assert again.responses.retrieve(response.id).id == response.id
            with pytest.raises(openai.NotFoundError):
                b.responses.retrieve(response.id)
            there = again.responses.create(model="gpt-4o", input="x")
            assert a.responses.retrieve(there.id).id == there.id
    with between(tmp_path, default=account) as (server, _), client(server) as a:
        a.responses.create(model="gpt-4o", input="x", previous_response_id=response.id)


def test_many_at_once_each_have_their_own(tmp_path: Path) -> None:
    with between(tmp_path, default=Account()) as (server, _), httpx.Client(base_url=server.url) as http:
        keys = {f"tenant-{number}": server.key(f"tenant-{number}") for number in range(8)}

        def make(tenant: str) -> tuple[str, str]:
            made = http.post("/v1/responses", json=ASK, headers={"x-api-key": keys[tenant]})
            return tenant, made.json()["id"]

        def read(asked: tuple[str, str, str]) -> bool:
            reader, owner, made = asked
            status = http.get(f"/v1/responses/{made}", headers={"x-api-key": keys[reader]}).status_code
            return status == (200 if reader == owner else 404)

        with ThreadPoolExecutor(16) as pool:
            made = [*pool.map(make, [*keys] * 5)]
            assert all(pool.map(read, [(reader, owner, one) for owner, one in made for reader in keys]))


def test_the_owner_is_the_subject_that_a_trusted_key_acts_for(tmp_path: Path) -> None:
    with between(tmp_path, default=Account()) as (server, _), httpx.Client(base_url=server.url) as http:
        key = server.key("platform", trusted=True)

        def headers(subject: str) -> dict[str, str]:
            return {"x-api-key": key, "x-tollgate-subject": subject}

        made = http.post("/v1/responses", json=ASK, headers=headers("user-1")).json()["id"]
        assert http.get(f"/v1/responses/{made}", headers=headers("user-1")).status_code == 200
        assert http.get(f"/v1/responses/{made}", headers=headers("user-2")).status_code == 404
        assert http.get(f"/v1/responses/{made}", headers={"x-api-key": key}).status_code == 404
        assert http.get(f"/v1/responses/{made}", headers={"x-api-key": server.key("user-1")}).status_code == 200


def test_deleting_forgets_it_only_where_the_upstream_did(tmp_path: Path) -> None:
    def refuses_deletion(peer: Peer) -> None:
        while True:
            request = peer.request()
            made = {"id": "resp_1", "object": "response", "status": "completed"}
            failed = request.method == "DELETE" and len(peer.upstream.requests) < 3
            peer.send(answer(orjson.dumps(made), status="500 No" if failed else "200 OK"))

    with between(tmp_path, default=refuses_deletion) as (server, _):
        headers = {"x-api-key": server.key()}
        httpx.post(f"{server.url}/v1/responses", json=ASK, headers=headers)
        url = f"{server.url}/v1/responses/resp_1"
        assert [httpx.delete(url, headers=headers).status_code for _ in range(3)] == [500, 200, 404]


def test_a_spoken_answer_can_be_named_by_whoever_has_heard_it(tmp_path: Path) -> None:
    spoken = {"choices": [{"message": {"role": "assistant", "audio": {"id": "audio_1", "data": "aGk="}}}]}
    pieces = event({"choices": [{"index": 0, "delta": {"audio": {"id": "audio_2"}}}]}) + b"data: [DONE]\n\n"
    ask = {"model": "gpt-audio", "messages": [], "modalities": ["audio"], "audio": {"voice": "alloy", "format": "wav"}}

    def next_turn(audio_id: str) -> dict[str, Any]:
        return ask | {"messages": [{"role": "assistant", "audio": {"id": audio_id}}]}

    with between(tmp_path, plain(orjson.dumps(spoken)), default=plain()) as (server, _):
        for tenant, status in (("tenant-a", 200), ("tenant-b", 404)):
            headers = {"x-api-key": server.key(tenant)}
            if tenant == "tenant-a":
                httpx.post(f"{server.url}/v1/chat/completions", json=ask, headers=headers)
            told = httpx.post(f"{server.url}/v1/chat/completions", json=next_turn("audio_1"), headers=headers)
            assert told.status_code == status
    with between(tmp_path, default=streams(pieces)) as (server, _):
        headers = {"x-api-key": server.key("tenant-a")}
        httpx.post(f"{server.url}/v1/chat/completions", json=ask | {"stream": True}, headers=headers)
        wait_until(lambda: "audio_2" in owners(server))


def test_the_operator_can_let_bodies_name_what_the_account_holds(tmp_path: Path) -> None:
    variables = {"TOLLGATE_SERVER__ALLOW_REFERENCES": "vector_store_ids, prompt"}
    with between(tmp_path, default=Account(), **variables) as (server, _), client(server) as a:
        search: Any = {"type": "file_search", "vector_store_ids": ["vs_shared"]}
        a.responses.create(model="gpt-4o", input="x", tools=[search], prompt={"id": "pmpt_1"})
        with pytest.raises(openai.PermissionDeniedError) as caught:
            a.responses.create(
                model="gpt-4o",
                input="x",
                prompt={"id": "p", "variables": {"f": {"type": "input_file", "file_id": "f"}}},
            )
        assert (caught.value.code, caught.value.param) == ("reference_not_allowed", "file_id")


def test_a_reference_that_nobody_knows_stops_the_start(tmp_path: Path) -> None:
    given = {"TOLLGATE_DATABASE_URL": f"sqlite:///{tmp_path}/t.db", "TOLLGATE_SERVER__ALLOW_REFERENCES": "file_id,file"}
    with pytest.raises(ConfigurationError, match=r"allow_references: 'file' is none of .*file_id"):
        create_app(load(given, directory=tmp_path))


@pytest.mark.parametrize(
    "body",
    [
        {"input": "the file_id is file-1", "metadata": {"file_id": "mine"}},
        {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {}}}}]},
        {"input": "x", "tools": [{"type": "function", "parameters": {"default": {"container_id": "x", "id": "y"}}}]},
        {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"conversation": {"id": "x"}}}}},
        {"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"input": "x", "tools": [{"type": "mcp", "connector_id": "connector_gmail", "headers": {"file_id": "x"}}]},
        {"input": "x", "previous_response_id": None, "conversation": None},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "aGk="}]}]},
        {"input": [{"role": "user", "content": "x", "id": None}]},
        {"input": [{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"file_id": "x"}'}]},
    ],
)
def test_what_only_looks_like_a_name_passes(tmp_path: Path, body: dict[str, Any]) -> None:
    with between(tmp_path, default=Account()) as (server, upstream):
        told = httpx.post(
            f"{server.url}/v1/responses", json=body | {"model": "gpt-4o"}, headers={"x-api-key": server.key()}
        )
        assert told.status_code == 200
        assert orjson.loads(upstream.requests[0].body) == body | {"model": "gpt-4o"}


def test_while_owners_cannot_be_looked_up_what_names_ids_waits(tmp_path: Path) -> None:
    with between(tmp_path, default=Account()) as (server, upstream):
        headers = {"x-api-key": server.key()}
        httpx.get(f"{server.url}/v1/models", headers=headers)
        asked = len(upstream.requests)
        (tmp_path / "tollgate.db").rename(tmp_path / "away.db")
        told = httpx.get(f"{server.url}/v1/responses/resp_1", headers=headers)
        assert (told.status_code, told.json()["error"]["code"]) == (503, "ledger_unavailable")
        assert len(upstream.requests) == asked
        (tmp_path / "away.db").rename(tmp_path / "tollgate.db")
        wait_until(lambda: httpx.get(f"{server.url}/v1/responses/resp_1", headers=headers).status_code == 404)


def test_a_gzipped_answer_names_things_too(tmp_path: Path) -> None:
    body = gzip.compress(orjson.dumps({"id": "resp_z", "object": "response", "status": "completed"}))
    script = plain(body, "content-type: application/json", "content-encoding: gzip")
    with between(tmp_path, default=script) as (server, _):
        headers = {"x-api-key": server.key(), "accept-encoding": "gzip"}
        assert httpx.post(f"{server.url}/v1/responses", json=ASK, headers=headers).json()["id"] == "resp_z"
        assert owners(server) == {"resp_z": "user-001"}


def test_an_error_makes_nothing(tmp_path: Path) -> None:
    script = plain(orjson.dumps({"id": "resp_1", "error": {"message": "no"}}), status="400 Bad Request")
    with between(tmp_path, default=script) as (server, _):
        httpx.post(f"{server.url}/v1/responses", json=ASK, headers={"x-api-key": server.key()})
        server.settlement()
        assert owners(server) == {}
