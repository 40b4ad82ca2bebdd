"""A metering engine that does as it is told: a real HTTP server on a loopback socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

import orjson

from tests.delivery.contract import faults

Event = dict[str, Any]
BOUND_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with a batch. `takes`: whether its events count as accepted (by default those of a 2xx do).

    `drops` breaks the connection where the answer should stand; `delay_s` passes before the answer, not before the
    events are taken: a client that times out meanwhile has delivered them.
    """

    status: int = 202
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    takes: bool | None = None
    drops: bool = False

    @classmethod
    def problem(cls, status: int, **members: Any) -> Answer:
        """A problem report (RFC 9457)."""
        body = orjson.dumps({"type": "about:blank", "status": status, **members})
        return cls(status, body, {"content-type": "application/problem+json"})


Judge = Callable[[list[Event]], Answer]


@dataclass(frozen=True, slots=True)
class Received:
    """One request. `events` is empty where the body is no JSON array."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    events: list[Event]

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


class Receiver:
    """Takes batches at `url`. `start` and `stop` may be called repeatedly, the port stays the same.

    Answers come from `script` in turn, then from `judge`; a script's item may itself be a judge. With `validate`, a
    batch that OpenMeter v3 would refuse is answered 400 before either is asked.
    """

    def __init__(
        self,
        script: Iterable[Answer | Judge] = (),
        *,
        judge: Judge | None = None,
        validate: bool = False,
    ) -> None:
        self.script: deque[Answer | Judge] = deque(script)
        self.judge = judge
        #: Every request, in the order of arrival.
        self.received: list[Received] = []
        #: Every event of each batch that was taken, repeats included.
        self.taken: list[Event] = []
        #: Connections made to it.
        self.connections = 0
        self._validate = validate
        self._changed = threading.Condition()
        self._port = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ends: asyncio.Event | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/events"

    @property
    def base_url(self) -> str:
        """What `konnect_api_url` would be."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def accepted(self) -> list[Event]:
        """The events taken, after repeats were dropped by source and id: the first one stands."""
        with self._changed:
            unique: dict[tuple[str, str], Event] = {}
            for event in self.taken:
                unique.setdefault((event["source"], event["id"]), event)
            return list(unique.values())

    @property
    def accepted_ids(self) -> list[str]:
        return [event["id"] for event in self.accepted]

    def start(self) -> Self:
        if self._thread is None:
            listener = socket.create_server(("127.0.0.1", self._port))
            self._port = listener.getsockname()[1]
            ready = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(listener, ready)), name="receiver", daemon=True
            )
            self._thread.start()
            assert ready.wait(BOUND_S)
        return self

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            assert self._loop is not None
            assert self._ends is not None
            self._loop.call_soon_threadsafe(self._ends.set)
            thread.join(BOUND_S)
            assert not thread.is_alive()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def until(self, condition: Callable[[Receiver], bool], bound_s: float = BOUND_S) -> None:
        """Wait until the condition holds, which is asked after each request. AssertionError when it never does."""
        assert await asyncio.to_thread(self._wait_for, condition, bound_s), (
            f"not within {bound_s} s: {len(self.received)} requests, {len(self.accepted)} events accepted"
        )

    def _wait_for(self, condition: Callable[[Receiver], bool], bound_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), bound_s)

    # In the thread

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            try:
                await self._converse(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client left, or the server ends
            finally:
                tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, sock=listener)
        ready.set()
        await self._ends.wait()
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head.rstrip("\r\n").split("\r\n")
            method, path, _ = line.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            answer = self._take(Received(method, path, headers, body, _events(body)))
            if answer.delay_s:
                await asyncio.sleep(answer.delay_s)
            if answer.drops:
                return
            writer.write(_bytes(answer))
            await writer.drain()

    def _take(self, request: Received) -> Answer:
        with self._changed:
            self.received.append(request)
            answer = self._answer(request)
            if answer.takes if answer.takes is not None else 200 <= answer.status < 300:
                self.taken += request.events
            self._changed.notify_all()
            return answer

    def _answer(self, request: Received) -> Answer:
        if self._validate and (found := faults(request.events)):
            return Answer.problem(400, title="Bad Request", detail=f"request body has an error: {found[0]}")
        answer = self.script.popleft() if self.script else self.judge or Answer()
        return answer if isinstance(answer, Answer) else answer(request.events)


def poisoned_by(poison: set[str]) -> Judge:
    """As OpenMeter does it: one bad event, and none of the batch is taken."""

    def judge(batch: list[Event]) -> Answer:
        bad = [event["id"] for event in batch if event["id"] in poison]
        return Answer.problem(400, title="Bad Request", detail=f"{bad[0]} is malformed") if bad else Answer()

    return judge


def _events(body: bytes) -> list[Event]:
    try:
        events = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    return events if isinstance(events, list) else []


def _bytes(answer: Answer) -> bytes:
    headers = {"content-length": str(len(answer.body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unheard Of"
