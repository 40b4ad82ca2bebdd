from __future__ import annotations

import pytest

from proxy.upstream.route import provider_of


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
