"""What can be set, section by section; each key has its explanation under it, which README and the example repeat."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from proxy.limits import Calendar

#: What Standard Webhooks demands of a secret.
_SECRET_BYTES_MIN = 24
_SECRET_BYTES_MAX = 64
_STRIPE_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{16,256}")
#: Of a soft limit more than all of it may be used.
_PERCENT_MAX = 1000

OPENAI_BASE_URL = "https://api.openai.com/v1"


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


def check_webhook_secrets(secrets: str) -> None:
    """As Standard Webhooks has it: `whsec_`, and 24 to 64 bytes in base64. Of several, with spaces, each.

    Raises `ValueError`, worded for the user.
    """
    for secret in secrets.split() or [""]:
        kind, _, encoded = secret.partition("_")
        try:
            size = len(base64.b64decode(encoded, validate=True)) if kind == "whsec" else 0
        except ValueError:
            size = 0  # its words may quote the secret
        if not _SECRET_BYTES_MIN <= size <= _SECRET_BYTES_MAX:
            raise ValueError(
                'must be whsec_ and 24 to 64 bytes in base64; make one with: echo "whsec_$(openssl rand -base64 32)"'
            )


def check_stripe_secrets(secrets: str) -> None:
    """As Stripe shows it for an endpoint: `whsec_…`. Of several, with spaces, each. Raises `ValueError`."""
    if not secrets.split() or not all(_STRIPE_SECRET.fullmatch(one) for one in secrets.split()):
        raise ValueError("must be whsec_ and what follows it, as Stripe shows the endpoint's signing secret")


def percentages(listed: object) -> tuple[int, ...]:
    """Whole percentages, in order, each once. Raises `ValueError`, worded for the user."""
    try:
        numbers = {int(str(one)) for one in listed} if isinstance(listed, Iterable) else {0}
    except ValueError:
        numbers = {0}
    if not all(1 <= number <= _PERCENT_MAX for number in numbers):
        raise ValueError(f"must be whole percentages from 1 to {_PERCENT_MAX}, such as 80,100")
    return tuple(sorted(numbers))


Url = Annotated[str, AfterValidator(_is_url)]
Token = Annotated[SecretStr, AfterValidator(_is_token)]


def _listed(value: object) -> object:
    """A list as the environment writes it: with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _are_webhook_secrets(value: SecretStr) -> SecretStr:
    check_webhook_secrets(value.get_secret_value())
    return value


def _are_stripe_secrets(value: SecretStr) -> SecretStr:
    check_stripe_secrets(value.get_secret_value())
    return value


class Section(BaseModel):
    """Keys that are set together."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class UpstreamSettings(Section):
    """Where requests go."""

    base_url: Url = Field(OPENAI_BASE_URL, repr=False)
    """Base URL of the OpenAI-compatible upstream (also `OPENAI_BASE_URL`)."""
    api_key: Token | None = None
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


class ServerSettings(Section):
    """The bounds of what clients may send, and how long they may take."""

    connections_max: int = Field(16384, ge=1)
    """Client connections at most (and no more than half of `ulimit -n`); beyond it new ones get 503."""
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


class SinkSettings(Section):
    """Where events go."""

    # A URL may hold a password.
    konnect_api_url: Url | None = Field(None, repr=False)
    """Base URL of the OpenMeter v3 API (also `KONNECT_API_URL`), such as https://us.api.konghq.com/v3/openmeter."""
    konnect_token: Token | None = None
    """Its token (also `KONNECT_TOKEN`); a self-hosted OpenMeter needs none."""
    http_url: Url | None = Field(None, repr=False)
    """Any endpoint that takes batches of CloudEvents (application/cloudevents-batch+json)."""
    http_token: Token | None = None
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
    """Seconds until the next try after the receiver refused the token or the URL (401, 403, 404, 405, a redirect)."""

    @property
    def is_set(self) -> bool:
        """Whether events go anywhere."""
        return bool(self.konnect_api_url or self.http_url or self.file)


class LimitSettings(Section):
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
    unpriced: Literal["refuse", "count"] = "refuse"
    """What becomes of a model without a known price under a hard limit in usd: refused, or served and only marked."""


class PriceSettings(Section):
    """What models cost."""

    file: str | None = None
    """A TOML file of your own prices, which go before the list's, such as `config/prices.toml`."""


class EntitlementSettings(Section):
    """What OpenMeter or Konnect grants those tenants that are its customers."""

    feature: str = Field("", pattern=r"^([a-z0-9]+(_[a-z0-9]+)*)?$", max_length=64)
    """The key of the feature that requests need, which counts tokens. Empty: nobody is asked."""
    url: Url | None = Field(None, repr=False)
    """Base URL of the API that is asked. Empty: that of the sink (`KONNECT_API_URL`)."""
    token: Token | None = None
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


class BillingSettings(Section):
    """What tenants are billed by."""

    file: str | None = None
    """The catalog of meters, features, plans and prices. Empty: the one that comes with Tollgate."""


class AgentSettings(Section):
    """The agent layer (`/api/generate`, `/api/summarize`, `/api/analyze`)."""

    model: str = Field("gpt-4o-mini", min_length=1)
    """The model where the request names none."""


class WebhookSettings(Section):
    """Who is told when a limit is nearly used up, a key about to expire, or events wait for too long."""

    # A webhook's URL is often a secret itself.
    url: Url | None = Field(None, repr=False)
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
    """Seconds until the next try after the receiver refused signature or URL (401, 403, 404, 405, 410, a redirect)."""

    #: Standard Webhooks sends one at a time.
    batch_max: ClassVar[int] = 1
    linger_s: ClassVar[float] = 0.0

    @field_validator("secret")
    @classmethod
    def _is_there(cls, value: SecretStr | None, given: ValidationInfo) -> SecretStr | None:
        if value is None and given.data.get("url") is not None:
            raise ValueError("is missing, and webhooks.url is set")
        return value


class HookSettings(Section):
    """Who may tell of invoices and payments, and what follows."""

    openmeter_secret: Annotated[SecretStr, AfterValidator(_are_webhook_secrets)] | None = None
    """Of OpenMeter's or Konnect's channel: `whsec_…`; while it is changed, both, with a space. Empty: 404."""
    stripe_secret: Annotated[SecretStr, AfterValidator(_are_stripe_secrets)] | None = None
    """Of Stripe's endpoint: `whsec_…`; while it is changed, both, with a space. Empty: 404."""
    suspends: bool = False
    """Whether a tenant is refused (402) from a failed payment on, until the invoice is paid."""

    @field_validator("suspends")
    @classmethod
    def _is_told(cls, value: bool, given: ValidationInfo) -> bool:
        if value and not any(given.data.get(name) for name in ("openmeter_secret", "stripe_secret")):
            raise ValueError("nobody can tell of payments: set hooks.openmeter_secret or hooks.stripe_secret")
        return value
