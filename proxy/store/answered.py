"""What was answered to requests with an `Idempotency-Key`, for a day. Each works in the caller's transaction."""

from __future__ import annotations

import sqlite3

from proxy.errors import StoreError
from proxy.store import accounts

_DAY_MS = 86_400_000


def answered(connection: sqlite3.Connection, key: str, request: bytes) -> str | None:
    """What was answered to this request, if it was made before. Raises `StoreError` where the key stood for another."""
    row = connection.execute(accounts.ANSWERED, (key,)).fetchone()
    if row is None:
        return None
    if row[0] != request:
        raise StoreError(f"the Idempotency-Key {key} stood for another request within the last day: use a new one")
    answer: str = row[1]
    return answer


def note(connection: sqlite3.Connection, key: str, request: bytes, answer: str, now_ms: int) -> None:
    """Remember it, and forget what is older than a day."""
    connection.execute(accounts.FORGET_ANSWERED, (now_ms - _DAY_MS,))
    connection.execute(accounts.NOTE_ANSWERED, (key, request, answer, now_ms))
