"""The settings: from the environment, `.env` and a TOML file, checked at start, frozen afterwards.

Of several sources the first that names a key wins: the environment, then `.env`, then the file that `TOLLGATE_CONFIG`
names. Keys are `TOLLGATE_PORT`, nested ones `TOLLGATE_UPSTREAM__BASE_URL`; in the file `port`, `[upstream] base_url`.
Such a name wins over the ecosystem's for the same key, also from `.env`: a general `OPENAI_API_KEY` in somebody's shell
must not go to the upstream that this project's `.env` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from proxy.errors import ConfigurationError
from proxy.sections import (
    OPENAI_BASE_URL,
    AgentSettings,
    BillingSettings,
    EntitlementSettings,
    HookSettings,
    LimitSettings,
    PriceSettings,
    Section,
    ServerSettings,
    SinkSettings,
    Token,
    UpstreamSettings,
    WebhookSettings,
)
from proxy.source import CONFIG_VARIABLE, DECLARING, Source, nearest

_PREFIX = "TOLLGATE_"
_NESTED = "__"
#: The command line's own: which server's admin API it asks.
SERVER_VARIABLE = "TOLLGATE_SERVER"

#: Names of the ecosystem that are honoured as they are, and the keys they stand for.
ECOSYSTEM_VARIABLES: dict[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("upstream", "api_key"),
    "OPENAI_BASE_URL": ("upstream", "base_url"),
    "KONNECT_API_URL": ("sink", "konnect_api_url"),
    "KONNECT_TOKEN": ("sink", "konnect_token"),
}


#: What Kubernetes sets in every pod beside a Service that is named tollgate; it means nothing here.
_SERVICE_LINK = re.compile(r"TOLLGATE_(SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_LINK_PORT = re.compile(r"(tcp|udp|sctp)://")


class Settings(Section):
    """Everything that can be set."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    workers: int = Field(1, ge=1, le=32)
    """Processes that serve, on one port and one ledger. As many as there are cores to spare."""
    database_url: str = "sqlite:///var/tollgate.db"
    """The store."""
    admin_token: Token | None = None
    """Bearer token of `/admin/*`, which is off without it, and of `/metrics`, which is open without it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged, to standard error."""
    upstream: UpstreamSettings = UpstreamSettings()
    server: ServerSettings = ServerSettings()
    sink: SinkSettings = SinkSettings()
    agent: AgentSettings = AgentSettings()
    limits: LimitSettings = LimitSettings()
    entitlements: EntitlementSettings = EntitlementSettings()
    webhooks: WebhookSettings = WebhookSettings()
    billing: BillingSettings = BillingSettings()
    prices: PriceSettings = PriceSettings()
    hooks: HookSettings = HookSettings()
    _source: Source | None = PrivateAttr(None)

    @property
    def source(self) -> Source | None:
        """The file that they were read from, if there is one."""
        return self._source

    @property
    def uses_sandbox(self) -> bool:
        """Whether the embedded upstream answers: no key is set, nor an upstream that may need none."""
        return self.upstream.api_key is None and self.upstream.base_url.rstrip("/") == OPENAI_BASE_URL


def load(environment: Mapping[str, str] | None = None, *, directory: Path | None = None) -> Settings:
    """Read and check the settings. `environment` and `directory` (of `.env`) default to this process's.

    Raises `ConfigurationError`: one line that names the key, and for an unknown one the nearest that is known.
    """
    directory = directory or Path.cwd()
    given = _given(os.environ if environment is None else environment)
    given.pop(SERVER_VARIABLE, None)
    variables = _read_env_file(directory / ".env") | given
    path = variables.pop(CONFIG_VARIABLE, None)
    if path is None:
        return _settings({}, variables)
    source = Source(directory.absolute() / path, variables)
    settings = _settings(_checked(source.read_ahead()[0], source.path), variables)
    settings._source = source
    return settings


def read(source: Source) -> tuple[Settings, dict[str, Any] | None]:
    """The settings as the file has them now, and its tables that are none (`Source.read`). Raises as `load` does."""
    document, declaring = source.read()
    return _settings(_checked(document, source.path), source.variables), declaring


def _settings(merged: dict[str, Any], variables: Mapping[str, str]) -> Settings:
    for name, keys in ECOSYSTEM_VARIABLES.items():
        if name in variables:
            _put(merged, keys, variables[name])
    known = {_variable(keys): keys for keys in known_keys()}
    for name, value in variables.items():
        if name in known:
            _put(merged, known[name], value)
        elif name.startswith(_PREFIX):
            raise ConfigurationError(f"{name} is not a setting.{nearest(name, [*known, CONFIG_VARIABLE])}")
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError(_first_fault(error)) from None


def known_keys() -> list[tuple[str, ...]]:
    """Every key, as its path: `("port",)`, `("upstream", "base_url")`."""
    found: list[tuple[str, ...]] = []
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found += ((name, inner) for inner in section.model_fields)
        else:
            found.append((name,))
    return found


def _variable(keys: tuple[str, ...]) -> str:
    return _PREFIX + _NESTED.join(keys).upper()


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        return _given(dotenv_values(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None


def _given(variables: Mapping[str, str | None]) -> dict[str, str]:
    """The variables that have a value, without the space around it (a secret's file ends in a newline).

    Our own may be written in lower case.
    """
    given = {}
    for written, raw in variables.items():
        name = written.upper() if written.upper().startswith(_PREFIX) else written
        value = (raw or "").strip()
        by_kubernetes = _SERVICE_LINK.fullmatch(name) or (name == "TOLLGATE_PORT" and _SERVICE_LINK_PORT.match(value))
        if value and not by_kubernetes:
            given[name] = value
    return given


def _checked(document: dict[str, Any], path: Path) -> dict[str, Any]:
    names = {".".join(keys) for keys in known_keys()}
    sections = {keys[0] for keys in known_keys() if len(keys) > 1}
    known = sorted({*names, *sections, *DECLARING})
    for key in _flat(document, sections):
        if key in sections:
            raise ConfigurationError(f"{path}: {key} is a section: write [{key}]")
        if key not in names:
            raise ConfigurationError(f"{path}: {key} is not a setting.{nearest(key, known)}")
    return _without_empty(document)


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    """An empty string leaves a key unset, in the file as in the environment."""
    return {
        key: _without_empty(value) if isinstance(value, dict) else value
        for key, value in document.items()
        if value != ""
    }


def _flat(document: dict[str, Any], sections: set[str]) -> Iterator[str]:
    """The keys of a file as `section.key`; a section that is none by its value comes as it is."""
    for key, value in document.items():
        if key in sections and isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)
        else:
            yield key


def _put(mapping: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
    mapping[keys[-1]] = value


def _first_fault(error: ValidationError) -> str:
    # `input` is left out: it may be a secret.
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    keys = tuple(str(part) for part in fault["loc"])
    return f"{'.'.join(keys)} ({_variable(keys)}): {fault['msg'].removeprefix('Value error, ')}"
