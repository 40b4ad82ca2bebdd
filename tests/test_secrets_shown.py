"""What is secret is not shown by any object's `repr`, nor by a traceback that shows the values in its frames."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import TracebackException
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
import orjson
import pytest

from proxy.billing.openmeter import OpenMeter
from proxy.delivery.sinks import HttpSink
from proxy.errors import BadAnswer, ConnectFailed, SinkMisconfigured
from proxy.gateway.mask import Mask
from proxy.model import Hidden
from proxy.settings import load
from proxy.store.callers import Callers
from proxy.upstream.connect import Origin, connect
from proxy.upstream.connection import Connection
from proxy.upstream.route import bearer
from proxy.web import metrics
from tests.delivery.receiver import Answer, Receiver
from tests.running import Running, tollgate, wait_until
from tests.scripted import Peer, Script, ScriptedUpstream, answer, says
from tests.streams import ASK, PLAIN

UPSTREAM_KEY = "sk-CANARY-upstream"
OWN_KEY = "sk-CANARY-of-acme"
SINK_TOKEN = "kpat_CANARY-sink"
SINK_PASSWORD = "CANARY-password"
ADMIN_TOKEN = "CANARY-admin"
CHAT = "/v1/chat/completions"
#: The second is the first in base64, after a user's name of eight letters.
NOTHING_SHOWN = ("CANARY", "Q0FOQVJZ")


def assert_hidden(text: str, *keys: str) -> None:
    for secret in (*NOTHING_SHOWN, *keys):
        assert secret not in text, text[max(0, text.index(secret) - 300) :][:600]


def shown(error: BaseException) -> str:
    """All that a traceback can tell."""
    return "".join(TracebackException.from_exception(error, capture_locals=True).format())


@dataclass
class Caught(logging.Handler):
    """The errors that the server logs."""

    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        logging.getLogger().removeHandler(self)

    __hash__ = logging.Handler.__hash__

    def told(self) -> str:
        """The one error, with all that it can tell."""
        wait_until(lambda: bool(self.errors))
        return shown(self.errors[0])


@contextmanager
def secretive(directory: Path, upstream: str, receiver: Receiver) -> Iterator[Running]:
    """A Tollgate that has every kind of secret."""
    own = directory / "acme.key"
    own.write_text(OWN_KEY)
    variables = {
        "OPENAI_API_KEY": UPSTREAM_KEY,
        "OPENAI_BASE_URL": f"{upstream}/v1",
        "KONNECT_API_URL": receiver.base_url.replace("//", f"//somebody:{SINK_PASSWORD}@"),
        "KONNECT_TOKEN": SINK_TOKEN,
        "TOLLGATE_ADMIN_TOKEN": ADMIN_TOKEN,
        "TOLLGATE_SINK__LINGER_S": "0",
    }
    with tollgate(directory, **variables) as running:
        running.key("acme")
        with running.app.database.transaction() as connection:
            connection.execute("UPDATE tenants SET upstream_key = ? WHERE id = 'acme'", (f"file:{own}",))
        yield running


def post(running: Running, key: str) -> httpx.Response:
    """With the key wherever a client may put it."""
    headers = {"authorization": f"Bearer {key}", "x-api-key": key, "api-key": key, "cookie": f"a={key}"}
    return httpx.post(running.url + CHAT, json=ASK, headers=headers)


def objects(*modules: str) -> Iterator[object]:
    """All that live just now, of classes of these modules."""
    return (one for one in gc.get_objects() if str(type(one).__module__).partition(".")[0] in modules)


def test_no_object_shows_a_secret(tmp_path: Path) -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def waits(peer: Peer) -> None:
        peer.request()
        asked.release()
        peer.wait(go_on)
        peer.send(answer(PLAIN, "content-type: application/json"))

    with (
        ScriptedUpstream(default=waits) as upstream,
        Receiver() as receiver,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        keys = running.key(), running.key("acme")
        clients = [threading.Thread(target=post, args=(running, key)) for key in keys]
        for client in clients:
            client.start()
        assert all(asked.acquire(timeout=10) for _ in clients)
        texts: dict[str, str] = {}
        for one in objects("proxy"):
            texts[type(one).__name__] = texts.get(type(one).__name__, "") + f"{one!r}{one!s}"
        clients_too = "".join([f"{one!r}{one!s}" for one in objects("httpx", "httpcore")])
        go_on.set()
        for client in clients:
            client.join()
    for name in ("App", "Call", "Caller", "Connection", "Exchange", "HttpSink", "Hidden", "Metrics", "Origin", "Pool"):
        assert name in texts, name
    for name in ("Settings", "SinkSettings", "Upstream", "UpstreamKeys", "_File"):
        assert name in texts, name
    for text in texts.values():
        assert_hidden(text, *keys)
    assert "AsyncClient" in clients_too  # the sink's, and this test's own, which have other keys
    assert_hidden(clients_too)


@pytest.mark.parametrize("whose", ["user-001", "acme"])
def test_a_failure_in_forward_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    monkeypatch.setattr(Connection, "_arm", fails)
    with (
        ScriptedUpstream() as upstream,
        Receiver() as receiver,
        Caught() as caught,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        key = running.key(whose)
        seen = post(running, key)
    assert seen.json()["error"]["code"] == "internal_error"
    assert "in exchange" in caught.told()  # where the upstream's key is at hand
    assert_hidden(seen.text + caught.told(), key)


def test_a_failure_in_auth_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Callers, "_look_up", fails)
    with (
        ScriptedUpstream() as upstream,
        Receiver() as receiver,
        Caught() as caught,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        key = running.key()
        assert post(running, key).status_code == 500
    assert "in authenticate" in caught.told()
    assert "b'x-api-key'" in caught.told()  # the headers are there, and what is secret of them is not
    assert_hidden(caught.told(), key)


def test_a_failure_in_the_sink_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        ScriptedUpstream() as upstream,
        Receiver() as receiver,
        Caught() as caught,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        key = running.key()
        with monkeypatch.context() as patch:
            patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", fails)
            post_by_hand(running, key)
            told = caught.told()
    assert "in deliver" in told
    assert_hidden(told, key)


def test_a_failure_in_a_scrape_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "choose_encoder", fails)
    with (
        ScriptedUpstream() as upstream,
        Receiver() as receiver,
        Caught() as caught,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        assert httpx.get(f"{running.url}/metrics", headers=headers).status_code == 500
    assert "in metrics" in caught.told()
    assert_hidden(caught.told())


async def test_a_proxy_that_refuses_is_not_shown_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedUpstream(lambda peer: peer.send(b"HTTP/1.1 407 No\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//somebody:CANARY-password@"))
        origin = Origin.parse("https://upstream.test/v1")
        assert origin.tunnel is not None
        assert origin.tunnel.authorization
        with pytest.raises(ConnectFailed) as caught:
            await connect(origin)
    assert caught.tb is not None
    assert "tunnel = " in shown(caught.value)
    assert_hidden(shown(caught.value) + repr(origin))


def drips(script: bytes) -> Script:
    """Says this, byte by byte."""

    def talk(peer: Peer) -> None:
        peer.request()
        peer.drip(script)

    return talk


def post_by_hand(running: Running, key: str) -> None:
    """While httpx cannot: plain bytes on a socket."""

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        body = orjson.dumps(ASK)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

    asyncio.run(ask())


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("planted")


# What is hidden can still be used


def test_what_is_hidden_is_used_as_any_bytes() -> None:
    secret = Hidden(b"CANARY")
    assert (secret, b"%b" % secret, b"".join([secret]), secret + b"!") == (b"CANARY", b"CANARY", b"CANARY", b"CANARY!")
    assert f"{secret} {secret!r} {[secret]} {('x', secret)}" == "b'***' b'***' [b'***'] ('x', b'***')"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KONNECT_API_URL", "https://someone:CANARY@host/"),
        ("TOLLGATE_SINK__HTTP_URL", "https://host/?token=CANARY"),
        ("OPENAI_BASE_URL", "https://someone:CANARY@host/"),
        ("OPENAI_API_KEY", "sk-CANARY"),
    ],
)
def test_settings_show_none(tmp_path: Path, variable: str, value: str) -> None:
    settings = load({variable: value}, directory=tmp_path)
    assert_hidden(f"{settings!r}{settings!s}{settings.sink}{settings.upstream}")


# What others repeat


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda data: zlib.compress(data)[2:-4]])
def test_a_compressed_error_that_repeats_the_key_is_uncompressed_and_masked(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    packed = pack(orjson.dumps({"error": f"bad key {UPSTREAM_KEY}"}))
    script = answer(packed, f"content-encoding: {coding}", f"x-key: {UPSTREAM_KEY}", status="403 No")

    with (
        ScriptedUpstream(drips(script)) as upstream,
        Receiver() as receiver,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        seen = post(running, running.key())
    assert seen.json() == {"error": "bad key ******************"}
    assert seen.headers["x-key"] == "******************"
    assert "content-encoding" not in seen.headers


@pytest.mark.parametrize("body", [gzip.compress(b'{"error": "busy"}', mtime=0), b"not gzip", b""])
def test_a_compressed_error_that_does_not_passes_as_it_came(tmp_path: Path, body: bytes) -> None:
    script = answer(body, "content-encoding: gzip", status="500 No")
    with (
        ScriptedUpstream(drips(script)) as upstream,
        Receiver() as receiver,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        headers = {"x-api-key": running.key()}
        with httpx.stream("POST", running.url + CHAT, json=ASK, headers=headers) as seen:
            assert b"".join(seen.iter_raw()) == body
    assert (seen.headers["content-encoding"], seen.headers["content-length"]) == ("gzip", str(len(body)))


def test_a_key_in_an_error_that_only_claims_to_be_compressed_is_masked(tmp_path: Path) -> None:
    script = answer(f"bad {UPSTREAM_KEY}".encode(), "content-encoding: gzip", status="400 No")
    with (
        ScriptedUpstream(drips(script)) as upstream,
        Receiver() as receiver,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        headers = {"x-api-key": running.key()}
        with httpx.stream("POST", running.url + CHAT, json=ASK, headers=headers) as seen:
            assert b"".join(seen.iter_raw()) == b"bad ******************"


def test_an_error_too_long_to_be_searched_first_is_uncompressed_as_it_comes(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(400_000).hex()
    script = answer(gzip.compress(f"{noise}{UPSTREAM_KEY}".encode()), "content-encoding: gzip", status="400 No")
    with (
        ScriptedUpstream(says(script)) as upstream,
        Receiver() as receiver,
        secretive(tmp_path, upstream.url, receiver) as running,
    ):
        assert post(running, running.key()).text == f"{noise}******************"


def test_a_long_one_that_is_not_in_the_coding_that_it_names_goes_no_further() -> None:
    with pytest.raises(BadAnswer):
        Mask(bearer(UPSTREAM_KEY), b"gzip").feed(b"plain")


def test_a_compressed_error_passes_as_it_is_where_there_is_no_key_to_repeat() -> None:
    mask = Mask([], b"gzip")
    assert (mask.rewrites, mask.feed(b"\x1f\x8b")) == (False, b"\x1f\x8b")


def test_a_usual_key_looks_the_same_in_a_url() -> None:
    key = "sk-proj-Az09_-"
    assert (quote(key, safe=""), orjson.dumps(key)) == (key, f'"{key}"'.encode())


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ("//CANARY-token@", "CANARY-token"),  # a token as the user, without a password
        ("//CANARY-token:@", "CANARY-token"),
        ("//someone:CANARY-word@", "c29tZW9uZTpDQU5BUlktd29yZA=="),
        ("//:@", "Og=="),  # nothing of both, which stands between any two letters
    ],
)
async def test_what_a_receiver_repeats_of_the_url_is_starred_out(given: str, repeated: str) -> None:
    says = Answer.problem(401, detail=f"<{repeated}>")
    with Receiver(judge=lambda _: says) as receiver:
        sink = HttpSink(receiver.url.replace("//", given), timeout_s=5)
        with pytest.raises(SinkMisconfigured, match="<\\*\\*\\*>"):
            await sink.deliver([])
        await sink.close()
        engine = OpenMeter(receiver.base_url.replace("//", given))
        with pytest.raises(Exception, match="<\\*\\*\\*>"):
            await engine.get("/events")
        await engine.close()


async def test_what_a_receiver_repeats_of_the_query_is_starred_out() -> None:
    with Receiver(judge=lambda _: Answer.problem(401, detail="no: /events?code=CANARY-code&v=1")) as receiver:
        sink = HttpSink(f"{receiver.url}?code=CANARY-code&v=1", timeout_s=5)
        with pytest.raises(SinkMisconfigured, match="code=\\*\\*\\*&v=1"):
            await sink.deliver([])
        await sink.close()
    assert receiver.received[0].path == "/events?code=CANARY-code&v=1"
