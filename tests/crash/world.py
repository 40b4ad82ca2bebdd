"""The world around a server that is killed: an upstream and clients, each with a list of what it did.

Every request asks for a model of its own, `m-<number>`, by which the lists are compared.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

BOUND_S = 20.0
_CHUNKS = 6
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_QUEUED = {"status": "queued", "background": True, "usage": None}


def usage_of(number: int) -> tuple[int, int]:
    """Prompt and completion tokens that the upstream reports for a request: no two are the same."""
    return 1_000 + number, number % 97 + 1


class Upstream:
    """Answers chat completions, responses and embeddings, plain and streamed, slowly enough to be interrupted."""

    def __init__(self, *, pause_s: float, seed: int = 1) -> None:
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self.received: list[int] = []
        self._background: dict[str, str] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="upstream", daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(BOUND_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(BOUND_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        server = await asyncio.start_server(self._converse, sock=self._listener)
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ")[1]
                lines = head.lower().split("\r\n")
                length = int(next((line.split(":")[1] for line in lines if line.startswith("content-length:")), "0"))
                asked = json.loads(await reader.readexactly(length) or b"{}")
                if head.startswith("GET"):
                    model = self._background[path.rpartition("/")[2]]
                    body = json.dumps(_plain("/responses", model, int(model.removeprefix("m-")))).encode()
                    writer.write(_HEAD % len(body) + body)
                    continue
                await self._answer(path, asked, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the proxy was killed
        finally:
            writer.transport.abort()

    async def _answer(self, path: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        number = int(asked["model"].removeprefix("m-"))
        self.received.append(number)
        if asked.get("background"):
            self._background[f"resp_{number}"] = asked["model"]
            body = json.dumps(_plain(path, asked["model"], number) | _QUEUED).encode()
            writer.write(_HEAD % len(body) + body)
            return
        pause_s = self._pause_s * self._random.random()
        if not asked.get("stream"):
            await asyncio.sleep(pause_s)
            body = json.dumps(_plain(path, asked["model"], number)).encode()
            writer.write(_HEAD % len(body) + body)
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in _streamed(path, asked["model"], number):
            await asyncio.sleep(pause_s / _CHUNKS)
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _plain(path: str, model: str, number: int) -> dict[str, Any]:
    prompt, completion = usage_of(number)
    if path.endswith("/responses"):
        usage = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
        return {"id": f"resp_{number}", "object": "response", "model": model, "status": "completed", "usage": usage}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    if path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.0]}]
        usage = {"prompt_tokens": prompt, "total_tokens": prompt}
        return {"object": "list", "model": model, "data": data, "usage": usage}
    choice = {"index": 0, "message": {"role": "assistant", "content": f"for {model}"}, "finish_reason": "stop"}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def _streamed(path: str, model: str, number: int) -> list[bytes]:
    whole = _plain(path, model, number)
    if path.endswith("/responses"):
        begun: dict[str, Any] = {
            "type": "response.created",
            "response": whole | {"status": "in_progress", "usage": None},
        }
        delta: dict[str, Any] = {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "delta": f"for {model}",
        }
        events = [begun, *[delta] * _CHUNKS, {"type": "response.completed", "response": whole}]
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
    base = {"id": whole["id"], "object": "chat.completion.chunk", "model": model}
    chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": f"for {model} "}}], "usage": None}
    events = [base | chunk] * _CHUNKS + [base | {"choices": [], "usage": whole["usage"]}]
    return [*(f"data: {json.dumps(event)}\n\n".encode() for event in events), b"data: [DONE]\n\n"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to ask. `last` is in an answer that is whole to its reader."""

    path: str
    body: dict[str, Any]
    last: bytes

    @property
    def reports_output(self) -> bool:
        return not self.path.endswith("/embeddings")


_ASK = {"messages": [{"role": "user", "content": "Hello, how are you?"}]}
KINDS = {
    "chat": Kind("/v1/chat/completions", _ASK, b'"usage"'),
    "streamed chat": Kind("/v1/chat/completions", _ASK | {"stream": True}, b"[DONE]"),
    "streamed chat with usage": Kind(
        "/v1/chat/completions", _ASK | {"stream": True, "stream_options": {"include_usage": True}}, b"[DONE]"
    ),
    "response": Kind("/v1/responses", {"input": "Hello"}, b'"usage"'),
    "streamed response": Kind("/v1/responses", {"input": "Hello", "stream": True}, b'"response.completed"'),
    "embedding": Kind("/v1/embeddings", {"input": "Hello"}, b'"usage"'),
    "agent": Kind("/api/generate", {"prompt": "Hello"}, b'"usage"'),
}


def request_of(key: str, kind: Kind, number: int, headers: str = "") -> bytes:
    """The bytes of one request; `headers` are more of them."""
    body = json.dumps({"model": f"m-{number}", **kind.body}).encode()
    head = f"POST {kind.path} HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    return f"{head}{headers}content-length: {len(body)}\r\n\r\n".encode() + body


async def ask(port: int, key: str, kind: Kind, number: int, *, leaves_after_bytes: int | None = None) -> bytes:
    """One request on a connection of its own, and what came of it until the server closed, or the client left."""
    answer = b""
    writer = None
    try:
        async with asyncio.timeout(BOUND_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_of(key, kind, number, "connection: close\r\n"))
            while data := await reader.read(65536):
                answer += data
                if leaves_after_bytes is not None and len(answer) > leaves_after_bytes:
                    break
    except ConnectionError:
        pass  # the server was killed, or is not there
    finally:
        if writer is not None:
            writer.transport.abort()
    return answer


def is_whole(kind: Kind, answer: bytes) -> bool:
    """The client has all that it waits for, and the server said 200."""
    if not answer.startswith(b"HTTP/1.1 200") or kind.last not in answer:
        return False
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return length is None or len(body) == int(length.partition(b":")[2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def log_of(directory: Path) -> str:
    return (directory / "tollgate.log").read_text()
