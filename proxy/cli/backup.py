"""`tollgate backup`: a copy of the ledger, while servers run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from proxy import settings
from proxy.cli.output import Json, print_json, printable
from proxy.errors import StoreError
from proxy.store.backup import back_up
from proxy.store.database import Database


def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy is to stand.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Copy the ledger to FILE while servers run, and check the copy.

    It has every event that was recorded before the command began. FILE is there only when it is whole and on disk.
    """
    database = Database(settings.load().database_url)
    if not database.path.exists():  # no command that makes one: a backup of nothing would please nobody
        raise StoreError(f"database_url: there is no ledger at {database.path}")
    begun = time.monotonic()
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as shown:
        task = shown.add_task("backup")
        size = back_up(
            database,
            target,
            overwrite=force,
            progress=lambda left, total: shown.update(task, total=total, completed=total - left),
        )
    took_s = time.monotonic() - begun
    if as_json:
        print_json({"file": str(target), "bytes": size, "duration_s": round(took_s, 3)})
    else:
        typer.echo(f"{printable(str(target))} holds the ledger: {size:,} bytes, checked, in {took_s:.1f} s.")
