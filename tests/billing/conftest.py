from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.billing.books import Books
from tests.billing.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that keeps everything, and that nobody may ask what is not described."""
    engine = Engine()
    with engine.running():
        yield engine
    assert engine.faults == []


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)
