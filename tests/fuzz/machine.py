"""The machine: mutated requests and mutated answers against a real Tollgate, and what must hold all the same."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from proxy.store.tenants import create_key, create_tenant
from proxy.upstream.refusals import is_refusal
from tests.fuzz.messages import ASKED, Asked, with_recorded
from tests.fuzz.peers import Client, Reply, Upstream
from tests.fuzz.plan import TENANTS, Plan, plan, tags
from tests.running import Running, tollgate, wait_until

CLIENTS = 48
#: Exchanges between two looks at the ledger.
_EPOCH = 20_000
_QUIET_S = 20.0
_RSS_MIB_MAX = 64.0

SETTINGS = {
    "OPENAI_API_KEY": "sk-upstream",
    "TOLLGATE_UPSTREAM__FIRST_BYTE_TIMEOUT_S": "2",
    "TOLLGATE_UPSTREAM__BETWEEN_BYTES_TIMEOUT_S": "2",
    "TOLLGATE_UPSTREAM__DRAIN_TIMEOUT_S": "2",
    "TOLLGATE_UPSTREAM__CONNECTIONS_MAX": "40",
    "TOLLGATE_SERVER__BODY_TIMEOUT_S": "2",
}
#: What is logged as an error without being ours: an answer that broke off, a key that the upstream refuses.
_EXPECTED_ERRORS = ("ASGI callable returned without completing response", "the upstream refuses the key")


class Broken(AssertionError):
    """A promise that did not hold, and the exchange that shows it."""


@dataclass(slots=True)
class Account:
    """What was tried and what came of it."""

    seed: int
    mutations: int = 0
    exchanges: int = 0
    seconds: float = 0.0
    settlements: int = 0
    races: int = 0  #: clean requests on a connection that the upstream was just closing, or still had to speak on
    strays: int = 0  #: late answers that met another request, of the same tenant
    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    rss_mib: tuple[float, float] = (0.0, 0.0)  #: after the first epoch, and at the end

    def __str__(self) -> str:
        by = {str(status): count for status, count in sorted(self.statuses.items())} | dict(self.outcomes.most_common())
        return (
            f"seed {self.seed}: {self.mutations:,} mutations in {self.exchanges:,} exchanges, {self.seconds:.0f} s "
            f"({self.mutations / self.seconds:,.0f}/s), {self.settlements:,} settlements, longest exchange "
            f"{self.longest_s:.2f} s, RSS {self.rss_mib[0]:.0f} to {self.rss_mib[1]:.0f} MiB, "
            f"{self.races} clean requests met an upstream that closed or was late, {self.strays} of them another "
            f"answer to the same tenant\n  {by}"
        )


class _Errors(logging.Handler):
    """What is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith(_EXPECTED_ERRORS):
            trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            self.found.append(f"{record.name}: {record.getMessage()}\n{trace}")


@contextmanager
def _errors() -> Iterator[_Errors]:
    errors, silent = _Errors(), logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(errors)
    root.addHandler(silent)  # else warnings would go to standard error
    try:
        yield errors
    finally:
        root.removeHandler(errors)
        root.removeHandler(silent)


@dataclass(slots=True)
class _Epoch:
    """What the ledger must hold of the exchanges since the last look at it."""

    forwarded: int = 0  #: metered requests that the upstream was sent
    required: dict[bytes, Plan] = field(default_factory=dict)  #: ids that must be in the ledger
    required_unseen: int = 0  #: those of them that the upstream never saw
    forbidden: dict[bytes, Plan] = field(default_factory=dict)
    free: int = 0  #: exchanges that may or may not have left an event


