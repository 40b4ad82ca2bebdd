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
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from proxy.checks import check_webhook_secrets, percentages
from proxy.errors import ConfigurationError
from proxy.limits import Calendar
from proxy.source import CONFIG_VARIABLE, DECLARING, Source, nearest

_PREFIX = "TOLLGATE_"
_NESTED = "__"

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

_OPENAI_BASE_URL = "https://api.openai.com/v1"


def _is_url(value: str) -> str:
    try:
        url = urlsplit(value)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return value
    except ValueError:
        pass  # its words may quote a password
    raise ValueError("must be an http:// or https:// URL")


def _is_token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError("must be ASCII characters without spaces: it is sent in a header")
    return value


def _is_time_zone(value: str) -> str:
    Calendar.of(value)
    return value


_Url = Annotated[str, AfterValidator(_is_url)]
_Token = Annotated[SecretStr, AfterValidator(_is_token)]


def _listed(value: object) -> object:
    """A list as the environment writes it: with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _are_webhook_secrets(value: SecretStr) -> SecretStr:
    check_webhook_secrets(value.get_secret_value())
    return value


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class UpstreamSettings(_Section):
    """Where requests go."""

    base_url: _Url = Field(_OPENAI_BASE_URL, repr=False)
    """Base URL of the OpenAI-compatible upstream (also `OPENAI_BASE_URL`)."""
    api_key: _Token | None = None
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
    on_disconnect: Literal["drain", "cancel"] = "drain"
    """What becomes of an answer whose client has left: read on for its usage, or closed at once and estimated."""
    drain_timeout_s: float = Field(60, gt=0)
    """Seconds to go on reading an answer, for its usage, after the client has left."""
    drain_bytes_max: int = Field(default=16 * 1024 * 1024, ge=0)
    """Bytes to go on reading of one such answer at most."""
    drain_answers_max: int = Field(default=1000, ge=0)
    """Answers that are read on at the same time at most; beyond it they are closed."""


class ServerSettings(_Section):
    """The bounds of what clients may send, and how long they may take."""

    connections_max: int = Field(16384, ge=1)
    """Client connections at most; beyond it new ones get 503."""
    head_timeout_s: float = Field(30, gt=0)
    """Seconds for a client to send the head of a request (408 beyond)."""
    head_bytes_max: int = Field(64 * 1024, ge=1024)
    """Bytes of a request's line and headers at most (431 beyond)."""
    write_timeout_s: float = Field(60, gt=0)
    """Seconds that a client may take nothing of its answer, before it counts as gone."""
    body_bytes_max: int = Field(64 * 1024 * 1024, ge=1024)
    """Bytes of a request's body at most (413 beyond)."""
    body_timeout_s: float = Field(60, gt=0)
    """Seconds for a client to send its body (408 beyond)."""
    allow_routes: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Routes to serve beyond the table, such as `POST /v1/rerank`: with commas, or an array in the file."""
    allow_references: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Members of bodies that may name anything in the upstream's account, such as `file_id`, whoever has made it."""
    keep_alive_s: int = Field(75, ge=1)
    """Seconds that an idle client connection is kept."""
    shutdown_grace_s: int = Field(25, ge=0)
    """Seconds that requests in flight have to finish after SIGTERM."""


class SinkSettings(_Section):
    """Where events go."""

    # A URL may hold a password.
    konnect_api_url: _Url | None = Field(None, repr=False)
    """Base URL of the OpenMeter v3 API (also `KONNECT_API_URL`), such as https://us.api.konghq.com/v3/openmeter."""
    konnect_token: _Token | None = None
    """Its token (also `KONNECT_TOKEN`); a self-hosted OpenMeter needs none."""
    http_url: _Url | None = Field(None, repr=False)
    """Any endpoint that takes batches of CloudEvents (application/cloudevents-batch+json)."""
    http_token: _Token | None = None
    """A bearer token for it."""
    file: str | None = None
    """A file to append events to, one JSON object a line."""
    source: str = Field("tollgate", min_length=1)
    """The events' `source`. Receivers drop repeats by source and id together: never change it while events wait."""
    profile: Literal["llm_token_usage", "kong.llm_request", "prompt"] = "llm_token_usage"
    """The events' type and shape: one event a request, or (the others) one for each kind of token."""
    batch_max: int = Field(100, ge=1, le=1000)
    """Requests whose events go in one batch, at most."""
    linger_s: float = Field(0.2, ge=0)
    """Seconds to let a batch gather."""
    timeout_s: float = Field(10, gt=0)
    """Seconds for the receiver to answer."""
    retry_max_s: float = Field(60, gt=0)
    """Seconds between two tries at most; the wait doubles from half a second."""
    pause_s: float = Field(60, gt=0)
    """Seconds until the next try after the receiver refused the token or the URL (401, 403, 404)."""

    @property
    def is_set(self) -> bool:
        """Whether events go anywhere."""
        return bool(self.konnect_api_url or self.http_url or self.file)


