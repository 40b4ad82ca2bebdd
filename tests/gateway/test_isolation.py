"""With an upstream account that all share, nobody reaches what another has made, on any route, by any spelling."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from proxy.wire.endpoints import OWNED, ROUTES, Access
from tests.gateway.account import Account
from tests.gateway.test_forward import between
from tests.running import Running
from tests.scripted import ScriptedUpstream

TSV = Path(__file__).parent.parent.parent.parent / "shared" / "contracts" / "openai-routes.tsv"
SECRET = "the words of A"
ASK = {
    "model": "gpt-4o",
    "input": "hi",
    "prompt": "hi",
    "messages": [{"role": "user", "content": "hi"}],
    "voice": "alloy",
}


@dataclass
class World:
    """One account; a Tollgate before it; tenant A, who has made things in the account; tenant B, who wants them."""

    account: Account
    server: Running
    upstream: ScriptedUpstream
    a: httpx.Client
    b: httpx.Client
    response: str
    item: str
    container: str
    conversation: str

    @property
    def of_a(self) -> list[str]:
        return [self.response, self.item, self.container, self.conversation, self.account.file]

    def assert_b_gets_nothing(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """Whatever B is told holds nothing of A's, and the upstream was not asked for any of it."""
        asked = len(self.upstream.requests)
        told = ask()
        assert SECRET not in told.text
        assert "somebody else" not in told.text
        for request in self.upstream.requests[asked:]:
            sent = request.head + request.body + orjson.dumps(_parsed(request.body))
            assert not [one for one in self.of_a if one.encode() in sent]
        return told


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    account = Account()
    with between(tmp_path_factory.mktemp("world"), default=account) as (server, upstream):
        clients = [
            httpx.Client(base_url=server.url, headers={"x-api-key": server.key(tenant)})
            for tenant in ("tenant-a", "tenant-b")
        ]
        with clients[0] as a, clients[1] as b:
            made = a.post("/v1/responses", json={"model": "gpt-4o", "input": SECRET}).json()
            conversation = a.post("/v1/conversations", json={"metadata": {"topic": SECRET}}).json()["id"]
            container = made["output"][1]["container_id"]
            yield World(account, server, upstream, a, b, made["id"], made["output"][2]["id"], container, conversation)


def routes() -> list[tuple[str, str]]:
    """Method and path of every route that OpenAI documents, where the list is here, and of all that the table knows."""
    known = {(one.method, one.name) for one in ROUTES if "*" not in one.method}
    if TSV.is_file():
        with TSV.open(newline="") as lines:
            known |= {(row["method"], "/v1" + row["path"]) for row in csv.DictReader(lines, delimiter="\t")}
    return sorted(known)


def path_to(world: World, path: str) -> str:
    """A route's path to what is A's."""
    path = re.sub(r"(/responses/){\w+}", rf"\g<1>{world.response}", path)
    path = re.sub(r"(/conversations/){\w+}", rf"\g<1>{world.conversation}", path)
    path = re.sub(r"(/items/){\w+}", rf"\g<1>{world.item}", path)
    return re.sub(r"{\w+}", world.account.file, path.replace("{model}", "gpt-4o"))


@pytest.mark.parametrize("route", routes(), ids=" ".join)
def test_on_no_route_is_anything_of_another_listed_read_changed_or_deleted(
    world: World, route: tuple[str, str]
) -> None:
    method, path = route
    body = {"json": ASK} if method == "POST" else {}
    told = world.assert_b_gets_nothing(lambda: world.b.request(method, path_to(world, path), **body))  # type: ignore[arg-type] # json=
    if "{" in path and not path.startswith("/v1/models/"):
        assert told.status_code in (403, 404, 501)
    assert told.status_code < 500 or told.status_code == 501
    assert set(world.of_a) <= world.account.contents.keys()  # it is all still there


