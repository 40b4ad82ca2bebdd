"""Which upstream serves a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import Headers
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
    """One account at one provider: its connections, and the headers that authenticate there."""

    provider: str
    pool: Pool
    credentials: Headers
    refusals: Refusals = field(default_factory=Refusals)

    @property
    def name(self) -> str:
        """Host and port, as events carry them."""
        return self.pool.origin.authority.decode()


class Router:
    """Model → upstream. There is one upstream so far, which serves every model."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def route(self, model: str) -> Upstream:
        del model
        return self._upstream


def provider_of(host: str) -> str:
    """The provider's name for a host, as events carry it."""
    if host.endswith((".openai.azure.com", ".services.ai.azure.com")):
        return "azure"
    return _PROVIDERS.get(host, host)
