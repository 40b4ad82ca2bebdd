"""Several workers keep the promises of one: limits to the last token, one event for each request, whoever is killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from proxy.limits import Written
from proxy.store.database import Database
from proxy.store.limits import set_limit
from proxy.store.tenants import create_key, create_tenant, keys, revoke_key
from tests.crash.machine import Clients, Server, account
from tests.crash.world import KINDS, Upstream, ask, is_whole, log_of
from tests.delivery.receiver import Receiver
from tests.process import Process, process
from tests.running import WAIT_S, wait_until
from tests.test_limits_hold import ASK, CHAT, CLIENTS, limit, spend, spent_by

WORKERS = 2
LIMIT = 2_500


def workers_of(pid: int) -> list[int]:
    """The processes that it has forked."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def workers(directory: Path, **environment: str) -> Iterator[Process]:
    """A server whose workers all serve."""
    with process(directory, "--workers", str(WORKERS), **environment) as server:
        assert server.url
        wait_until(lambda: len([*directory.glob("var/tollgate.db-holds-*")]) == WORKERS)
        yield server


#: Each request on a connection of its own, which is any worker's.
APART = httpx.Limits(max_keepalive_connections=0)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path}/var/tollgate.db")
    made.create()
    return made


def key_of(database: Database, tenant: str = "user-001") -> str:
    with database.transaction() as connection:
        create_tenant(connection, tenant, now_ms=0)
        return create_key(connection, tenant, now_ms=0)[1]


def metric(url: str, pattern: str) -> float:
    """The sum of all samples that match."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))


async def is_quiet(url: str) -> None:
    def in_flight() -> float:
        return metric(url, "tollgate_(requests_in_flight|answers_draining) ")

    await asyncio.sleep(1.1)  # as old as what others have counted may be
    await asyncio.to_thread(wait_until, lambda: in_flight() == 0)


def boards(directory: Path) -> list[Path]:
    return [*directory.glob("var/tollgate.db-board-*")]


def standings_of(url: str, key: str) -> set[tuple[int, int]]:
    """What is used and reserved, as each worker says: each connection is some other's."""
    with httpx.Client(limits=APART, headers={"x-api-key": key}) as client:
        answers = [client.get(f"{url}/api/usage").json() for _ in range(8)]
    return {(limit["used"], limit["reserved"]) for answer in answers for limit in answer["limits"]}


async def test_a_hard_limit_is_used_to_its_last_token_by_all_together(tmp_path: Path, database: Database) -> None:
    key = key_of(database)
    limit(database, f"tokens/total={LIMIT}")
    with workers(tmp_path) as server:
        told = await spend(server.url, key)
        await is_quiet(server.url)
        total = spent_by(database, "user-001")
        await asyncio.to_thread(wait_until, lambda: standings_of(server.url, key) == {(total, 0)})
        settled = metric(server.url, "tollgate_settlements_total")
        assert server.stop() == 0
    print(told, total)
    assert LIMIT - 60 < total <= LIMIT
    assert told["insufficient_quota"] == CLIENTS
    with closing(database.connect()) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (settled,)
    assert boards(tmp_path) == []


