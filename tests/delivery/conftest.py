"""The real parts around the relay: a ledger on disk with its outbox, and a receiver on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.delivery.ledger import Ledger
from tests.delivery.receiver import Receiver


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(tmp_path)
    ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(validate=True) as receiver:
        yield receiver
