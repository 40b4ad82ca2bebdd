"""One sandbox for all of these tests, and the official SDK in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from proxy.upstream.sandbox import Sandbox


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    sandbox = Sandbox()
    yield sandbox.start()
    sandbox.stop()


@pytest.fixture
def client(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client
