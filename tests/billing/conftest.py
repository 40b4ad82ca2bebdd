from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.billing.books import Books
from tests.billing.engine import Engine
from tests.billing.selling import Selling


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that keeps everything, and that nobody may ask what is not described."""
    engine = Engine()
    with engine.running():
        yield engine
    assert engine.faults == []


@pytest.fixture(scope="session")
def sellers() -> Iterator[dict[str, Selling]]:
    """Engines that sell, in either dialect."""
    with Selling().running() as openmeter, Selling(konnect=True).running() as konnect:
        yield {"openmeter": openmeter, "konnect": konnect}


@pytest.fixture(params=["openmeter", "konnect"])
def selling(request: pytest.FixtureRequest, sellers: dict[str, Selling]) -> Iterator[Selling]:
    """Each of them, with nothing in it."""
    yield from _anew(sellers[request.param])


@pytest.fixture
def other(sellers: dict[str, Selling]) -> Iterator[Selling]:
    """One of them, for what is the same in both."""
    yield from _anew(sellers["openmeter"])


def _anew(one: Selling) -> Iterator[Selling]:
    one.forget()
    yield one
    assert one.faults == []


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)