class Machine:
    """One server, one upstream, many clients, in one process. `run` raises `Broken`."""

    server: Running  #: set before `run`

    def __init__(self, errors: _Errors, seed: int, base: tuple[Asked, ...]) -> None:
        self._errors = errors
        self._seed = seed
        self._base = base
        self._keys = [f"tg_fuzz{tenant}" * 5 for tenant in range(TENANTS)]  # known, so that a seed tells all
        self._plans: dict[bytes, Plan] = {}
        self._epoch = _Epoch()
        self._seq = 0
        self._idle_tasks = 0
        self.account = Account(seed)

    def answering(self) -> Upstream:
        return Upstream(self._plans, self._note)

    def _note(self, found: Plan | None, metered: bool) -> None:
        if found is None:
            self._epoch.forwarded += metered
            return
        found.seen += 1
        found.seen_metered = metered
        if found.seen == 1:
            self._epoch.forwarded += metered
        elif found.seen > len(found.answers) and not found.request_mutated:
            raise Broken(f"a request was sent twice\n{found}")
        elif not is_refusal(400, b"".join(found.answers[0].pieces)):
            self._epoch.forwarded += metered

    async def run(self, *, mutations: int, only: int | None = None) -> None:
        began = time.monotonic()
        number = 0
        with self.server.app.database.transaction() as connection:
            for tenant, key in enumerate(self._keys):
                create_tenant(connection, f"tenant-{tenant}", now_ms=0)
                create_key(connection, f"tenant-{tenant}", secret=key, now_ms=0)
        self._idle_tasks = self._tasks()
        while self.account.mutations < mutations:
            numbers = iter(range(number, number + _EPOCH) if only is None else [only])
            number += _EPOCH
            async with asyncio.TaskGroup() as clients:
                for _ in range(CLIENTS):
                    clients.create_task(self._client(numbers, mutations))
            await asyncio.to_thread(self._look)
            self.account.rss_mib = (self.account.rss_mib[0] or _rss_mib(), _rss_mib())
            if only is not None:
                break
        self.account.seconds = time.monotonic() - began
        before, after = self.account.rss_mib
        if after - before > _RSS_MIB_MAX:
            raise Broken(f"memory grew from {before:.0f} to {after:.0f} MiB")

    async def _client(self, numbers: Iterator[int], mutations: int) -> None:
        client: Client | None = None
        loop = asyncio.get_running_loop()
        for number in numbers:
            if self.account.mutations >= mutations:
                break
            one = plan(self._seed, number, self._keys, self._base)
            self._plans[one.tag] = one
            if client is None or not client.is_open:
                _, client = await loop.create_connection(Client, "127.0.0.1", self.server.port)
            began = loop.time()
            try:
                replies = await client.exchange(one)
                self._judge(one, replies)
            except BaseException as error:
                client.leave()  # with such a one open, uvloop may never close its loop
                if isinstance(error, Broken) or not isinstance(error, Exception):
                    raise
                raise Broken(f"{error!r}\n{one}") from error
            finally:
                del self._plans[one.tag]
            self.account.longest_s = max(self.account.longest_s, loop.time() - began)
            self.account.exchanges += 1
            self.account.mutations += one.mutations
            if one.request_mutated:
                client.leave()
        if client is not None:
            client.leave()

    def _judge(self, one: Plan, replies: list[Reply]) -> None:
        one.said = [b"%d %b" % (reply.status, bytes(reply.body[:2_000])) for reply in replies]
        for error in self._errors.found:
            raise Broken(f"{error}\nlogged at about\n{one}")
        for reply in replies:
            self.account.statuses[reply.status] += 1
            if reply.status == 500 and b'"internal_error"' in reply.body:
                raise Broken(f"an error of our own\n{one}")
            self._judge_tags(one, _plain(reply))
        if len(replies) > 1:  # the mutation made several requests of it; which of them the upstream saw is not told
            self._epoch.free += len(replies)
        else:
            self._expect(one, replies[0] if replies else None)
        if not one.is_clean:
            return
        if not one.seen or one.met_late:
            self.account.races += 1
        elif not (len(replies) == 1 and replies[0].is_whole):
            raise Broken(f"nothing was mutated, and the answer is not whole\n{one}")
        elif one.shown is not None and replies[0].body != one.shown:
            raise Broken(f"nothing was mutated, and the answer is another\n{one}")

    def _judge_tags(self, one: Plan, body: bytes) -> None:
        for other in tags(body) - {one.tag}:
            if other[:4] != one.tag[:4]:
                raise Broken(f"another tenant's bytes: {other!r}\n{one}")
            self.account.strays += 1

    def _expect(self, one: Plan, reply: Reply | None) -> None:
        """What the ledger must hold of this exchange, and must not."""
        epoch = self._epoch
        is_upstreams = reply is not None and reply.status >= 502 and b'"code":"upstream_' in reply.body
        if reply is None or not reply.request_id:
            epoch.free += not one.seen
        elif one.may_repeat or one.loses_tag or one.seen > 1 or (is_upstreams and one.request_mutated and not one.seen):
            epoch.free += 1
        elif one.seen_metered or (is_upstreams and one.metered):
            epoch.required[reply.request_id] = one
            epoch.required_unseen += not one.seen_metered
        else:
            epoch.forbidden[reply.request_id] = one

    def _look(self) -> None:
        """Wait until nothing is in flight, and compare the ledger with what was seen."""
        app = self.server.app
        wait_until(lambda: app.admission.in_flight == 0 and app.gateway.draining == 0, seconds=_QUIET_S)
        wait_until(lambda: self._tasks() <= self._idle_tasks, seconds=_QUIET_S)
        epoch, self._epoch = self._epoch, _Epoch()
        with closing(app.database.connect()) as connection:
            sql = "SELECT seq, id, outcome, subject FROM events WHERE seq > ? ORDER BY seq"
            rows = connection.execute(sql, (self._seq,)).fetchall()
        found = {row[1].encode(): row for row in rows}
        self._seq = rows[-1][0] if rows else self._seq
        self.account.settlements += len(rows)
        self.account.outcomes.update(row[2] for row in rows)
        for request_id, one in epoch.required.items():
            if request_id not in found:
                raise Broken(f"no settlement of {request_id!r}\n{one}")
            if found[request_id][3] != f"tenant-{one.tenant}":
                raise Broken(f"{request_id!r} was settled for {found[request_id][3]}\n{one}")
        for request_id, one in epoch.forbidden.items():
            if request_id in found:
                raise Broken(f"{request_id!r} was settled, and the upstream never saw it\n{one}")
        least = epoch.forwarded + epoch.required_unseen
        if not least - epoch.free <= len(found) <= least + epoch.free:
            raise Broken(f"{len(found)} settlements of {least} requests, give or take {epoch.free}")
        for error in self._errors.found:
            raise Broken(error)

    def _tasks(self) -> int:
        loop = self.server.app.commit._loop
        while True:
            try:
                return len(asyncio.all_tasks(loop))
            except RuntimeError:  # one ended while they were counted
                time.sleep(0.001)


