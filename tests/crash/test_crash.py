"""`kill -9` at random instants, and at each step: nothing lost, nothing billed twice. `make crash` does more of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.machine import Server, kill_at_random
from tests.crash.server import STEPS
from tests.crash.world import BOUND_S, KINDS, Kind, Upstream, ask, is_whole, usage_of
from tests.delivery.receiver import Receiver
from tests.running import wait_until

_STEPS = list(STEPS)
#: From here on the settlement is on disk, and nothing changes it any more.
_COMMITTED = _STEPS.index("after the commit")
_ANSWERED = _STEPS.index("after the last bytes")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(pause_s=0.02) as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def server(tmp_path: Path, upstream: Upstream, receiver: Receiver) -> Server:
    return Server(tmp_path, upstream, receiver)


def killed_at(server: Server, step: str, kind: Kind) -> bytes:
    """One request to a server that kills itself at this step; what the client saw."""
    with server.life(step) as process:
        answer = asyncio.run(ask(server.port, server.key, kind, 1))
        assert process.wait(BOUND_S) == -9
    return answer


def billed(server: Server, receiver: Receiver) -> dict[str, Any]:
    """The data of the one event that there is when all is settled and delivered."""
    with server.life():
        wait_until(lambda: bool(receiver.accepted) and server.is_quiet(), seconds=BOUND_S)
    (event,) = receiver.accepted
    assert event["data"]["requested_model"] == "m-1"
    data: dict[str, Any] = event["data"]
    return data


async def test_kills_at_random_instants_lose_nothing_and_bill_nothing_twice(tmp_path: Path) -> None:
    found = await kill_at_random(tmp_path, kills=8, seed=7, bound_s=60)
    print(found)
    assert found.is_balanced, str(found)
    assert found.whole > 50
    assert found.interrupted > 50


@pytest.mark.parametrize("kind", ["chat", "streamed chat"])
@pytest.mark.parametrize("step", _STEPS[1:])
def test_a_kill_at_each_step_leaves_one_event(server: Server, receiver: Receiver, step: str, kind: str) -> None:
    answer = killed_at(server, step, KINDS[kind])
    at = _STEPS.index(step)
    data = billed(server, receiver)
    assert is_whole(KINDS[kind], answer) <= (at >= _COMMITTED), "no whole answer is without its settlement"
    if at < _COMMITTED:
        assert data["outcome"] == "interrupted"
        assert data["usage_source"] == ("none" if step == "after its trace" else "estimated")
        assert (data["prompt_tokens"] > 0) == (step != "after its trace")
    else:
        assert (data["outcome"], data["usage_source"]) == ("completed", "reported")
        assert (data["prompt_tokens"], data["completion_tokens"]) == usage_of(1)
    if at >= _ANSWERED:
        assert is_whole(KINDS[kind], answer)


def test_nothing_is_forwarded_that_has_left_no_trace(server: Server, upstream: Upstream, receiver: Receiver) -> None:
    killed_at(server, _STEPS[0], KINDS["chat"])
    assert not upstream.received
    with server.life():
        wait_until(server.is_quiet, seconds=BOUND_S)
    assert not receiver.accepted


@pytest.mark.parametrize("step", ["before what was interrupted is settled", "after what was interrupted is settled"])
def test_a_kill_while_the_killed_are_looked_after(server: Server, receiver: Receiver, step: str) -> None:
    killed_at(server, "after the answer's head", KINDS["chat"])
    with server.life(step) as process:
        assert process.wait(BOUND_S) == -9
    assert billed(server, receiver)["outcome"] == "interrupted"


BACKGROUND = Kind("/v1/responses", {"input": "Hello", "background": True}, b'"queued"')


def test_a_background_response_that_waits_on_disk_is_asked_for_after_the_kill(
    server: Server, receiver: Receiver
) -> None:
    killed_at(server, "before the last bytes", BACKGROUND)
    data = billed(server, receiver)
    assert (data["outcome"], data["usage_source"]) == ("completed", "reported")
    assert (data["prompt_tokens"], data["completion_tokens"]) == usage_of(1)


def test_a_background_response_that_does_not_yet_is_interrupted(server: Server, receiver: Receiver) -> None:
    killed_at(server, "before a background response's wait is on disk", BACKGROUND)
    assert billed(server, receiver)["outcome"] == "interrupted"
