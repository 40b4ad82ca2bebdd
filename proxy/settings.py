"""The settings: from the environment, `.env` and a TOML file, checked at start, frozen afterwards.

Of several sources the first that names a key wins: the environment, then `.env`, then the file that `TOLLGATE_CONFIG`
names. Keys are `TOLLGATE_PORT`, nested ones `TOLLGATE_UPSTREAM__BASE_URL`; in the file `port`, `[upstream] base_url`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from proxy.errors import ConfigurationError

_PREFIX = "TOLLGATE_"
_CONFIG_VARIABLE = "TOLLGATE_CONFIG"
_NESTED = "__"

#: Names of the ecosystem that are honoured as they are, and the keys they stand for.
ECOSYSTEM_VARIABLES: dict[str, tuple[str, ...]] = {
    "OPENAI_API_KEY": ("upstream", "api_key"),
    "OPENAI_BASE_URL": ("upstream", "base_url"),
    "KONNECT_API_URL": ("sink", "konnect_api_url"),
    "KONNECT_TOKEN": ("sink", "konnect_token"),
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


class UpstreamSettings(_Section):
    """Where requests go."""

    base_url: str = "https://api.openai.com/v1"
    """Base URL of the OpenAI-compatible upstream (also `OPENAI_BASE_URL`)."""
    api_key: SecretStr | None = None
    """The upstream's key (also `OPENAI_API_KEY`). Without one, and with OpenAI's own base URL, the sandbox answers."""
    provider: str = ""
    """The `provider` of events. Empty: derived from the base URL's host."""
    ca_file: str | None = None
    """A PEM file of certificate authorities to trust besides the system's."""
    token_limit_field: Literal["", "max_tokens", "max_completion_tokens"] = ""
    """What the agent layer calls the token limit. Empty: max_completion_tokens for OpenAI, max_tokens elsewhere."""
    connect_timeout_s: float = Field(10, gt=0)
    """Seconds to make a connection, TLS included."""
    first_byte_timeout_s: float = Field(600, gt=0)
    """Seconds to wait for the head of an answer."""
    between_bytes_timeout_s: float = Field(300, gt=0)
    """Seconds of silence that are borne in the middle of an answer."""
    connections_max: int = Field(8192, ge=1)
    """Connections at most. A request that finds all of them busy waits."""
    waiting_max: int = Field(1024, ge=0)
    """Requests that may wait for a connection at most."""
    wait_timeout_s: float = Field(30, gt=0)
    """Seconds that a request waits for a free connection."""
    idle_timeout_s: float = Field(30, gt=0)
    """Seconds that an unused connection is kept."""
    drain_timeout_s: float = Field(60, gt=0)
    """Seconds to go on reading an answer, for its usage, after the client has left."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be an http:// or https:// URL")
        return value


class ServerSettings(_Section):
    """The bounds of what clients may send."""

    body_bytes_max: int = Field(64 * 1024 * 1024, ge=1024)
    """Bytes of a request's body at most (413 beyond)."""
    body_timeout_s: float = Field(60, gt=0)
    """Seconds for a client to send its body (408 beyond)."""
    keep_alive_s: int = Field(75, ge=1)
    """Seconds that an idle client connection is kept."""
    shutdown_grace_s: int = Field(25, ge=0)
    """Seconds that requests in flight have to finish after SIGTERM."""