async def test_a_worker_that_is_killed_leaves_the_limit_as_strict_and_is_replaced(
    tmp_path: Path, database: Database
) -> None:
    key = key_of(database)
    limit(database, f"tokens/total={LIMIT}")
    with workers(tmp_path) as server:
        spending = asyncio.ensure_future(spend(server.url, key, leaving=True))
        await asyncio.to_thread(wait_until, lambda: spent_by(database, "user-001") > LIMIT // 5)
        before = workers_of(server.process.pid)
        os.kill(before[1], signal.SIGKILL)
        told = await spending
        assert told["gone"] > 0
        await asyncio.to_thread(wait_until, lambda: len(workers_of(server.process.pid)) == WORKERS)
        told = await spend(server.url, key)  # and the rest, with both
        await is_quiet(server.url)
        assert server.stop() == 0
    assert f"(process {before[1]}) was ended by SIGKILL, and another takes its place" in server.log
    total = spent_by(database, "user-001")
    print(told, total)
    assert told["insufficient_quota"] == CLIENTS, told
    assert LIMIT - 60 < total <= LIMIT


async def test_places_and_rates_are_counted_over_all_workers(tmp_path: Path, database: Database) -> None:
    key, other = key_of(database), key_of(database, "user-002")
    limit(database, "inflight=5")
    limit(database, "requests/minute=30", tenant="user-002")
    variables = {"TOLLGATE_SERVER__SHUTDOWN_GRACE_S": "0"}
    with Upstream(pause_s=0.0) as upstream, workers(tmp_path, OPENAI_BASE_URL=upstream.url, **variables) as server:
        port = int(server.url.rpartition(":")[2])
        upstream._pause_s = 60.0  # nothing ends by itself
        upstream._random.random = lambda: 1.0  # type: ignore[method-assign]
        asked = [asyncio.create_task(ask(port, key, KINDS["chat"], number)) for number in range(60)]
        waiting = set(asked)
        async with asyncio.timeout(WAIT_S):
            while len(waiting) > 5:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        _, waiting = await asyncio.wait(waiting, timeout=0.5)
        assert Counter(one.result().split(b" ")[1] for one in asked if one.done()) == {b"429": 55}
        for one in waiting:
            one.cancel()
        upstream._pause_s = 0.0
        answers = await asyncio.gather(*(ask(port, other, KINDS["chat"], number) for number in range(200)))
        assert Counter(answer.split(b" ")[1] for answer in answers) == {b"200": 30, b"429": 170}
        assert server.stop() == 0


def test_a_key_is_revoked_within_a_second_on_every_worker_and_a_limit_set(tmp_path: Path, database: Database) -> None:
    key, other = key_of(database), key_of(database, "user-002")
    with workers(tmp_path) as server:

        def told(by: str) -> Counter[int]:
            with httpx.Client(limits=APART, headers={"x-api-key": by}) as client:
                return Counter(client.post(server.url + CHAT, json=ASK).status_code for _ in range(12))

        assert told(key) == told(other) == {200: 12}
        with database.transaction() as connection:
            (one,) = keys(connection, "user-001")
            revoke_key(connection, one.id, now_ms=time.time_ns() // 1_000_000)
            set_limit(connection, "tenant", "user-002", Written.parse("requests/total=12"))
        time.sleep(1)
        assert told(key) == {401: 12}
        assert told(other) == {429: 12}
        assert server.stop() == 0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Server, Upstream, Receiver]]:
    with Receiver() as receiver, Upstream(pause_s=0.2) as upstream:
        server = Server(tmp_path, upstream, receiver)
        server.environment["TOLLGATE_WORKERS"] = str(WORKERS)
        yield server, upstream, receiver
    assert "Traceback" not in log_of(tmp_path), log_of(tmp_path)[-4_000:]


async def test_workers_are_killed_one_after_the_other_and_nothing_is_lost_or_doubled(
    world: tuple[Server, Upstream, Receiver],
) -> None:
    server, upstream, receiver = world
    clients = Clients()
    with server.life() as running:
        asking = [asyncio.create_task(clients.run(server.port, server.key, seed)) for seed in range(30)]
        for number in range(4):
            await asyncio.sleep(0.7)
            os.kill(workers_of(running.pid)[number % 2], signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: len(workers_of(running.pid)) == WORKERS)
        await asyncio.sleep(0.5)
        clients.ended.set()
        await asyncio.wait(asking, timeout=WAIT_S)
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        await asyncio.to_thread(wait_until, lambda: waiting(server) == 0)
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, WAIT_S) == 0
    found = account(clients, upstream, receiver, kills=4)
    print(found)
    assert found.is_balanced, str(found)
    assert server.holds() == []


@pytest.mark.parametrize("lock", ["board", "turn"])
async def test_a_worker_that_stands_still_with_a_lock_is_killed_and_the_others_go_on(
    world: tuple[Server, Upstream, Receiver], lock: str
) -> None:
    server, upstream, receiver = world
    database = Database(f"sqlite:///{server.directory}/var/tollgate.db")
    limit(database, "requests/minute=1000000")  # without a limit nobody needs the board
    clients = Clients()
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        asking = [asyncio.create_task(clients.run(server.port, server.key, seed)) for seed in range(30)]
        stopped, other = workers_of(running.pid)
        (file,) = server.directory.glob(f"var/tollgate.db-{lock}*")
        await asyncio.to_thread(stop_with, stopped, file)
        killed = f"(process {stopped}) was ended by SIGKILL, and another takes its place"
        await asyncio.to_thread(wait_until, lambda: killed in log_of(server.directory), seconds=2 * WAIT_S)
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        before = len(clients.whole)
        await asyncio.to_thread(wait_until, lambda: len(clients.whole) > before + 100)
        clients.ended.set()
        await asyncio.wait(asking, timeout=2 * WAIT_S)
        await asyncio.to_thread(wait_until, lambda: waiting(server) == 0)
        assert other in workers_of(running.pid), "it was only waiting"
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, WAIT_S) == 0
    assert f"(process {stopped}) has done nothing for 10 s, and is killed" in log_of(server.directory)
    found = account(clients, upstream, receiver, kills=1)
    print(found)
    assert found.is_balanced, str(found)


