"""`tollgate billing plan` and `apply`: what an engine lacks of the catalog, and bringing it there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from proxy.billing import catalog_file
from proxy.billing.applying import Applied, Applying
from proxy.billing.catalog import Catalog
from proxy.billing.deployment import Deployment, Step, deployment, read
from proxy.billing.openmeter import TRIES, OpenMeter, engine_of
from proxy.cli.output import Json, complain, print_json, printable
from proxy.cli.tables import print_table
from proxy.errors import ConfigurationError
from proxy.settings import Settings, load

#: With `--exit-code`, where something would change.
_WOULD_CHANGE = 3

_Prune = Annotated[
    bool,
    typer.Option("--prune", help="Also archive or delete what was created from a catalog that had more."),
]


def show_changes(
    prune: _Prune = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help=f"Exit with {_WOULD_CHANGE} where something would change.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what `apply` would change at the engine (OpenMeter or Konnect), and change nothing.

    The exit code is 1 where something stands in the way.
    """
    settings = load()
    engine, catalog = engine_for(settings), catalog_file.load(settings.billing.file)
    wanted = asyncio.run(_plan(engine, catalog, prune))
    if as_json:
        blocked = [{"kind": one.kind, "key": one.key, "rule": one.rule, "fix": one.fix} for one in wanted.blocked]
        print_json({"engine": engine.url, "steps": _json(wanted.steps), "blocked": blocked, "left": _json(wanted.left)})
    else:
        _print_steps(
            wanted.steps, "Nothing is to be done: the engine has what the catalog says." * (not wanted.blocked)
        )
        _print_left(wanted.left)
        for one in wanted.blocked:
            complain(str(one))
    if wanted.blocked:
        raise typer.Exit(1)
    if wanted.steps and exit_code:
        raise typer.Exit(_WOULD_CHANGE)


def apply(prune: _Prune = False, as_json: Json = False) -> None:
    """Bring the engine (OpenMeter or Konnect) to what the catalog says, step by step, and read it back.

    Nothing is deleted but with --prune. Whatever ends it in the middle: run it again, and it goes on from there.
    """
    settings = load()
    engine, catalog = engine_for(settings), catalog_file.load(settings.billing.file)
    with _progress(silent=as_json) as tell:
        done = asyncio.run(_apply(Applying(engine, catalog, prune=prune, tell=tell), engine))
    if as_json:
        print_json({"engine": engine.url, "steps": _json(done.steps), "left": _json(done.left)})
        return
    count = len(done.steps)
    told = f"{count} step{'s' * (count != 1)} taken, and read back" if count else "Nothing was to be done"
    typer.echo(f"{told}: {engine.url} has what the catalog says.")
    _print_left(done.left)


def engine_for(settings: Settings, *, tries: int = TRIES) -> OpenMeter:
    """The engine that is set. Raises `ConfigurationError` where none is."""
    engine = engine_of(settings.sink, tries=tries)
    if engine is None:
        raise ConfigurationError("set sink.konnect_api_url (KONNECT_API_URL): the base URL of OpenMeter or Konnect")
    return engine


async def _plan(engine: OpenMeter, catalog: Catalog, prune: bool) -> Deployment:
    try:
        return deployment(catalog, await read(engine), prune=prune)
    finally:
        await engine.close()


async def _apply(applying: Applying, engine: OpenMeter) -> Applied:
    try:
        return await applying.run()
    finally:
        await engine.close()


class _Steps:
    """Tells each step: as a line, and on a terminal with a bar for all of them."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None) if bar else None
        self._told = 0

    def __call__(self, step: Step, left: int) -> None:
        if self._bar is None or self._task is None:
            typer.echo(printable(f"{step} …"))
            return
        self._bar.update(self._task, description=str(step), completed=self._told, total=self._told + left)
        self._told += 1


@contextmanager
def _progress(*, silent: bool) -> Iterator[Any]:
    console = Console(stderr=True, highlight=False)
    if silent:
        yield lambda *_: None
    elif not console.is_terminal:
        yield _Steps(None)
    else:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            yield _Steps(bar)


def _print_steps(steps: Sequence[Step], empty: str) -> None:
    if steps or empty:
        rows = [(one.action, one.kind, one.key, "; ".join(one.why)) for one in steps]
        print_table(("step", "kind", "key", "because"), rows, empty=empty)


def _print_left(left: Sequence[Step]) -> None:
    for one in left:
        typer.echo(f"The catalog has {one.kind} {one.key} no longer; to {one.action} it: --prune")


def _json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [{"action": one.action, "kind": one.kind, "key": one.key, "why": list(one.why)} for one in steps]
