"""The options that say which events are meant, the same for every command on events."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy.cli.instants import iso, parse_instant
from proxy.store.ledger import EVERY, Wanted

ErrorText = Annotated[
    str, typer.Option("--error", metavar="TEXT", help="Only those with this text in the receiver's words.")
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="WHEN", help="Only of requests that arrived since: a date or an RFC 3339 instant."),
]
To = Annotated[str | None, typer.Option("--to", metavar="WHEN", help="Only of requests that arrived before.")]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's (or subject's).")]


def wanted_of(error: str, begin: str | None, end: str | None, tenant: str | None) -> Wanted:
    """Raises `typer.BadParameter` for an instant that is none, or an empty time."""
    from_ms = EVERY.from_ms if begin is None else _instant(begin, "--from")
    to_ms = EVERY.to_ms if end is None else _instant(end, "--to")
    if from_ms >= to_ms:
        raise typer.BadParameter(f"{iso(from_ms)} is not before {iso(to_ms)}", param_hint="--from")
    return Wanted(tenant or "", error, from_ms, to_ms)


def _instant(words: str, option: str) -> int:
    try:
        return parse_instant(words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