@pytest.mark.parametrize("route", [one for one in OWNED if "{" in one.name], ids=lambda one: f"{one.method} {one.name}")
def test_what_is_another_s_and_what_is_not_there_are_told_alike(world: World, route: Any) -> None:
    path = path_to(world, route.name)
    theirs = world.b.request(route.method, path)
    for one in (world.response, world.conversation):
        path = path.replace(one, one[:-4] + "ffff")
    nobodys = world.b.request(route.method, path)
    assert theirs.status_code == nobodys.status_code == 404
    error, other = theirs.json()["error"], nobodys.json()["error"]
    assert error["message"].replace(world.response, "ID").replace(world.conversation, "ID") == re.sub(
        r"\w+_0{20,}\w+", "ID", other["message"]
    )
    assert re.fullmatch(r"(Response|Conversation) with id 'ID' not found\.", re.sub(r"'\w+'", "'ID'", error["message"]))
    assert {name: error[name] for name in ("type", "param", "code")} == {
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    same = {name: value for name, value in theirs.headers.items() if name not in ("date",) and "request-id" not in name}
    assert same.keys() == {name for name in nobodys.headers if name != "date" and "request-id" not in name}


SPELLINGS = [
    *(
        "/v1/responses/{r}/",
        "/v1//responses/{r}",
        "/v1/responses//{r}",
        "/v1/responses/./{r}",
        "/v1/responses/x/../{r}",
    ),
    *(
        "/v1/responses/%72{tail}",
        "/v1/responses%2F{r}",
        "/v1/%72esponses/{r}",
        "/v1/responses/{r}%00",
        "/v1/responses/{r}%20",
    ),
    *("/v1/responses/{r};x", "/v1/responses/{r}%3F", "/v1/responses/{r}%23", "/v1/Responses/{r}", "/V1/responses/{r}"),
    *(
        "/v1/responses/{r}/cancel/",
        "/v1/responses/{r}/../{r}",
        "/v1/responses/..%2Fresponses%2F{r}",
        "/v1/responses/{R}",
    ),
    *("/v1/models/../responses/{r}", "/v1/models/..%2fresponses%2f{r}", "/v1/models/%2e%2e/responses/{r}"),
    *("/v1/conversations/{c}/", "/v1/conversations/{c}/items/", "/v1/conversations/{c}/items/{i}/", "/v1/files/{f}%20"),
]


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "HEAD", "PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("spelling", [*SPELLINGS, "/v1/responses/{r}", "/v1/responses/{r}?stream=true"])
def test_no_spelling_of_a_path_and_no_method_gets_around(world: World, method: str, spelling: str) -> None:
    path = spelling.format(
        r=world.response,
        R=world.response.upper(),
        tail=world.response[1:],
        c=world.conversation,
        i=world.item,
        f=world.account.file,
    )
    told = world.assert_b_gets_nothing(lambda: raw(world, method, path))
    assert told.status_code in (400, 403, 404, 405)


def raw(world: World, method: str, path: str) -> httpx.Response:
    """A request whose path goes out as it is written."""
    url = httpx.URL(world.server.url).copy_with(raw_path=path.encode())
    return world.b.send(world.b.build_request(method, url))


@pytest.mark.parametrize(
    "header", ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"]
)
def test_no_header_makes_another_request_of_one_that_is_served(world: World, header: str) -> None:
    value = "GET" if "method" in header else f"/v1/responses/{world.response}"
    told = world.assert_b_gets_nothing(lambda: world.b.post("/v1/chat/completions", json=ASK, headers={header: value}))
    assert told.status_code == 200
    assert header not in world.upstream.requests[-1].headers


def naming(world: World) -> dict[str, tuple[int, str]]:
    """Bodies that name something of A's, or of the account, where OpenAI's API takes it; and the answer's status."""
    r, i, c, k, f = world.response, world.item, world.conversation, world.container, world.account.file
    ask = '{"model":"gpt-4o","input":"hi",%s}'
    part = '{"model":"gpt-4o","input":[{"role":"user","content":[%s]}]}'
    tool = ask % '"tools":[%s]'
    item = '{"model":"gpt-4o","input":[{"role":"user","content":"hi"},%s]}'
    return {
        "previous response": (404, ask % f'"previous_response_id":"{r}"'),
        "previous response in a list": (404, ask % f'"previous_response_id":["{r}"]'),
        "previous response, first": (404, ask % f'"previous_response_id":"{r}","previous_response_id":null'),
        "previous response, last": (404, ask % f'"previous_response_id":null,"previous_response_id":"{r}"'),
        "previous response, folded": (404, ask % f'"Previous_Response_Id":"{r}"'),
        "previous response, folded further": (404, ask % f'"previou\\u017f_re\u017fponse_id":"{r}"'),
        "previous response, escaped": (404, ask % f'"previous\\u005fresponse_id":"{r}"'),
        "previous response, its id escaped": (404, ask % f'"previous_response_id":"\\u0072{r[1:]}"'),
        "comparison": (404, ask % f'"prompt_cache_options":{{"comparison_response_id":"{r}"}}'),
        "conversation": (404, ask % f'"conversation":"{c}"'),
        "conversation as an object": (404, ask % f'"conversation":{{"id":"{c}"}}'),
        "conversation, its id folded": (404, ask % f'"conversation":{{"ID":"{c}"}}'),
        "conversation, its id twice": (404, ask % f'"conversation":{{"id":"{c}","id":"conv_0"}}'),
        "item reference": (404, item % f'{{"type":"item_reference","id":"{i}"}}'),
        "item reference without a type": (404, item % f'{{"id":"{i}"}}'),
        "item in the first of two inputs": (404, f'{{"model":"m","input":[{{"id":"{i}"}}],"input":"hi"}}'),
        "item with content beside it": (404, item % f'{{"type":"message","id":"{i}","role":"user","content":"x"}}'),
        "reasoning": (404, item % f'{{"type":"reasoning","id":"{i}","summary":[]}}'),
        "image": (404, item % f'{{"type":"image_generation_call","id":"{i}"}}'),
        "approval": (404, item % f'{{"type":"mcp_approval_response","approval_request_id":"{i}","approve":true}}'),
        "container": (404, tool % f'{{"type":"code_interpreter","container":"{k}"}}'),
        "container of a shell": (
            404,
            tool % f'{{"type":"shell","environment":{{"type":"container_reference","container_id":"{k}"}}}}',
        ),
        "file": (403, part % f'{{"type":"input_file","file_id":"{f}"}}'),
        "file, first of two": (403, part % f'{{"type":"input_file","file_id":"{f}","file_id":null}}'),
        "file behind another part": (403, part % f'{{"type":"input_file","file_id":"{f}"}}],"content":[{{"text":"x"}}'),
        "image file": (403, part % f'{{"type":"input_image","file_id":"{f}"}}'),
        "screenshot": (403, item % f'{{"type":"computer_call_output","output":{{"file_id":"{f}"}}}}'),
        "output of a function": (403, item % f'{{"type":"function_call_output","output":[{{"file_id":"{f}"}}]}}'),
        "files of a container": (
            403,
            tool % f'{{"type":"code_interpreter","container":{{"type":"auto","file_ids":["{f}"]}}}}',
        ),
        "mask": (403, tool % f'{{"type":"image_generation","input_image_mask":{{"file_id":"{f}"}}}}'),
        "vector store": (403, tool % '{"type":"file_search","vector_store_ids":["vs_1"]}'),
        "prompt": (403, ask % '"prompt":{"id":"pmpt_1","version":"2"}'),
        "prompt's variables": (403, ask % f'"prompt":{{"variables":{{"metadata":{{"file_id":"{f}"}}}}}}'),
        "skill": (
            403,
            tool % '{"type":"shell","environment":{"skills":[{"type":"skill_reference","skill_id":"sk_1"}]}}',
        ),
        "tunnel": (403, tool % '{"type":"mcp","server_label":"x","tunnel_id":"tun_1"}'),
    }


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens", "/v1/conversations"]
)
def test_no_body_names_what_is_not_the_tenant_s_own(world: World, path: str) -> None:
    for name, (status, body) in naming(world).items():
        text = body.replace('"input":[', '"items":[') if path == "/v1/conversations" else body
        told = world.assert_b_gets_nothing(lambda text=text: world.b.post(path, content=text.encode()))  # type: ignore[misc] # a default
        assert told.status_code == status, name
        error = told.json()["error"]
        if status == 404:
            assert error["message"].endswith("not found."), name
        else:
            assert error["code"] == "reference_not_allowed", name
            assert f'"{error["param"]}" in TOLLGATE_SERVER__ALLOW_REFERENCES' in error["message"], name


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "FILE"}}]}]},
        ),
        ("/v1/chat/completions", {"messages": [], "audio": {"format": "wav", "voice": {"id": "voice_1"}}}),
        ("/v1/images/edits", {"prompt": "x", "images": [{"file_id": "FILE"}]}),
        ("/v1/images/edits", {"prompt": "x", "mask": {"FILE_ID": "FILE"}}),
        ("/v1/audio/speech", {"input": "x", "voice": {"id": "voice_1"}}),
        ("/v1/audio/speech", {"input": "x", "voice": "voice_1"}),
    ],
)
def test_nor_does_one_on_any_other_route(world: World, path: str, body: dict[str, Any]) -> None:
    text = orjson.dumps(body | {"model": "m"}).replace(b"FILE", world.account.file.encode()).replace(b"-_", b"_")
    if b"FILE_ID" in orjson.dumps(body):
        text = orjson.dumps({"model": "m", "prompt": "x", "mask": {"FILE_ID": world.account.file}})
    told = world.assert_b_gets_nothing(
        lambda: world.b.post(path, content=text, headers={"content-type": "application/json"})
    )
    assert told.status_code in (403, 404)


