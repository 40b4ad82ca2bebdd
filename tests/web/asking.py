"""What tests of `GET /api/usage` begin with."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx

from proxy.limits import Written
from proxy.model import Settlement
from proxy.store import limits as stored
from proxy.store.ledger import record
from proxy.store.tenants import keys
from tests.running import Running

CHAT = "/v1/chat/completions"
APRIL = {"from": "2026-04-01", "to": "2026-05-01"}


def put(server: Running, *settlements: Settlement) -> None:
    with server.app.database.transaction() as connection:
        record(connection, settlements)


def usage(client: httpx.Client, **parameters: str) -> Any:
    said = client.get("/api/usage", params=parameters)
    assert said.status_code == 200, said.text
    return said.json()


def key_id(server: Running, tenant: str) -> str:
    with closing(server.app.database.connect()) as connection:
        return keys(connection, tenant)[0].id


def limit(server: Running, *written: str, kind: stored.Owner = "tenant", owner: str = "user-001", **more: Any) -> None:
    with server.app.database.transaction() as connection:
        for one in written:
            stored.set_limit(connection, kind, owner, Written.parse(one), **more)
