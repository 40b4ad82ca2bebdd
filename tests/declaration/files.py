"""Files that declare tenants, and what comes of them in a store."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from proxy.declaration.changes import Changes, changes
from proxy.declaration.document import Declaration
from proxy.limits import Calendar
from proxy.store.database import begin
from proxy.store.tenants import hash_of
from tests.running import Running
from tests.streams import ASK

FILE = "/etc/tollgate.toml"
NOW = 1_000_000
#: Two keys of the tenant acme, and one of zed.
FIRST, SECOND, OTHER = "ak_acme_first", "ak_acme_second", "ak_zed_other"


def digest(secret: str) -> str:
    """As a file has it."""
    return hash_of(secret.encode()).hex()


ACME = f"""
[plans.starter]
limits = ["tokens/month=10000", {{limit = "requests/minute=60", model = "gpt-4o*", soft = true}}]

[tenants.acme]
name = "Acme"
plan = "starter"
period_anchor = "2026-11-15"
limits = ["requests/day=100"]

[[tenants.acme.keys]]
name = "ci"
sha256 = "{digest(FIRST)}"
models = ["gpt-4o-mini"]
expires = 2099-12-31T00:00:00Z
limits = ["requests/day=50"]
"""
WITH_SECOND = f'{ACME}\n[[tenants.acme.keys]]\nsha256 = "{digest(SECOND)}"\n'
NOBODY = "[tenants]\n"


def declaration(text: str) -> Declaration:
    return Declaration.read(tomllib.loads(text), Calendar(), is_blank=not text)


def compared(connection: sqlite3.Connection, text: str, *, file: str = FILE, now_ms: int = NOW) -> Changes:
    return changes(connection, declaration(text), file, now_ms)


def apply(connection: sqlite3.Connection, text: str, *, file: str = FILE, now_ms: int = NOW) -> str:
    """What has changed, in words."""
    with begin(connection):
        found = compared(connection, text, file=file, now_ms=now_ms)
        assert found.write(connection)
    return found.words


def write(path: Path, text: str) -> None:
    """In place."""
    path.write_text(text)


def replace(path: Path, text: str) -> None:
    """As editors do it."""
    beside = path.with_name("beside.tmp")
    beside.write_text(text)
    os.replace(beside, path)  # noqa: PTH105 (what is meant)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


def status(server: Running | str, secret: str) -> int:
    """What a request with this key is answered."""
    url = server if isinstance(server, str) else server.url
    return httpx.post(f"{url}/v1/chat/completions", json=ASK, headers={"x-api-key": secret}).status_code


def standing(server: Running | str) -> dict[str, Any]:
    """What `/readyz` says of the file."""
    url = server if isinstance(server, str) else server.url
    answer = httpx.get(f"{url}/readyz")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["declaration"]
    return found
