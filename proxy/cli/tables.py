"""Tables on standard output. In a module of its own: a server, and a command that fails, need none of this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.output import printable

#: Nothing is wrapped where a program reads.
_UNBOUNDED_COLUMNS = 10_000


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | int]],
    *,
    totals: Sequence[str | int] | None = None,
    empty: str = "",
) -> None:
    """A table with the numbers to the right, `totals` as its last row, or only the line `empty` where it has no rows.

    Long cells are folded on a terminal, never cut: ids are there to be copied.
    """
    cells = [*rows]
    if not cells and empty:
        typer.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, show_edge=False, show_footer=totals is not None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(cells) and isinstance(cells[0][index], int)
        footer = _cell(totals[index]) if totals is not None else ""
        table.add_column(column, footer=footer, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(_cell, row))
    _console().print(table)


def print_facts(facts: Iterable[tuple[str, str | int]]) -> None:
    """Names and values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), _cell(value))
    _console().print(table)


def _cell(value: str | int) -> Text:
    return Text(f"{value:,}" if isinstance(value, int) else printable(value))


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED_COLUMNS
    return console