def _plain(reply: Reply) -> bytes:
    if reply.coding.lower() != b"gzip":
        return bytes(reply.body)
    try:
        return bytes(reply.body) + zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(reply.body, 1 << 20)
    except zlib.error:
        return bytes(reply.body)


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def run(
    directory: Path, *, mutations: int, seed: int, only: int | None = None, base: tuple[Asked, ...] = ASKED
) -> Account:
    """Try this many mutations. Raises `Broken`, which says what did not hold and how to see it again."""

    async def drive() -> Account:
        loop = asyncio.get_running_loop()
        machine = Machine(errors, seed, base)
        upstream = await loop.create_server(machine.answering, "127.0.0.1", 0, backlog=1024)
        port = upstream.sockets[0].getsockname()[1]
        running = tollgate(directory, **SETTINGS, OPENAI_BASE_URL=f"http://127.0.0.1:{port}/v1")
        machine.server = await asyncio.to_thread(running.__enter__)
        try:
            await machine.run(mutations=mutations, only=only)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
            upstream.close()
        return machine.account

    with _errors() as errors, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(drive())


def attempt(seed: int, mutations: int, only: int | None) -> Account | str:
    """One worker's share, in a directory of its own: the account, or what did not hold."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            return run(Path(directory), mutations=mutations, seed=seed, only=only, base=with_recorded())
        except Broken as broken:
            return str(broken)