class SinkSettings(_Section):
    """Where events go."""

    konnect_api_url: str | None = None
    """Base URL of the OpenMeter v3 API (also `KONNECT_API_URL`), such as https://us.api.konghq.com/v3/openmeter."""
    konnect_token: SecretStr | None = None
    """Its token (also `KONNECT_TOKEN`); a self-hosted OpenMeter needs none."""
    http_url: str | None = None
    """Any endpoint that takes batches of CloudEvents (application/cloudevents-batch+json)."""
    http_token: SecretStr | None = None
    """A bearer token for it."""
    file: str | None = None
    """A file to append events to, one JSON object a line."""
    source: str = Field("tollgate", min_length=1)
    """The events' `source`. Receivers drop repeats by source and id together: never change it while events wait."""
    batch_max: int = Field(100, ge=1, le=1000)
    """Events in one batch at most."""
    linger_s: float = Field(0.2, ge=0)
    """Seconds to let a batch gather."""
    timeout_s: float = Field(10, gt=0)
    """Seconds for the receiver to answer."""
    retry_max_s: float = Field(60, gt=0)
    """Seconds between two tries at most; the wait doubles from half a second."""
    pause_s: float = Field(60, gt=0)
    """Seconds until the next try after the receiver refused the token or the URL (401, 403, 404)."""

    @field_validator("konnect_api_url", "http_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
            raise ValueError("must be an http:// or https:// URL")
        return value


class AgentSettings(_Section):
    """The agent layer (`/api/generate`, `/api/summarize`, `/api/analyze`)."""

    model: str = Field("gpt-4o-mini", min_length=1)
    """The model where the request names none."""


class Settings(_Section):
    """Everything that can be set."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    database_url: str = "sqlite:///var/tollgate.db"
    """The store."""
    admin_token: SecretStr | None = None
    """The token of the admin API, which this version does not have yet."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged, to standard error."""
    access_log: bool = False
    """Log a line for each request."""
    upstream: UpstreamSettings = UpstreamSettings()
    server: ServerSettings = ServerSettings()
    sink: SinkSettings = SinkSettings()
    agent: AgentSettings = AgentSettings()

    @property
    def uses_sandbox(self) -> bool:
        """Whether the embedded upstream answers: no key is set, nor an upstream that may need none."""
        return self.upstream.api_key is None and "base_url" not in self.upstream.model_fields_set


def load(environment: dict[str, str] | None = None, *, directory: Path | None = None) -> Settings:
    """Read and check the settings. `environment` and `directory` (of `.env`) default to this process's.

    Raises `ConfigurationError`: one line that names the key, and for an unknown one the nearest that is known.
    """
    directory = directory or Path.cwd()
    given = dict(os.environ if environment is None else environment)
    variables = {name: value for name, value in dotenv_values(directory / ".env").items() if value} | {
        name: value for name, value in given.items() if value
    }
    merged: dict[str, Any] = {}
    if path := variables.get(_CONFIG_VARIABLE):
        merged = _read_file(directory / path)
    for name, keys in ECOSYSTEM_VARIABLES.items():
        if value := variables.get(name):
            _put(merged, keys, value)
    known = {_variable(keys): keys for keys in known_keys()}
    for name, value in variables.items():
        if name.upper().startswith(_PREFIX) and name != _CONFIG_VARIABLE:
            keys = known.get(name.upper())
            if keys is None:
                raise ConfigurationError(
                    f"{name} is not a setting.{_nearest(name.upper(), [*known, _CONFIG_VARIABLE])}"
                )
            _put(merged, keys, value)
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError(_first_fault(error)) from None


def known_keys() -> Iterator[tuple[str, ...]]:
    """Every key, as its path: `("port",)`, `("upstream", "base_url")`."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((name, inner) for inner in section.model_fields)
        else:
            yield (name,)


def _variable(keys: tuple[str, ...]) -> str:
    return _PREFIX + _NESTED.join(keys).upper()


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{_CONFIG_VARIABLE}: cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    names = {".".join(keys) for keys in known_keys()}
    sections = {keys[0] for keys in known_keys() if len(keys) > 1}
    for key in _flat(document, sections):
        if key not in names:
            raise ConfigurationError(f"{path}: {key} is not a setting.{_nearest(key, sorted(names))}")
    return document


def _flat(document: dict[str, Any], sections: set[str]) -> Iterator[str]:
    for key, value in document.items():
        if key in sections and isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)
        elif key not in sections:
            yield key
        else:
            raise ConfigurationError(f"{key} is a section: write [{key}]")


def _put(mapping: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
    mapping[keys[-1]] = value


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else ""


def _first_fault(error: ValidationError) -> str:
    # `input` is left out: it may be a secret.
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    keys = tuple(str(part) for part in fault["loc"])
    return f"{'.'.join(keys)} ({_variable(keys)}): {fault['msg'].removeprefix('Value error, ')}"
