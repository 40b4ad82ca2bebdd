"""A server with its admin API turned on, and operators who ask it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.admin.asking import Operator, operating
from tests.running import Running
from tests.store.conftest import connection, database

__all__ = ["connection", "database"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operated")


@pytest.fixture(scope="module")
def operated(directory: Path) -> Iterator[tuple[Running, Operator]]:
    with operating(directory) as both:
        yield both


@pytest.fixture
def server(operated: tuple[Running, Operator]) -> Running:
    """One for all tests of a module: what they make there has names of its own (`tenant`)."""
    return operated[0]


@pytest.fixture
def operator(operated: tuple[Running, Operator]) -> Operator:
    return operated[1]


@pytest.fixture
def tenant(operator: Operator) -> str:
    """The id of a new tenant."""
    tenant_id = f"tenant-{secrets.token_hex(4)}"
    operator.done("POST", "/tenants", 201, json={"id": tenant_id})
    return tenant_id
