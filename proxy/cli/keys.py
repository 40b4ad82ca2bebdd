"""`tollgate keys`: what tenants authenticate with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from getpass import getpass
from typing import Annotated, Any

import typer

from proxy.cli.instants import iso, iso_or_none, iso_short, now_ms, parse_expiry, parse_span
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, print_table, printable
from proxy.model import Key
from proxy.store import tenants

app = typer.Typer(help="The tenants' API keys.", no_args_is_help=True)

#: A key has at most 256 characters; more is not one, and is not read to its end.
_LINE_BYTES_MAX = 1024

_KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, as `keys list` shows it.")]


@app.command("create")
def create(
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
    now = now_ms()
    expires_ms = None if expires is None else _parsed(lambda: parse_expiry(expires, now), "--expires")
    if models and not all(models):
        raise typer.BadParameter("a model's name is empty", param_hint="--model")
    secret = read_secret(imported)
    _, database = open_store()
    with database.transaction() as connection:
        key, secret = tenants.create_key(
            connection,
            tenant_id,
            name=name,
            models=tuple(dict.fromkeys(models or ())),
            trusted=trusted,
            expires_ms=expires_ms,
            secret=secret,
            now_ms=now,
        )
    if as_json:
        print_json(_new_key_json(key, secret, now))
    elif imported is not None:
        typer.echo(f"Key {key.id} of tenant {key.tenant_id} is the one that you brought.")
    else:
        _print_secret(key, secret)


@app.command("list")
def list_keys(
    tenant_id: Annotated[str | None, typer.Argument(metavar="TENANT", help="Only this tenant's.")] = None,
    as_json: Json = False,
) -> None:
    """List keys, without their secrets."""
    _, database = open_store()
    with reading(database) as connection:
        if tenant_id is not None:
            tenants.tenant(connection, tenant_id)
        found = tenants.keys(connection, tenant_id or "")
    now = now_ms()
    if as_json:
        print_json([key_json(key, now) for key in found])
    else:
        print_keys(found, now, empty="There are no keys. Make one: tollgate keys create TENANT")


@app.command("rotate")
def rotate(
    key_id: _KeyId,
    overlap: Annotated[
        str, typer.Option(metavar="SPAN", help="How long the old key still holds: 24h, 7d, 0s.")
    ] = "24h",
    as_json: Json = False,
) -> None:
    """Make a key with the rights of another, which soon ends."""
    now = now_ms()
    overlap_ms = _parsed(lambda: parse_span(overlap), "--overlap")
    _, database = open_store()
    with database.transaction() as connection:
        key, secret = tenants.rotate_key(connection, key_id, overlap_ms=overlap_ms, now_ms=now)
        until_ms = tenants.key(connection, key_id).expires_ms
    if as_json:
        print_json(_new_key_json(key, secret, now) | {"replaces": key_id, "replaced_expires_at": iso_or_none(until_ms)})
        return
    _print_secret(key, secret)
    typer.echo(f"The old key {printable(key_id)} holds until {iso_short(until_ms)}.")


@app.command("revoke")
def revoke(key_id: _KeyId, as_json: Json = False) -> None:
    """End a key for good, in force within a second."""
    now = now_ms()
    _, database = open_store()
    with database.transaction() as connection:
        key = tenants.revoke_key(connection, key_id, now_ms=now)
    if as_json:
        print_json(key_json(key, now))
    else:
        typer.echo(f"Key {key.id} of tenant {key.tenant_id} is revoked since {iso_short(key.revoked_ms)}.")


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


def status_of(key: Key, now_ms: int) -> str:
    if key.revoked_ms is not None:
        return "revoked"
    return "expired" if key.expires_ms is not None and key.expires_ms <= now_ms else "active"


def key_json(key: Key, now_ms: int) -> dict[str, Any]:
    """A key as listings show it."""
    return {
        "id": key.id,
        "tenant_id": key.tenant_id,
        "name": key.name,
        "hint": key.hint,
        "status": status_of(key, now_ms),
        "models": list(key.models),
        "trusted": key.trusted,
        "created_at": iso(key.created_ms),
        "expires_at": iso_or_none(key.expires_ms),
        "revoked_at": iso_or_none(key.revoked_ms),
        "origin": key.origin,
    }


def print_keys(keys: Sequence[Key], now_ms: int, *, empty: str) -> None:
    print_table(
        ("id", "tenant", "name", "key", "status", "models", "trusted", "created", "expires", "revoked"),
        [
            (
                key.id,
                key.tenant_id,
                key.name,
                f"tg_…{key.hint}" if key.hint else "imported" if key.origin == "managed" else key.origin,
                status_of(key, now_ms),
                ", ".join(key.models) or "all",
                "yes" if key.trusted else "no",
                iso_short(key.created_ms),
                iso_short(key.expires_ms),
                iso_short(key.revoked_ms),
            )
            for key in keys
        ],
        empty=empty,
    )


def _new_key_json(key: Key, secret: str, now_ms: int) -> dict[str, Any]:
    known = key_json(key, now_ms)
    return {"id": known.pop("id"), "tenant_id": known.pop("tenant_id"), "key": secret} | known


def _print_secret(key: Key, secret: str) -> None:
    # Not by rich, which would wrap it.
    typer.echo(f"Key {key.id} of tenant {key.tenant_id}:\n\n  {secret}\n")
    typer.echo("It is shown only now: it is stored nowhere and cannot be shown again.")


def read_secret(imported: str | None) -> str | None:
    """What `--import` brings along; - stands for standard input."""
    if imported != "-":
        return imported
    return _read_line()


def _read_secret() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass("Key: ")
    return _read_line()


def _read_line() -> str:
    line = typer.get_binary_stream("stdin").readline(_LINE_BYTES_MAX)
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _parsed(parse: Callable[[], int], option: str) -> int:
    try:
        return parse()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