def stop_with(pid: int, file: Path) -> None:
    """Stop a process in a moment in which it has the kernel's lock of a file."""
    held = f"FLOCK  ADVISORY  WRITE {pid} "
    inode = f":{file.stat().st_ino} "

    def is_caught() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) == "T")
        if any(held in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(is_caught)


async def test_a_worker_that_stood_still_for_a_moment_goes_on(world: tuple[Server, Upstream, Receiver]) -> None:
    server, _, _ = world
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        pids = workers_of(running.pid)
        os.kill(pids[0], signal.SIGSTOP)
        await asyncio.sleep(5)
        os.kill(pids[0], signal.SIGCONT)
        for pid in (running.pid, *pids):  # as when the machine is suspended: all of them, and for as long as it may be
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(12)
        for pid in (running.pid, *pids):
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(3)
        assert workers_of(running.pid) == pids
        assert is_whole(KINDS["chat"], await ask(server.port, server.key, KINDS["chat"], 0))
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, WAIT_S) == 0


async def test_a_worker_that_stands_still_at_the_end_keeps_nobody(world: tuple[Server, Upstream, Receiver]) -> None:
    server, _, _ = world
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        stopped = workers_of(running.pid)[0]
        os.kill(stopped, signal.SIGSTOP)
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, 2 * WAIT_S) == 0
    assert f"(process {stopped}) was ended by SIGKILL while it stopped" in log_of(server.directory)


async def test_the_counts_of_all_are_the_ledger_s_and_the_receiver_s_whoever_is_asked(
    world: tuple[Server, Upstream, Receiver],
) -> None:
    server, _, receiver = world
    url = f"http://127.0.0.1:{server.port}"
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        answers = await asyncio.gather(*(ask(server.port, server.key, KINDS["chat"], number) for number in range(60)))
        assert all(is_whole(KINDS["chat"], answer) for answer in answers)
        await asyncio.to_thread(wait_until, lambda: waiting(server) == 0)
        await asyncio.to_thread(wait_until, lambda: counts_of(url) == {(60, 60, 0)})
        leaving, staying = workers_of(running.pid)
        os.kill(leaving, signal.SIGTERM)  # and another takes its place, with nothing in its counts
        await asyncio.to_thread(wait_until, lambda: leaving not in (now := workers_of(running.pid)) and len(now) == 2)
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        assert {settled for settled, _, _ in counts_of(url)} == {60}, "no counter falls"
        await asyncio.to_thread(wait_until, lambda: counts_of(url) == {(60, 60, 0)})
        assert staying in workers_of(running.pid)
        running.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.wait, WAIT_S) == 0
    assert len(receiver.taken) == 60, "one delivers at a time"


def counts_of(url: str) -> set[tuple[float, float, float]]:
    """Settled, delivered, in flight, as each worker says."""
    with httpx.Client(limits=APART) as client:
        pages = [client.get(f"{url}/metrics").text for _ in range(8)]
    found: set[tuple[float, float, float]] = set()
    for page in pages:
        samples = [re.findall(rf"^tollgate_{name} (\S+)$", page, re.MULTILINE) for name in _COUNTED]
        settled, delivered, in_flight = (sum(map(float, one)) for one in samples)
        found.add((settled, delivered, in_flight))
    return found


_COUNTED = (r"settlements_total\{.*\}", "events_delivered_total", "requests_in_flight")


def waiting(server: Server) -> int:
    with closing(server.ledger()) as connection:
        (count,) = connection.execute("SELECT count(*) FROM events WHERE state != 'accepted'").fetchone()
    return int(count)


async def test_sigterm_under_load_loses_no_request(world: tuple[Server, Upstream, Receiver]) -> None:
    server, upstream, receiver = world
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        asking = [asyncio.create_task(ask(server.port, server.key, KINDS["streamed chat"], n)) for n in range(60)]
        await asyncio.to_thread(wait_until, lambda: len(upstream.received) > 20)
        running.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking)
        assert await asyncio.to_thread(running.wait, WAIT_S) == 0
    whole = [number for number, answer in enumerate(answers) if is_whole(KINDS["streamed chat"], answer)]
    assert sorted(upstream.received) == whole, "who was not served was refused the connection"
    assert len(receiver.taken) == len(whole) > 20


async def test_workers_whose_supervisor_is_killed_finish_and_leave(world: tuple[Server, Upstream, Receiver]) -> None:
    server, upstream, receiver = world
    with server.life() as running:
        await asyncio.to_thread(wait_until, lambda: len(server.holds()) == WORKERS)
        pids = workers_of(running.pid)
        asking = [asyncio.create_task(ask(server.port, server.key, KINDS["streamed chat"], n)) for n in range(40)]
        await asyncio.to_thread(wait_until, lambda: len(upstream.received) == 40)
        running.kill()
        answers = await asyncio.gather(*asking)
        await asyncio.to_thread(wait_until, lambda: not any(is_alive(pid) for pid in pids))
    assert all(is_whole(KINDS["streamed chat"], answer) for answer in answers)
    assert len(receiver.taken) == 40
    assert server.holds() == []


def is_alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return state_of(pid) != "Z"
    return False


def state_of(pid: int) -> str:
    """As the kernel calls it: R, S, T (stopped), Z (a zombie)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