def test_nor_does_a_form(world: World) -> None:
    for name in ("file_id", "image[0][file_id]", "mask[File_Id]", "mask%5Bfile%5Fid%5D"):
        files = {name: (None, world.account.file), "image": ("a.png", b"\x89PNG")}
        told = world.assert_b_gets_nothing(
            lambda files=files: world.b.post("/v1/images/edits", data={"model": "m"}, files=files)  # type: ignore[misc] # a default
        )
        assert told.status_code == 403, name


@pytest.mark.parametrize("charset", ["utf-7", "utf-16", "x-unknown"])
def test_a_body_says_the_same_to_everyone(world: World, charset: str) -> None:
    content = b'{"model":"m","input":"x","+AHA-revious+AF8-response+AF8-id":"resp_1"}'
    headers = {"content-type": f"application/json; charset={charset}"}
    told = world.assert_b_gets_nothing(lambda: world.b.post("/v1/responses", content=content, headers=headers))
    assert told.status_code == 400


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("path", ["/v1/responses/input_tokens", "/v1/conversations", "/v1/responses"])
def test_a_body_in_another_encoding_is_refused_wherever_it_could_name_something(
    world: World, path: str, encoding: str
) -> None:
    content = orjson.dumps({"model": "m", "previous_response_id": world.response}).decode().encode(encoding)
    told = world.assert_b_gets_nothing(lambda: world.b.post(path, content=content))
    assert told.status_code == 400


def test_a_key_that_repeats_a_request_repeats_only_the_tenant_s_own(world: World) -> None:
    for client in (world.a, world.b):
        client.post("/v1/responses", json=ASK, headers={"idempotency-key": "order-1"})
    first, second = (request.headers["idempotency-key"] for request in world.upstream.requests[-2:])
    assert first != second
    world.a.post("/v1/responses", json=ASK, headers={"idempotency-key": "order-1"})
    assert world.upstream.requests[-1].headers["idempotency-key"] == first


def test_the_table_covers_every_access() -> None:
    assert {one.access for one in ROUTES} == set(Access)
