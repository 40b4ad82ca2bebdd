"""The options that say which events are meant, the same for every command on events."""

from __future__ import annotations

from typing import Annotated

import typer

ErrorText = Annotated[
    str, typer.Option("--error", metavar="TEXT", help="Only those with this text in the receiver's words.")
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="WHEN", help="Only of requests that arrived since: a date or an RFC 3339 instant."),
]
To = Annotated[str | None, typer.Option("--to", metavar="WHEN", help="Only of requests that arrived before.")]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's (or subject's).")]
