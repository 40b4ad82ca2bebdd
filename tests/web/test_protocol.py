"""Clients that are slow, deaf, hasty or too many, on real sockets: what they are told, and what becomes of them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import orjson
import pytest

from proxy.sections import ServerSettings
from proxy.web import protocol
from tests.hostile.shapes import Seen
from tests.raw import RawClient
from tests.running import WAIT_S, wait_until
from tests.web.answering import CHUNKED, GET, LARGE, POST, Server, answers, refused, running, slow_client


@pytest.fixture(scope="module")
def lasting() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(lasting: Server) -> Iterator[Server]:
    yield lasting
    lasting.app.go_on.set()
    lasting.forget()


@pytest.fixture(autouse=True)
def swept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_SWEEP_S", 0.02)


def trickle(client: RawClient, data: bytes) -> None:
    """A few bytes now and then, until the server has had enough."""
    for at in range(len(data)):
        if not client.is_silent(0.01):
            return
        client.send(data[at : at + 1])


# Heads that do not come, or do not end


def test_a_client_that_says_nothing_is_left_without_a_word() -> None:
    with running(head_timeout_s=0.1) as server, server.client() as client:
        assert client.read_to_end() == b""
        wait_until(lambda: server.connections == 0)


def test_a_client_that_says_nothing_but_empty_lines_is_left_as_well() -> None:
    with running(head_timeout_s=0.1) as server, server.client() as client:
        client.send(b"\r\n\r\n")
        assert client.read_to_end() == b""


def test_half_a_head_is_408_after_a_while() -> None:
    with running(head_timeout_s=0.1) as server, server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nhost: t\r\n")
        refused(client.read_to_end(), 408, "request_timeout", "0.1 s")
        server.serves()


def test_a_head_that_trickles_in_is_408_as_well() -> None:
    with running(head_timeout_s=0.2) as server, server.client() as client:
        trickle(client, b"GET /" + b"a" * 1_000)
        refused(client.read_to_end(), 408, "request_timeout")
        assert server.app.heard == []


@pytest.mark.parametrize("at_once", [False, True])
def test_so_is_the_next_head_on_a_connection_that_has_served_one(at_once: bool) -> None:
    with running(head_timeout_s=0.2) as server, server.client() as client:
        client.send(GET % b"a" + (b"G" if at_once else b""))
        assert answers(client.read_until(b"a:")) == [b"a:"]
        client.received = b""
        trickle(client, b"ET /" + b"a" * 1_000)
        client.read_to_end()
        if at_once:
            refused(client.received, 408, "request_timeout")
        else:
            refused(client.received, 400, None)  # "ET" is no method


def test_a_connection_that_has_served_one_is_kept_for_its_time_whatever_the_deadline_of_heads() -> None:
    with running(head_timeout_s=0.05) as server, server.client() as client:
        client.send(GET % b"a")
        client.read_until(b"a:")
        assert client.is_silent(0.2)
        client.send(GET % b"b")
        assert client.read_until(b"b:")


def test_a_head_that_has_begun_keeps_an_idle_connection() -> None:
    with running(keep_alive_s=1) as server, server.client() as client:
        client.send(GET % b"a" + b"GET /b")
        client.read_until(b"a:")
        assert client.is_silent(1.3)
        client.send((GET % b"b")[6:])
        client.read_until(b"b:")


@pytest.mark.parametrize("said", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_an_idle_connection_is_closed_after_its_time_even_if_empty_lines_come(said: bytes) -> None:
    with running(keep_alive_s=1) as server, server.client() as client:
        client.send(GET % b"a")
        client.read_until(b"a:")
        client.send(said)
        assert answers(client.read_to_end()) == [b"a:"]


# More than one request at once


def test_requests_that_come_together_are_answered_in_their_order(server: Server) -> None:
    with server.client() as client:
        client.send(GET % b"wait" + b"".join(POST % (b"%d" % number, 1, b"x") for number in range(8)))
        wait_until(lambda: len(server.app.heard) == 1)
        server.app.go_on.set()
        assert answers(client.read_until(b"7:x")) == [b"wait:", *(b"%d:x" % number for number in range(8))]
        client.send(GET % b"again")
        client.read_until(b"again:")


def test_no_more_than_eight_of_them_wait_and_the_next_is_told_so_in_its_turn(server: Server) -> None:
    with server.client() as client:
        client.send(GET % b"wait" + GET % b"x" * 5_000)
        wait_until(lambda: len(server.app.heard) == 1)
        server.app.go_on.set()
        *served, refusal = answers(client.read_to_end())
    assert served == [b"wait:"] + [b"x:"] * 8
    assert "Wait for an answer" in orjson.loads(refusal)["error"]["message"]
    assert len(server.app.heard) == 9


@pytest.mark.parametrize(
    "bad",
    [b"BAD / HTTP/1.1\r\n\r\n", GET[:-2] % b"x" + b"host: t\r\n\r\n", CHUNKED % b"x" + b"2\r\nhi\r\nzz\r\n"],
    ids=["a method", "a host", "a body"],
)
@pytest.mark.parametrize("waiting", [0, 2])
def test_what_is_no_request_is_told_after_the_answers_before_it(server: Server, waiting: int, bad: bytes) -> None:
    with server.client() as client:
        client.send(GET % b"wait" + POST % (b"a", 2, b"hi") * waiting + bad + GET % b"never")
        wait_until(lambda: len(server.app.heard) == 1)
        server.app.go_on.set()
        *served, refusal = answers(client.read_to_end())
    assert served == [b"wait:"] + [b"a:hi"] * waiting
    assert orjson.loads(refusal)["error"]["type"] == "invalid_request_error"
    assert len(server.app.heard) == 1 + waiting
    wait_until(lambda: server.connections == 0)


def test_a_head_that_does_not_come_is_told_after_the_answer_before_it() -> None:
    with running(head_timeout_s=0.1) as server, server.client() as client:
        client.send(GET % b"wait" + b"GET /half")
        assert client.is_silent(0.3)
        server.app.go_on.set()
        served, refusal = answers(client.read_to_end())
        assert served == b"wait:"
        assert orjson.loads(refusal)["error"]["code"] == "request_timeout"


def test_nothing_is_served_after_a_request_that_was_to_be_the_last(server: Server) -> None:
    with server.client() as client:
        client.send(b"GET /a HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n" + GET % b"b")
        assert answers(client.read_to_end()) == [b"a:"]
    assert len(server.app.heard) == 1


def test_a_client_that_leaves_takes_its_waiting_requests_along(server: Server) -> None:
    with server.client() as client:
        client.send(GET % b"listen" + GET % b"x" * 3)
        wait_until(lambda: len(server.app.heard) == 1)
    wait_until(lambda: server.app.gone == [b"listen"])
    wait_until(lambda: server.connections == server.tasks == 0)
    assert len(server.app.heard) == 1


# Clients that were answered before they had sent everything


@pytest.mark.parametrize("kept", [b"keep-alive", b"close"])
def test_a_client_that_was_answered_early_may_finish_and_reads_its_answer(server: Server, kept: bytes) -> None:
    """Much more than the systems hold between the two: were it not read, the answer would be lost with a reset."""
    head = b"POST /early HTTP/1.1\r\nhost: t\r\nconnection: %b\r\ncontent-length: %d\r\n\r\n"
    with server.client() as client:
        client.send(head % (kept, len(LARGE)))
        assert b"connection: close" in client.read_until(b"early:")
        client.send(LARGE + GET % b"never")
        assert answers(client.read_to_end()) == [b"early:"]
    wait_until(lambda: server.connections == server.tasks == 0)
    assert len(server.app.heard) == 1


def test_so_may_one_that_was_refused(server: Server) -> None:
    with server.client() as client:
        client.send(b"BAD / HTTP/1.1\r\n\r\n")
        client.send(LARGE)
        refused(client.read_to_end(), 400, None)
    wait_until(lambda: server.connections == 0)


def test_but_not_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_PART_S", 0.1)
    with server.client() as client:
        client.send(POST % (b"early", 2, b""))
        client.read_to_end()
        wait_until(lambda: server.connections == 0)


def test_nor_for_any_number_of_clients(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_PARTING_MAX", 1)
    with server.client() as first, server.client() as second:
        for client in (first, second):
            client.send(POST % (b"early", 2, b""))
            assert answers(client.read_to_end()) == [b"early:"]
        wait_until(lambda: server.connections == 1)
    wait_until(lambda: server.connections == 0)
    with server.client() as third:
        third.send(POST % (b"early", 2, b""))
        third.read_to_end()
        assert server.connections == 1


# Too many of them


def test_a_connection_too_many_is_503_and_one_that_goes_makes_room() -> None:
    with running(connections_max=2) as server:
        with server.client() as first, server.client() as second:
            for client in (first, second):
                client.send(GET % b"a")
                client.read_until(b"a:")
            with server.client() as third:
                received = third.read_to_end()
                refused(received, 503, "too_many_connections")
                assert dict(Seen(received).headers)[b"retry-after"] == b"1"
                third.send(GET % b"b" + LARGE)  # whatever it says, it is not listened to
                first.send(GET % b"c")
                first.read_until(b"c:")
        wait_until(lambda: server.connections == 0)
        server.serves()
        assert len(server.app.heard) == 4


def test_clients_that_were_turned_away_take_no_room() -> None:
    with running(connections_max=2) as server, server.client() as first:
        first.send(GET % b"a")
        first.read_until(b"a:")
        second, *others = (server.client() for _ in range(5))
        for client in others:
            refused(client.read_to_end(), 503, "too_many_connections")
        second.reset()
        wait_until(lambda: server.connections == 5)
        server.serves()
        for client in others:
            client.reset()


# Clients that do not read


def test_a_client_that_takes_nothing_of_its_answer_is_gone_after_a_while() -> None:
    with running(write_timeout_s=0.2) as server, slow_client(server.port) as sock:
        sock.sendall(GET % b"large")
        wait_until(lambda: server.app.sent > 0)
        wait_until(lambda: server.connections == server.tasks == 0)
        server.serves()


def test_one_that_takes_a_little_now_and_then_is_not() -> None:
    with running(write_timeout_s=0.3) as server, slow_client(server.port) as sock:
        sock.sendall(GET % b"large")
        received = 0
        pause = threading.Event()
        for _ in range(12):  # much longer than the time that it may take nothing
            pause.wait(0.05)
            received += len(sock.recv(1_000_000))
        assert server.connections == 1
        while received < len(LARGE):
            received += len(sock.recv(1_000_000))


def test_those_that_do_not_take_the_last_of_their_last_answer_are_gone_as_well() -> None:
    """It may fit the system's buffers but for a few bytes, which do not make anyone wait, and no close drops them."""
    with running(write_timeout_s=0.2) as server, ExitStack() as stack:
        for length in range(50_000, 500_000, 20_000):
            sock = stack.enter_context(slow_client(server.port))
            sock.sendall(b"GET /long%d HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n" % length)
        wait_until(lambda: len(server.app.heard) == 23)
        wait_until(lambda: server.connections == server.tasks == 0)


