"""The `tollgate` command: one module per group of subcommands.

What goes wrong is told in one line on standard error. Exit codes: 0 done, 1 it could not be carried out, 2 the command
line or the settings are wrong.
"""

from __future__ import annotations

import sqlite3
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from proxy import __version__
from proxy.cli import (
    backup,
    billing,
    config,
    events,
    explain,
    keys,
    limits,
    prices,
    reconcile,
    serve,
    tenants,
    usage,
    webhooks,
)
from proxy.cli.output import complain
from proxy.errors import ConfigurationError, TollgateError
from proxy.store.database import RESTORE, is_damage

_WRONG_INPUT = 2


class _Root(TyperGroup):
    """The root command, which turns errors into one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except typer.TyperException as error:
            _complain_of_usage(error)
            code = _WRONG_INPUT
        except ConfigurationError as error:
            complain(str(error))
            code = _WRONG_INPUT
        except (TollgateError, sqlite3.Error, OSError) as error:
            complain(f"database_url: {error}; {RESTORE}" if is_damage(error) else str(error))
            code = 1
        except typer.Abort:
            code = 1
        sys.exit(code or 0)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        # Such bytes would reach SQLite and the terminal as lone surrogates, which neither takes.
        if any(not _is_text(arg) for arg in args):
            raise typer.BadParameter("the arguments must be UTF-8")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="tollgate",
    cls=_Root,
    help="Tollgate, an OpenAI-compatible reverse proxy that meters.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tollgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("serve")(serve.serve)
app.command("check-config")(config.check_config)
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.add_typer(limits.app, name="limits")
app.add_typer(prices.app, name="prices")
app.command("usage")(usage.show_usage)
app.add_typer(events.app, name="events")
app.add_typer(webhooks.app, name="webhooks")
app.command("explain")(explain.explain)
app.command("backup")(backup.backup)
app.command("reconcile")(reconcile.reconcile)
app.add_typer(billing.app, name="billing")


def main() -> None:
    """Run the command that `sys.argv` names, and exit."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name with letters that the terminal lacks
    app(prog_name="tollgate")


def _is_text(arg: str) -> bool:
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


def _complain_of_usage(error: typer.TyperException) -> None:
    words = error.format_message()
    if words.startswith("Usage:"):  # a group of commands was named, and no command of it: this is its help
        typer.echo(words, err=True)
        return
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tollgate"
    complain(f"{words.rstrip('.')} (see {path} --help)")
