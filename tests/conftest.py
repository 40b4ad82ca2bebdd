"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the server runs on: uvloop has its own ways with sockets and TLS."""
    return "asyncio", {"use_uvloop": True}
