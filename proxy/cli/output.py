"""How commands speak: JSON (or `tables`) on standard output, complaints in one line on standard error."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

#: The option that every listing has.
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """`value` as indented JSON, always in UTF-8."""
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def complain(words: str) -> None:
    """One line on standard error."""
    typer.echo(f"tollgate: {printable(' '.join(words.split()))}", err=True)


def printable(words: str) -> str:
    """`words` without characters that steer a terminal: model names and receivers' words come from outside."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
