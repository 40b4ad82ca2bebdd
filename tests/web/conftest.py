"""A server, and a client with a tenant's key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.running import Running, tollgate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with tollgate(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"x-api-key": server.key()}) as client:
        yield client
