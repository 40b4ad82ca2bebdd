from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import openai
import orjson
import pytest

from proxy.upstream.sandbox import Sandbox

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def _address(base_url: str) -> tuple[str, int]:
    parts = urlsplit(base_url)
    return str(parts.hostname), int(parts.port or 0)


def test_it_serves_on_a_loopback_port_of_its_own_from_the_moment_that_start_returns() -> None:
    one, two = Sandbox(), Sandbox()
    urls = [one.start(), two.start()]
    assert urls[0] != urls[1]
    for url in urls:
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/models").status_code == 200
    one.stop()
    two.stop()


def test_stop_may_come_before_start_and_twice_and_start_may_come_again() -> None:
    sandbox = Sandbox()
    sandbox.stop()
    first = sandbox.start()
    assert sandbox.start() == first
    sandbox.stop()
    sandbox.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(_address(first))
    assert httpx.get(f"{sandbox.start()}/models").status_code == 200
    sandbox.stop()


def test_stop_is_quick_though_idle_connections_are_kept_alive_and_leaves_no_thread() -> None:
    threads = threading.active_count()
    sandbox = Sandbox()
    with httpx.Client(base_url=sandbox.start()) as client:
        client.get("/models")
        started_s = time.perf_counter()
        sandbox.stop()
        # It takes 0.1 to 0.2 s, by uvicorn's clock; the rest is for a busy machine.
        assert time.perf_counter() - started_s < 0.5
    assert threading.active_count() == threads


def test_stop_does_not_wait_for_open_streams_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sandbox = Sandbox(token_delay_s=30)
    body = {**BODY, "stream": True}
    with (
        httpx.Client(base_url=sandbox.start()) as client,
        client.stream("POST", "/chat/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        started_s = time.perf_counter()
        sandbox.stop()
        assert time.perf_counter() - started_s < 1
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert caplog.records == []


def test_a_client_that_leaves_while_it_sends_its_body_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    sandbox = Sandbox()
    url = sandbox.start()
    with socket.create_connection(_address(url)) as client:
        client.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert httpx.get(f"{url}/models").status_code == 200
    sandbox.stop()
    assert caplog.records == []


def test_the_start_and_the_end_are_not_logged_and_other_servers_logs_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "uvicorn.error")
    filters = list(logging.getLogger("uvicorn.error").filters)
    sandbox = Sandbox()
    sandbox.start()
    logging.getLogger("uvicorn.error").info("another server")
    sandbox.stop()
    assert [record.message for record in caplog.records if record.name == "uvicorn.error"] == ["another server"]
    assert logging.getLogger("uvicorn.error").filters == filters


def test_stop_is_quick_though_readers_stand_still() -> None:
    sandbox = Sandbox()
    address = _address(sandbox.start())
    body = orjson.dumps({**BODY, "n": 128, "stream": True})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        client.connect(address)
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        assert client.recv(1) == b"H"
        started_s = time.perf_counter()
        sandbox.stop()
        assert time.perf_counter() - started_s < 1


def test_a_delay_between_tokens_spreads_the_stream() -> None:
    sandbox = Sandbox(token_delay_s=0.005)
    with openai.OpenAI(base_url=sandbox.start(), api_key="any") as client:
        started_s = time.perf_counter()
        chunks = list(
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}], max_tokens=10, stream=True
            )
        )
        assert time.perf_counter() - started_s > 0.005 * len(chunks)
    sandbox.stop()


def test_a_thousand_calls_fifty_at_a_time_are_all_answered(base_url: str) -> None:
    with (
        httpx.Client(base_url=base_url, limits=httpx.Limits(max_connections=50), timeout=30) as client,
        ThreadPoolExecutor(50) as pool,
    ):
        answers = pool.map(
            lambda turn: client.post("/chat/completions", json={**BODY, "stream": turn % 2 == 0}), range(1_000)
        )
        assert {answer.status_code for answer in answers} == {200}
