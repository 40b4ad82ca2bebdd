"""`tollgate check-config`: the effective settings, without their secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer
from pydantic import SecretStr

from proxy import settings
from proxy.billing import catalog_file
from proxy.billing.overrides import Overrides
from proxy.cli.instants import now_ms
from proxy.cli.output import Json, complain, print_json, printable
from proxy.declaration.apply import Declared
from proxy.settings import ECOSYSTEM_VARIABLES, Settings, known_keys
from proxy.store.database import Database

_MASK = "***"
#: Up to the last @: a password may hold a slash or an @ that nobody escaped. Better too much masked than too little.
_USER_INFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)
#: Whoever knows the path of a webhook can often use it.
_SECRET_PATHS = {("webhooks", "url")}
_PATH = re.compile(r"(?<=[^:/])/[^?]+")
_QUERY_VALUE = re.compile(r"(?<=[?&])([^=&#]*)=[^&#]+")


@dataclass(frozen=True, slots=True)
class _Line:
    """A setting as it is shown: `value` is masked where it is secret, and None where it is unset."""

    keys: tuple[str, ...]
    value: str | int | float | bool | None
    is_default: bool

    @property
    def variables(self) -> list[str]:
        """The environment variables that set it."""
        others = [name for name, keys in ECOSYSTEM_VARIABLES.items() if keys == self.keys]
        return ["TOLLGATE_" + "__".join(self.keys).upper(), *others]


def check_config(as_json: Json = False) -> None:
    """Check the settings, and what the file declares of tenants, and print them, secrets masked."""
    loaded = settings.load()
    Database(loaded.database_url)  # its own check of the URL; no file is made
    catalog_file.load(loaded.billing.file)
    for doubt in Overrides.read(loaded.prices.file).doubts:
        complain(doubt)
    lines = [*_lines(loaded)]
    declared = _declared(loaded)
    if as_json:
        print_json(_nested(lines) | ({} if declared is None else {"declared": declared}))
        return
    pairs = [f"{'.'.join(line.keys)} = {_written(line.value)}" for line in lines]
    width = max(len(pair) for pair in pairs)
    for line, pair in zip(lines, pairs, strict=True):
        typer.echo(f"{pair:{width}}  # {', '.join(line.variables)}{' (default)' * line.is_default}")
    if declared is not None:
        told = ", ".join(f"{name}: {value}" for name, value in declared.items())
        typer.echo(f"# declared beside the settings: {told}")


def _declared(loaded: Settings) -> dict[str, int | str] | None:
    """How much the file declares, and what a server would change for it. Raises `ConfigurationError`."""
    if loaded.source is None:
        return None
    declared = Declared(loaded.source, loaded.limits.time_zone, now_ms)
    declaration, changes = declared.check(Database(loaded.database_url))
    if not declaration.is_given:
        return None
    keys = sum(len(tenant.keys) for tenant in declaration.tenants.values())
    counts = {"plans": len(declaration.plans), "tenants": len(declaration.tenants), "keys": keys}
    return counts | {"changes": changes.words or "none"}


def masked(value: Any) -> str | int | float | bool | None:
    """A setting's value as it may be shown: no secret, and no URL's user, password or query."""
    if isinstance(value, SecretStr):
        return _MASK if value.get_secret_value() else ""
    if isinstance(value, str) and "://" in value:
        return _QUERY_VALUE.sub(rf"\1={_MASK}", _USER_INFO.sub(rf"\1{_MASK}@", value))
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _lines(loaded: Settings) -> Iterator[_Line]:
    for keys in known_keys():
        section: Any = loaded
        for key in keys[:-1]:
            section = getattr(section, key)
        value = masked(getattr(section, keys[-1]))
        if keys in _SECRET_PATHS and isinstance(value, str):
            value = _PATH.sub(f"/{_MASK}", value, count=1)
        yield _Line(keys, value, keys[-1] not in section.model_fields_set)


def _nested(lines: list[_Line]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for line in lines:
        section = document
        for key in line.keys[:-1]:
            section = section.setdefault(key, {})
        section[line.keys[-1]] = line.value
    return document


def _written(value: str | int | float | bool | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else printable(f"{value}")
