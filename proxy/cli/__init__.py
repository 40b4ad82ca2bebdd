"""The `tollgate` command: one module per group of subcommands.

What goes wrong is told in one line on standard error. Exit codes: 0 done, 1 it could not be carried out, 2 the command
line or the settings are wrong.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer._click.core import Command, Context
from typer.core import TyperGroup

from proxy import __version__
from proxy.admin.problem import faults_of
from proxy.cli.calling import Where
from proxy.cli.output import complain
from proxy.cli.remote import check_url
from proxy.errors import ConfigurationError, TollgateError, WrongInput
from proxy.settings import SERVER_VARIABLE
from proxy.store.database import RESTORE, is_damage

_WRONG_INPUT = 2
_SERVER = "--server"
#: Where each command stands: a module of this package, and a function of it; or its group (`app`). Only the one that
#: is called is loaded: a server needs no tables, and a short command starts in half the time.
_COMMANDS = {
    "serve": ("serve", "serve"),
    "check-config": ("config", "check_config"),
    "tenants": ("tenants", "app"),
    "keys": ("keys", "app"),
    "limits": ("limits", "app"),
    "prices": ("prices", "app"),
    "usage": ("usage", "show_usage"),
    "events": ("events", "app"),
    "webhooks": ("webhooks", "app"),
    "explain": ("explain", "explain"),
    "backup": ("backup", "backup"),
    "reconcile": ("reconcile", "reconcile"),
    "billing": ("billing", "app"),
}
#: Commands that a server can be asked for; the others are about this machine: its server, its settings, its files.
_ANYWHERE = ("tenants", "keys", "limits", "usage", "events", "explain")
#: How commands call the fields of operations that they name otherwise. Who gets one of these wrong has mistyped.
_HINTS = {
    "all": "--all",
    "expires": "--expires",
    "from": "--from",
    "group_by": "--group-by",
    "ids": "EVENT_ID",
    "kind": "--kind",
    "limits": "LIMIT",
    "model": "--model",
    "models": "--model",
    "overlap": "--overlap",
    "period_anchor": "WHEN",
    "reason": "--reason",
    "to": "--to",
}


#: No decoration, and tracebacks as Python has them.
_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}


class _Root(TyperGroup):
    """The root command, which turns errors into one line and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except typer.TyperException as error:
            _complain_of_usage(error)
            code = _WRONG_INPUT
        except ValidationError as error:
            _complain_of_fault(**faults_of(error)[0])
            code = _WRONG_INPUT
        except WrongInput as error:
            code = _complain_of_input(error)
        except ConfigurationError as error:
            complain(str(error))
            code = _WRONG_INPUT
        except (TollgateError, sqlite3.Error, OSError) as error:
            complain(f"database_url: {error}; {RESTORE}" if is_damage(error) else str(error))
            code = 1
        except typer.Abort:
            code = 1
        sys.exit(code or 0)

    def list_commands(self, ctx: Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module, name = _COMMANDS[cmd_name]
            found = getattr(importlib.import_module(f"proxy.cli.{module}"), name)
            self.commands[cmd_name] = _command(cmd_name, found)
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        # Such bytes would reach SQLite and the terminal as lone surrogates, which neither takes.
        if any(not _is_text(arg) for arg in args):
            raise typer.BadParameter("the arguments must be UTF-8")
        return super().parse_args(ctx, _server_first(args))


def _command(name: str, found: Any) -> Command:
    """A group of commands, or a function as one."""
    host = typer.Typer(**_PLAIN)
    if isinstance(found, typer.Typer):
        host.add_typer(found, name=name)
    else:
        host.command(name)(found)
        host.callback()(lambda: None)  # with which it is a group, also of one command
    return typer.main.get_group(host).commands[name]


app = typer.Typer(
    name="tollgate",
    cls=_Root,
    help="Tollgate, an OpenAI-compatible reverse proxy that meters.",
    no_args_is_help=True,
    **_PLAIN,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tollgate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            _SERVER, metavar="URL", envvar=SERVER_VARIABLE, help="Ask this server's admin API, not the local store."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if server is not None:
        if ctx.invoked_subcommand not in _ANYWHERE:
            words = f"{ctx.invoked_subcommand} works on this machine alone: leave {_SERVER} and {SERVER_VARIABLE} out"
            raise typer.BadParameter(words)
        try:
            check_url(server)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=_SERVER) from None
    where = ctx.obj = Where(server)
    ctx.call_on_close(where.close)


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


def _server_first(args: list[str]) -> list[str]:
    """`--server URL` is an option of all commands alike, and may stand behind theirs."""
    for at, arg in enumerate(args):
        if arg == "--":
            break
        if arg == _SERVER or arg.startswith(f"{_SERVER}="):
            end = at + 2 if arg == _SERVER else at + 1
            return [*args[at:end], *args[:at], *args[end:]]
    return args


def _complain_of_input(error: WrongInput) -> int:
    """Returns the exit code: a slip of the pen, or something that only the store could see."""
    if error.field in _HINTS:
        _complain_of_fault(error.field, str(error))
        return _WRONG_INPUT
    complain(str(error))
    return 1


def _complain_of_fault(field: str, detail: str) -> None:
    name = field.partition(".")[0]
    _complain_of_usage(typer.BadParameter(detail, param_hint=_HINTS.get(name, f"--{name.replace('_', '-')}")))


def _complain_of_usage(error: typer.TyperException) -> None:
    words = error.format_message()
    if words.startswith("Usage:"):  # a group of commands was named, and no command of it: this is its help
        typer.echo(words, err=True)
        return
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tollgate"
    complain(f"{words.rstrip('.')} (see {path} --help)")
