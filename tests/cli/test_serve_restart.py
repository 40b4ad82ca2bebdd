"""A rolling restart: one listening socket outlives the servers, and under load nobody notices their end."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash.machine import Clients, Server, account
from tests.crash.world import BOUND_S, KINDS, Kind, Upstream, ask, is_whole, log_of, request_of
from tests.delivery.receiver import Receiver
from tests.running import wait_until

RESTARTS = 5
CLIENTS = 16


class Closed(Exception):
    """The server closed a connection that had been used, before it said anything to the next request."""


class KeepAlive:
    """A client as SDKs are: its connection is used again, and made again where the server has closed it meanwhile.

    Whatever else keeps an answer from being whole is raised.
    """

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections = 0
        self.retries = 0

    async def ask(self, kind: Kind, number: int) -> bytes:
        request = request_of(self._key, kind, number)
        if self._streams is not None:
            try:
                return await self._exchange(*self._streams, request)
            except Closed:
                self.retries += 1
                self.close()
        self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        self.connections += 1
        return await self._exchange(*self._streams, request)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
        try:
            writer.write(request)
            first = await reader.readexactly(1)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            raise Closed from error
        head = first + await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        body = await (_chunked(reader) if b"transfer-encoding: chunked" in lines else _sized(reader, lines))
        if b"connection: close" in lines:
            self.close()
        return head + body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _sized(reader: asyncio.StreamReader, lines: list[bytes]) -> bytes:
    (length,) = (int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    return await reader.readexactly(length)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        part = await reader.readexactly(int(size, 16) + 2)
        body += size + part
        if part == b"\r\n":
            return body


async def keep_asking(client: KeepAlive, clients: Clients, seed: int) -> None:
    """One thing after the other, until the end."""
    dice = random.Random(seed)
    try:
        while not clients.ended.is_set():
            number = len(clients.asked)
            kind = clients.asked[number] = dice.choice(list(KINDS.values()))
            async with asyncio.timeout(BOUND_S):
                answer = await client.ask(kind, number)
            assert is_whole(kind, answer), answer
            clients.whole.add(number)
    finally:
        client.close()


class Lives:
    """The servers on one listening socket, each of which is there before the one before it ends."""

    def __init__(self, server: Server, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener
        self._living: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        directory = self._server.directory
        log = directory / "tollgate.log"
        listened = log_of(directory).count("listens on") if log.exists() else 0
        descriptor = self._listener.fileno()
        with log.open("ab") as written:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cli.activated", str(descriptor), "serve"],
                cwd=directory,
                env=self._server.environment,
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
        self._living.append(process)
        wait_until(lambda: log_of(directory).count("listens on") > listened or process.poll() is not None)
        assert process.poll() is None, log_of(directory)

    def end_the_oldest(self) -> None:
        oldest = self._living.pop(0)
        oldest.send_signal(signal.SIGTERM)
        assert oldest.wait(BOUND_S) == 0

    def roll(self) -> None:
        self.begin()
        self.end_the_oldest()

    def kill(self) -> None:
        for process in self._living:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class World:
    clients: Clients
    upstream: Upstream
    receiver: Receiver
    server: Server
    lives: Lives

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Receiver() as receiver, Upstream(pause_s=0.3) as upstream:
        server = Server(tmp_path, upstream, receiver)
        with socket.create_server(("127.0.0.1", server.port), backlog=128) as listener:
            lives = Lives(server, listener)
            try:
                yield World(Clients(), upstream, receiver, server, lives)
            finally:
                lives.kill()
    assert "Traceback" not in log_of(tmp_path)


async def test_a_rolling_restart_under_load_costs_no_answer_and_no_event(world: World) -> None:
    clients, upstream, receiver = world.clients, world.upstream, world.receiver
    keeping = [KeepAlive(world.port, world.server.key) for _ in range(CLIENTS)]
    await asyncio.to_thread(world.lives.begin)
    async with asyncio.TaskGroup() as group:
        for seed, client in enumerate(keeping):
            group.create_task(keep_asking(client, clients, seed))
        for _ in range(RESTARTS):
            await asyncio.to_thread(world.lives.roll)
        clients.ended.set()
    await asyncio.to_thread(wait_until, world.server.is_quiet)
    await asyncio.to_thread(world.lives.end_the_oldest)
    found = account(clients, upstream, receiver, kills=0)
    print(found)
    assert found.is_balanced, str(found)
    assert sorted(clients.whole) == sorted(clients.asked) == sorted(upstream.received)
    assert sorted(upstream.received) == sorted(number_of(event) for event in receiver.accepted)
    assert {event["data"]["outcome"] for event in receiver.accepted} == {"completed"}
    assert all(client.connections > RESTARTS for client in keeping), "each has met each server's end"


async def test_between_two_lives_those_who_connect_wait_for_the_second(world: World) -> None:
    await asyncio.to_thread(world.lives.begin)
    await asyncio.to_thread(world.lives.end_the_oldest)
    waiting = [asyncio.create_task(ask(world.port, world.server.key, KINDS["chat"], number)) for number in range(5)]
    await asyncio.to_thread(world.lives.begin)
    for answer in waiting:
        assert is_whole(KINDS["chat"], await answer)
    await asyncio.to_thread(world.lives.end_the_oldest)
    assert sorted(number_of(event) for event in world.receiver.accepted) == [0, 1, 2, 3, 4]


def number_of(event: dict[str, Any]) -> int:
    return int(event["data"]["requested_model"].removeprefix("m-"))
