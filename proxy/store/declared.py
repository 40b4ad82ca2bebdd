"""What a file declares is changed there, and by no command: its marks. Each works in the caller's transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from proxy.errors import StoreError
from proxy.model import Provenance
from proxy.store import accounts


@dataclass(frozen=True, slots=True)
class Applied:
    """Which file was applied last (its absolute path; empty: none ever was), a digest of what it declares, and when."""

    file: str
    digest: str
    applied_ms: int


def applied(connection: sqlite3.Connection) -> Applied:
    return Applied(*connection.execute(accounts.DECLARATION).fetchone())


def provenance(connection: sqlite3.Connection, kind: Literal["plan", "tenant", "key"], owner: str) -> Provenance:
    """Who changes it. What is unknown is managed."""
    row = connection.execute(accounts.DECLARED_STATE, (kind, owner)).fetchone()
    state: Provenance = "managed" if row is None else row[0]
    return state


def check_managed(
    connection: sqlite3.Connection,
    kind: Literal["plan", "tenant"],
    owner: str,
    *,
    what: str = "",
    fix: str = "change it there",
) -> None:
    """Before a command changes it, or (`what`) something of its: raises `StoreError` for what a file declares.

    What a file declared once, and does not any more, is managed by command from then on.
    """
    match provenance(connection, kind, owner):
        case "declared":
            raise StoreError(f"{what or f'{kind} {owner}'} is declared in {applied(connection).file}: {fix}")
        case "withdrawn":
            connection.execute(accounts.FORGET_DECLARED, (kind, owner))
            if kind == "tenant":
                connection.execute(accounts.FORGET_DECLARED_KEYS, (owner,))
