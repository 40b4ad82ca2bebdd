"""`tollgate keys`: what tenants authenticate with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from getpass import getpass
from typing import Annotated, Any

import typer

from proxy.admin import keys
from proxy.admin.keys import CreateKey, Key, ListKeys, NewKey, OneKey, RotateKey
from proxy.cli.calling import call, listed
from proxy.cli.instants import short
from proxy.cli.output import Json, print_json, printable
from proxy.cli.standings import told
from proxy.cli.tables import print_table
from proxy.store import tenants

app = typer.Typer(help="The tenants' API keys.", no_args_is_help=True)

#: A key has at most 256 characters; more is not one, and is not read to its end.
_LINE_BYTES_MAX = 1024

_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, as `keys list` shows it.")]


@app.command("create")
def create(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it will be.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="A name to show.")] = "",
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="MODEL", help="A model that it may use; may be repeated. All, if left out."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When it ends: 30d, 12h, or an instant such as 2026-12-31T00:00:00Z."),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="It may name whom it acts for, in X-Tollgate-Subject.")
    ] = False,
    imported: Annotated[
        str | None,
        typer.Option("--import", metavar="KEY", help="Use this key of your own; - reads it from standard input."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    secret = read_secret(imported)
    asked = CreateKey(tenant_id=tenant_id, name=name, models=models or [], expires=expires, trusted=trusted, key=secret)
    key = call(ctx, keys.create_key, asked)
    if as_json:
        print_json(_new_key_json(key))
    elif imported is not None:
        typer.echo(f"Key {key.id} of tenant {key.tenant_id} is the one that you brought.")
    else:
        _print_secret(key)


@app.command("list")
def list_keys(
    ctx: typer.Context,
    tenant_id: Annotated[str | None, typer.Argument(metavar="TENANT", help="Only this tenant's.")] = None,
    as_json: Json = False,
) -> None:
    """List keys, without their secrets."""
    found = listed(ctx, keys.list_keys, ListKeys(tenant_id=tenant_id))
    if as_json:
        print_json([key.json_object() for key in found])
    else:
        print_keys(found, empty="There are no keys. Make one: tollgate keys create TENANT")


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    key_id: _KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="SPAN", help="How long the old key still holds: 24h, 7d, 0s.")
    ] = "24h",
    as_json: Json = False,
) -> None:
    """Make a key with the rights of another, which soon ends."""
    key = call(ctx, keys.rotate_key, RotateKey(key_id=key_id, overlap=overlap))
    if as_json:
        print_json(_new_key_json(key))
        return
    _print_secret(key)
    typer.echo(f"The old key {printable(key_id)} holds until {short(key.replaced_expires_at)}.")


@app.command("revoke")
def revoke(ctx: typer.Context, key_id: _KeyId, as_json: Json = False) -> None:
    """End a key for good, in force within a second."""
    key = call(ctx, keys.revoke_key, OneKey(key_id=key_id))
    if as_json:
        print_json(key.json_object())
    else:
        typer.echo(f"Key {key.id} of tenant {key.tenant_id} is revoked since {short(key.revoked_at)}.")


@app.command("hash")
def print_hash(
    generate: Annotated[bool, typer.Option("--generate", help="Make a new key, and print it as well.")] = False,
    as_json: Json = False,
) -> None:
    """Print the SHA-256 that declares a key in the file of the settings. The key is read from standard input."""
    secret = tenants.new_secret() if generate else _read_secret()
    tenants.check_secret(secret)
    hashed = tenants.hash_of(secret.encode()).hex()
    if as_json:
        print_json({"sha256": hashed} | ({"key": secret} if generate else {}))
        return
    typer.echo(f'sha256 = "{hashed}"')
    if generate:
        typer.echo(f"\nThe key is shown only now, and stored nowhere:\n\n  {secret}")


def read_secret(imported: str | None) -> str | None:
    """What `--import` brings along; - stands for standard input."""
    return _read_line() if imported == "-" else imported


def print_keys(keys: Sequence[Key], *, empty: str) -> None:
    print_table(
        ("id", "tenant", "name", "key", "status", "models", "trusted", "created", "expires", "revoked", "limits"),
        [
            (
                key.id,
                key.tenant_id,
                key.name,
                f"tg_…{key.hint}" if key.hint else "imported" if key.origin == "managed" else key.origin,
                key.status,
                ", ".join(key.models) or "all",
                "yes" if key.trusted else "no",
                short(key.created_at),
                short(key.expires_at),
                short(key.revoked_at),
                ", ".join(map(told, key.limits)),
            )
            for key in keys
        ],
        empty=empty,
    )


def _new_key_json(key: NewKey) -> dict[str, Any]:
    known = key.json_object()
    return {name: known.pop(name) for name in ("id", "tenant_id", "key")} | known


def _print_secret(key: NewKey) -> None:
    # Not by rich, which would wrap it.
    typer.echo(f"Key {key.id} of tenant {key.tenant_id}:\n\n  {key.key}\n")
    typer.echo("It is shown only now: it is stored nowhere and cannot be shown again.")


def _read_secret() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass("Key: ")
    return _read_line()


def _read_line() -> str:
    line = typer.get_binary_stream("stdin").readline(_LINE_BYTES_MAX)
    return line.decode("utf-8", "replace").rstrip("\r\n")