class LimitSettings(_Section):
    """How the limits of tenants and keys are counted."""

    time_zone: Annotated[str, AfterValidator(_is_time_zone)] = "UTC"
    """Where days, months and periods begin, such as `Europe/Berlin`."""
    output_tokens: int = Field(1024, ge=0)
    """Output tokens that are reserved for a request that sets no maximum itself."""
    cap_output: bool = False
    """Whether a request that sets no maximum is sent on with one: the output tokens that are left of its limits."""
    stop_streams: bool = False
    """Whether a stream is ended where nothing is left of its tenant's limits, and may begin with less than it needs."""
    wait_s: float = Field(30, ge=0)
    """Seconds to wait, where a request fits as soon as others use less than they have reserved."""
    rate_wait_s: float = Field(0, ge=0)
    """Seconds to wait, where a request fits as soon as a limit by the minute has moved on."""


class EntitlementSettings(_Section):
    """What OpenMeter or Konnect grants those tenants that are its customers."""

    feature: str = Field("", pattern=r"^([a-z0-9]+(_[a-z0-9]+)*)?$", max_length=64)
    """The key of the feature that requests need, which counts tokens. Empty: nobody is asked."""
    url: _Url | None = Field(None, repr=False)
    """Base URL of the API that is asked. Empty: that of the sink (`KONNECT_API_URL`)."""
    token: _Token | None = None
    """A token that may read customers and entitlements. Empty: that of the sink (`KONNECT_TOKEN`)."""
    dialect: Literal["", "v3", "v1"] = ""
    """`v1` (OpenMeter) tells what is left, `v3` (Konnect) only whether anything is. Empty: by the end of the URL."""
    refresh_s: float = Field(30, ge=0.1)
    """Seconds until an answer is asked for anew, for a tenant that sends requests."""
    stale_s: float = Field(300, ge=0.1)
    """Seconds that an answer holds while there is no newer one."""
    lag_s: float = Field(10, ge=0)
    """Seconds until what was delivered is in the engine's answers."""
    when_unknown: Literal["allow", "refuse"] = "allow"
    """What holds while nobody knows: the limits that are set here alone, or 503."""


class BillingSettings(_Section):
    """What tenants are billed by."""

    file: str | None = None
    """The catalog of meters, features, plans and prices. Empty: the one that comes with Tollgate."""


class AgentSettings(_Section):
    """The agent layer (`/api/generate`, `/api/summarize`, `/api/analyze`)."""

    model: str = Field("gpt-4o-mini", min_length=1)
    """The model where the request names none."""


class WebhookSettings(_Section):
    """Who is told when a limit is nearly used up, a key about to expire, or events wait for too long."""

    # A webhook's URL is often a secret itself.
    url: _Url | None = Field(None, repr=False)
    """Where notifications are sent, signed as Standard Webhooks. Empty: nothing is noted."""
    secret: Annotated[SecretStr, AfterValidator(_are_webhook_secrets)] | None = Field(None, validate_default=True)
    """Signs them: `whsec_` and 24 to 64 random bytes in base64; while it is changed, both, with a space."""
    thresholds: Annotated[tuple[int, ...], BeforeValidator(percentages), BeforeValidator(_listed)] = (80, 100)
    """Percentages of a limit that are told when they are used: with commas, or an array in the file."""
    key_expiry_days: int = Field(7, ge=0, le=365)
    """Days before a key expires that it is told; 0: never."""
    timeout_s: float = Field(10, gt=0)
    """Seconds for the receiver to answer."""
    retry_max_s: float = Field(60, gt=0)
    """Seconds between two tries at most; the wait doubles from half a second."""
    pause_s: float = Field(60, gt=0)
    """Seconds until the next try after the receiver refused the signature or the URL (401, 403, 404, 410)."""

    #: Standard Webhooks sends one at a time.
    batch_max: ClassVar[int] = 1
    linger_s: ClassVar[float] = 0.0

    @field_validator("secret")
    @classmethod
    def _is_there(cls, value: SecretStr | None, given: ValidationInfo) -> SecretStr | None:
        if value is None and given.data.get("url") is not None:
            raise ValueError("is missing, and webhooks.url is set")
        return value


class Settings(_Section):
    """Everything that can be set."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    database_url: str = "sqlite:///var/tollgate.db"
    """The store."""
    admin_token: _Token | None = None
    """Bearer token that `/metrics` asks for. Empty: whoever reaches the port may read it."""
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
    _source: Source | None = PrivateAttr(None)

    @property
    def source(self) -> Source | None:
        """The file that they were read from, if there is one."""
        return self._source

    @property
    def uses_sandbox(self) -> bool:
        """Whether the embedded upstream answers: no key is set, nor an upstream that may need none."""
        return self.upstream.api_key is None and self.upstream.base_url.rstrip("/") == _OPENAI_BASE_URL


def load(environment: Mapping[str, str] | None = None, *, directory: Path | None = None) -> Settings:
    """Read and check the settings. `environment` and `directory` (of `.env`) default to this process's.

    Raises `ConfigurationError`: one line that names the key, and for an unknown one the nearest that is known.
    """
    directory = directory or Path.cwd()
    variables = _read_env_file(directory / ".env") | _given(os.environ if environment is None else environment)
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
