"""Clients that leave, at every stage, plain and streamed, under both policies, many at a time.

`REPEATS=200 make test` makes each cell two hundred times; by default it is fewer.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.gateway.forward import Exchange
from proxy.gateway.handle import Gateway
from proxy.model import Outcome, Settlement, UsageSource
from tests.gateway.test_forward import CHAT, between
from tests.raw import RawClient
from tests.running import wait_until
from tests.scripted import Peer
from tests.streams import ASK, ASK_STREAM, DONE, PLAIN, SSE_HEAD, USAGE_EVENT, chunk, text

REPEATS = int(os.environ.get("REPEATS", "50"))
IN_FLIGHT = 16

STAGES = ("before it is read", "before the first byte", "in the middle", "before the usage", "after the last byte")
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(PLAIN)
#: What the upstream sends until a stage, and after it.
STREAM = (SSE_HEAD + chunk(text("Hel")), chunk(text("lo")), chunk(USAGE_EVENT + DONE) + chunk(b""))
ANSWER = (PLAIN_HEAD + PLAIN[:20], PLAIN[20:-60], PLAIN[-60:])


@dataclass
class Meeting:
    """How one request's client and upstream wait for each other."""

    reached: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)


@pytest.mark.parametrize("policy", ["drain", "cancel"])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_each_leaves_one_event_with_the_right_outcome_and_numbers(tmp_path: Path, policy: str, streamed: bool) -> None:
    meetings = [Meeting() for _ in range(REPEATS * len(STAGES))]

    def script(peer: Peer) -> None:
        while True:
            head = peer.read_head()
            number = int(head.partition(b"x-number: ")[2].partition(b"\r\n")[0])
            for part in parts(peer, head, STAGES[number % len(STAGES)], meetings[number]):
                peer.send(part)

    def parts(peer: Peer, head: bytes, stage: str, meeting: Meeting) -> Iterator[bytes]:
        def meet() -> None:
            meeting.reached.set()
            peer.wait(meeting.left)
            if stage == STAGES[4]:
                return
            # The upstream goes on only when the proxy knows that the client has left, which closes it or not.
            if policy == "cancel":
                peer.stall()
            else:
                wait_until(lambda: has_left(server.app.gateway, head))

        if stage == STAGES[0]:
            meet()
        peer.read_body(head)
        if stage == STAGES[1]:
            meet()
        for at, part in enumerate(STREAM if streamed else ANSWER, 2):
            yield part
            if stage == STAGES[at]:
                meet()

    def leave(number: int) -> None:
        stage, meeting = STAGES[number % len(STAGES)], meetings[number]
        with RawClient(server.port) as client:
            client.post(CHAT, key, ASK_STREAM if streamed else ASK, f"x-number: {number}")
            assert meeting.reached.wait(10)
            if stage == STAGES[4]:
                client.read_until(b"\r\n0\r\n\r\n" if streamed else PLAIN)
            elif stage in STAGES[2:]:
                client.read_until(b"\r\n\r\n")
            if number % 2:
                client.reset()
        meeting.left.set()

    with between(tmp_path, default=script, TOLLGATE_UPSTREAM__ON_DISCONNECT=policy) as (server, upstream):
        key = server.key()
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            list(threads.map(leave, range(len(meetings))))
        settlements = server.settlements(len(meetings))
        wait_until(lambda: server.app.admission.in_flight == 0)
        assert server.app.gateway.draining == 0
        if policy == "cancel":  # what is left are idle connections, no more than were ever in use at once
            wait_until(lambda: upstream.counts.open <= IN_FLIGHT)
    assert len(settlements) == len({one.id for one in settlements}) == len(meetings)
    assert Counter(map(cell, settlements)) == expected_cells(policy, streamed)


def has_left(gateway: Gateway, head: bytes) -> bool:
    """Whether the proxy has noticed that the client of this request is gone."""
    gone = [one._call.headers for one in tuple(gateway._leaving.draining) if isinstance(one, Exchange)]
    return any(b"x-number: %b\r\n" % dict(headers)[b"x-number"] in head for headers in gone)


Cell = tuple[Outcome, UsageSource, str, int]


def cell(one: Settlement) -> Cell:
    """What tells the cells of the matrix apart; of estimates, only whether output was counted."""
    total = one.usage.total_tokens if one.usage_source is UsageSource.REPORTED else int(one.usage.completion_tokens > 0)
    return one.outcome, one.usage_source, one.on_disconnect, total


def expected_cells(policy: str, streamed: bool) -> Counter[Cell]:
    whole = {(Outcome.COMPLETED, UsageSource.REPORTED, "", 13): REPEATS}
    gone = Outcome.CLIENT_DISCONNECTED
    if policy == "drain":
        return Counter(whole | {(gone, UsageSource.REPORTED, "drain", 13): 4 * REPEATS})
    if streamed:
        nothing, something = 2 * REPEATS, 2 * REPEATS
        return Counter(
            whole
            | {
                (gone, UsageSource.ESTIMATED, "cancel", 0): nothing,
                (gone, UsageSource.ESTIMATED, "cancel", 1): something,
            }
        )
    # Only in the last of the four a part of the text has come.
    cancelled = {
        (gone, UsageSource.ESTIMATED, "cancel", int(some)): (1 if some else 3) * REPEATS for some in (False, True)
    }
    return Counter(whole | cancelled)
