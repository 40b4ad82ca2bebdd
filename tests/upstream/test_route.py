from __future__ import annotations

import pytest

from proxy.errors import KeyMissing
from proxy.upstream.connect import Origin
from proxy.upstream.connection import Timeouts
from proxy.upstream.keys import UpstreamKeys
from proxy.upstream.pool import Pool, PoolLimits
from proxy.upstream.route import Router, Upstream, bearer, provider_of


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("openrouter.ai", "openrouter"),
        ("acme.openai.azure.com", "azure"),
        ("vllm.internal", "vllm.internal"),
    ],
)
def test_a_host_has_the_name_that_price_lists_know_it_by(host: str, provider: str) -> None:
    assert provider_of(host) == provider


@pytest.mark.anyio
async def test_an_account_of_its_own_has_its_own_credentials_and_shares_the_rest() -> None:
    environment = {"ACME": "sk-acme"}
    pool = Pool(Origin.parse("http://127.0.0.1:1/v1"), PoolLimits(1, 1, 1, 1, 1), Timeouts(1, 1))
    shared = Upstream("openai", pool, bearer("sk-shared"))
    router = Router(shared, UpstreamKeys(environment))
    assert router.route("gpt-4o") is shared
    own = router.route("gpt-4o", "env:ACME")
    assert (own.credentials, own.own_key) == ([(b"authorization", b"Bearer sk-acme")], "env:ACME")
    assert (own.pool, own.refusals, own.provider) == (shared.pool, shared.refusals, "openai")
    assert router.route("gpt-4o", "env:ACME") is own
    environment["ACME"] = "sk-rotated"
    assert router.route("gpt-4o", "env:ACME").credentials == bearer("sk-rotated")
    del environment["ACME"]
    with pytest.raises(KeyMissing):
        router.route("gpt-4o", "env:ACME")
    await pool.close()
