"""Which upstream serves a model, and for whose account."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from proxy.errors import Headers
from proxy.model import Hidden
from proxy.upstream.keys import UpstreamKeys
from proxy.upstream.pool import Pool
from proxy.upstream.refusals import Refusals

#: Hosts whose provider has a name of its own in price lists; elsewhere the host's name stands in.
_PROVIDERS = {
    "api.openai.com": "openai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.together.xyz": "together",
    "openrouter.ai": "openrouter",
    "generativelanguage.googleapis.com": "google",
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """One account at one provider: its connections, and the headers that authenticate there.

    `own_key` says where the key of a tenant's own account is found; empty for the account that all share. Accounts
    share connections: each request carries its own credentials.
    """

    provider: str
    pool: Pool
    credentials: Headers
    refusals: Refusals = field(default_factory=Refusals)
    own_key: str = ""

    @property
    def name(self) -> str:
        """Host and port, as events carry them."""
        return self.pool.name


def bearer(secret: str) -> Headers:
    """The headers that authenticate with a key."""
    return [(b"authorization", Hidden(b"Bearer " + secret.encode()))]


class Router:
    """Model → upstream. There is one upstream so far, which serves every model, with one account or with several."""

    def __init__(self, upstream: Upstream, keys: UpstreamKeys) -> None:
        self._shared = upstream
        self._keys = keys
        self._own: dict[str, Upstream] = {}

    def route(self, model: str, upstream_key: str = "") -> Upstream:
        """`upstream_key` says where the key of a tenant's own account is found. Raises `KeyMissing`."""
        del model
        if not upstream_key:
            return self._shared
        credentials = bearer(self._keys.secret(upstream_key))
        known = self._own.get(upstream_key)
        if known is None or known.credentials != credentials:
            known = replace(self._shared, credentials=credentials, own_key=upstream_key)
            self._own[upstream_key] = known
        return known


def provider_of(host: str) -> str:
    """The provider's name for a host, as events carry it."""
    if host.endswith((".openai.azure.com", ".services.ai.azure.com")):
        return "azure"
    return _PROVIDERS.get(host, host)