# The end of the server


@pytest.fixture
def stopping() -> Iterator[Server]:
    with running() as server:
        yield server


def test_a_stop_serves_what_has_come_and_says_that_it_is_the_last(stopping: Server) -> None:
    with stopping.client() as busy, stopping.client() as idle, stopping.client() as late:
        late.send(GET % b"x")
        late.read_until(b"x:")
        busy.send(GET % b"wait" + GET % b"a")
        wait_until(lambda: len(stopping.app.heard) == 2)
        stopping.stop()
        wait_until(lambda: refuses(stopping.port))
        late.send(GET % b"late")  # which may have been under way when the stop began
        assert answers(late.read_to_end()) == [b"x:", b"late:"]
        assert late.received.count(b"connection: close") == 1
        assert idle.read_to_end() == b""
        stopping.app.go_on.set()
        assert answers(busy.read_to_end()) == [b"wait:", b"a:"]
        assert busy.received.count(b"connection: close") == 1
        wait_until(lambda: stopping.connections == 0)


def test_a_stop_does_not_wait_for_those_that_were_answered_early(stopping: Server) -> None:
    with stopping.client() as before, stopping.client() as after, stopping.client() as busy:
        before.send(POST % (b"early", 2, b""))
        before.read_to_end()
        after.send(POST % (b"earlywait", 2, b""))
        busy.send(GET % b"listen")
        wait_until(lambda: len(stopping.app.heard) == 3)
        assert stopping.connections == 3
        stopping.stop()
        wait_until(lambda: refuses(stopping.port))
        stopping.app.go_on.set()
        assert answers(after.read_to_end()) == [b"earlywait:"]
        wait_until(lambda: stopping.connections == 1, seconds=3)  # or the end of its grace would come first
    wait_until(lambda: stopping.connections == 0)


def test_nor_for_those_whose_head_did_not_come() -> None:
    with running(head_timeout_s=0.1) as stopping, stopping.client() as half, stopping.client() as busy:
        busy.send(GET % b"listen")
        half.send(b"GET /half")
        refused(half.read_to_end(), 408, "request_timeout")
        assert stopping.connections == 2
        stopping.stop()
        wait_until(lambda: stopping.connections == 1, seconds=3)


def refuses(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S):
            return False
    except ConnectionRefusedError:
        return True


def test_each_server_watches_its_own_connections() -> None:
    make: Callable[[], type[protocol.Protocol]] = lambda: protocol.protocol_for(ServerSettings())  # noqa: E731
    assert make().watch is not make().watch
