"""The client, or the server itself, leaves before the answer is whole."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from proxy.model import Outcome, UsageSource
from tests.gateway.test_forward import CHAT, all_closed, between
from tests.raw import RawClient
from tests.running import wait_until
from tests.scripted import Peer, answer
from tests.streams import ASK, ASK_STREAM, DONE, PLAIN, SSE_HEAD, USAGE_EVENT, chunk, text


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_the_rest_of_a_stream_is_read_for_its_usage_when_the_client_has_left(
    tmp_path: Path, begun: bool, abruptly: bool
) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        if begun:
            peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.wait(go_on)
        peer.send(chunk(text("lo")) if begun else SSE_HEAD + chunk(text("Hello")))
        peer.send(chunk(USAGE_EVENT + DONE) + chunk(b""))

    with between(tmp_path, script) as (server, upstream):
        client = RawClient(server.port)
        with client:
            client.post(CHAT, server.key(), ASK_STREAM)
            wait_until(lambda: len(upstream.requests) == 1)
            if begun:
                client.read_until(text("Hel"))
            if abruptly:
                client.reset()
        wait_until(lambda: server.app.gateway.draining == 1)
        go_on.set()
        event = server.settlement()
        assert (event.outcome, event.usage_source) == (Outcome.CLIENT_DISCONNECTED, UsageSource.REPORTED)
        assert event.usage.total_tokens == 13
        # The upstream's answer was whole, so its connection serves on.
        assert upstream.counts.open == 1


def test_a_plain_answer_is_read_to_its_end_as_well(tmp_path: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.wait(go_on)
        peer.send(answer(PLAIN, "content-type: application/json"))

    with between(tmp_path, script) as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK)
            wait_until(lambda: len(upstream.requests) == 1)
        wait_until(lambda: server.app.gateway.draining == 1)
        go_on.set()
        event = server.settlement()
        assert (event.outcome, event.usage.total_tokens, event.status) == (Outcome.CLIENT_DISCONNECTED, 13, 200)


@pytest.mark.parametrize("begun", [False, True])
def test_reading_on_has_a_bound(tmp_path: Path, begun: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if begun:
            peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.stall()

    with between(tmp_path, script, TOLLGATE_UPSTREAM__DRAIN_TIMEOUT_S="0.3") as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK_STREAM)
            wait_until(lambda: len(upstream.requests) == 1)
            if begun:
                client.read_until(text("Hel"))
        event = server.settlement()
        assert (event.outcome, event.usage_source) == (Outcome.CLIENT_DISCONNECTED, UsageSource.ESTIMATED)
        all_closed(upstream)


def test_a_client_that_leaves_while_it_waits_for_a_connection_costs_nothing(tmp_path: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.wait(go_on)
        peer.send(answer(PLAIN, "content-type: application/json"))

    with between(tmp_path, script, TOLLGATE_UPSTREAM__CONNECTIONS_MAX="1") as (server, upstream):
        with RawClient(server.port) as first:
            first.post(CHAT, server.key(), ASK)
            wait_until(lambda: len(upstream.requests) == 1)
            with RawClient(server.port) as second:
                second.post(CHAT, server.key(), ASK)
                wait_until(lambda: server.app.admission.in_flight == 2)
            wait_until(lambda: server.app.gateway.draining == 1)
            go_on.set()
            first.read_until(PLAIN)
        events = server.settlements(2)
        assert {event.outcome for event in events} == {Outcome.COMPLETED, Outcome.CLIENT_DISCONNECTED}
        assert len(upstream.requests) == 1
        left = next(event for event in events if event.outcome is Outcome.CLIENT_DISCONNECTED)
        assert (left.status, left.usage.total_tokens) == (499, 0)


def test_a_stop_whose_grace_period_ends_settles_what_it_cuts(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.stall()

    with between(tmp_path, script) as (server, upstream), RawClient(server.port) as client:
        client.post(CHAT, server.key(), ASK_STREAM)
        client.read_until(text("Hel"))
        server.stop(grace_s=0)
        event = server.settlement()
        assert event.outcome is Outcome.SHUTDOWN
        all_closed(upstream)


@pytest.mark.parametrize("begun", [False, True])
def test_with_the_policy_cancel_the_upstream_is_closed_at_once(tmp_path: Path, begun: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if begun:
            peer.send(SSE_HEAD + chunk(text("Hel")))
        peer.stall()

    with between(tmp_path, script, TOLLGATE_UPSTREAM__ON_DISCONNECT="cancel") as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK_STREAM)
            wait_until(lambda: len(upstream.requests) == 1)
            if begun:
                client.read_until(text("Hel"))
        left = time.monotonic()
        all_closed(upstream)
        assert time.monotonic() - left < 1
        event = server.settlement()
        assert (event.outcome, event.on_disconnect) == (Outcome.CLIENT_DISCONNECTED, "cancel")
        assert event.status == (200 if begun else 499)


def test_reading_on_ends_at_its_bound_of_bytes(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SSE_HEAD)
        while True:  # until the proxy hangs up
            peer.send(chunk(text("x" * 1000)))

    with between(tmp_path, script, TOLLGATE_UPSTREAM__DRAIN_BYTES_MAX="100000") as (server, upstream):
        with RawClient(server.port) as client:
            client.post(CHAT, server.key(), ASK_STREAM)
            client.read_until(b"xxx")
        event = server.settlement()
        assert (event.outcome, event.on_disconnect) == (Outcome.CLIENT_DISCONNECTED, "drain")
        all_closed(upstream)


def test_so_many_answers_are_read_on_at_once_and_the_others_are_closed(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.stall()

    with between(tmp_path, default=script, TOLLGATE_UPSTREAM__DRAIN_ANSWERS_MAX="1") as (server, upstream):
        clients = [RawClient(server.port) for _ in range(3)]
        for client in clients:
            client.post(CHAT, server.key(), ASK_STREAM)
        wait_until(lambda: len(upstream.requests) == 3)
        for client in clients:
            client.reset()
        events = server.settlements(2)
        assert {event.on_disconnect for event in events} == {"cancel"}
        assert server.app.gateway.draining == 1
        server.stop(grace_s=0)
        assert server.settlements(3)[-1].on_disconnect == "drain"
