"""A relay between a ledger on disk and a receiver on a socket, with time running a hundred times faster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from proxy.delivery.relay import Relay
from proxy.delivery.sinks import EventCourier, Sink, sink_for
from proxy.model import EventState, Settlement
from proxy.sections import SinkSettings
from proxy.store.lease import FileLease
from tests.delivery.ledger import Ledger, settlement
from tests.delivery.receiver import BOUND_S, Receiver

TOKEN = "kpat_S3cretS3cretS3cret"
ACCEPTED, DEAD, PENDING = EventState.ACCEPTED, EventState.DEAD, EventState.PENDING


def hundredfold_s() -> float:
    """The clock that goes with the naps."""
    return time.monotonic() * 100


class Naps:
    """A hundredth of each wait, and what was asked for."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await asyncio.sleep(seconds / 100)


class LongNaps:
    """Waits that end with nothing but a signal. `begun` is done when a wait of so many seconds has begun."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        await asyncio.sleep(3600)

    async def begun(self, seconds: float) -> None:
        await until(lambda: seconds in self.asked_s)


def settings_for(receiver: Receiver, **values: Any) -> SinkSettings:
    return SinkSettings(konnect_api_url=receiver.base_url, konnect_token=SecretStr(TOKEN), **values)


@asynccontextmanager
async def relaying(
    ledger: Ledger, settings: SinkSettings, *, outbox: Any = None, sink: Sink | None = None, sleep: Any = None
) -> AsyncIterator[Relay[Settlement]]:
    """A relay that runs, and is stopped afterwards without a flush."""
    sink = sink or sink_for(settings)
    assert sink is not None
    lease = FileLease(ledger.database.path)
    courier = EventCourier(sink, settings)
    relay = Relay(
        outbox or ledger.outbox,
        courier,
        settings,
        lease,
        sleep=sleep or Naps(),
        random=lambda: 1.0,
        now_s=hundredfold_s,
    )
    relay.start()
    try:
        yield relay
    finally:
        await relay.stop(0)
        await sink.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody signals: a row, an attribute."""
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 (nobody signals it)
            await asyncio.sleep(0.005)


def of(numbers: Sequence[int]) -> list[Settlement]:
    return [settlement(number) for number in numbers]


def ids(numbers: Sequence[int]) -> list[str]:
    return [settlement(number).id for number in numbers]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]
