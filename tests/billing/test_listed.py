"""The list of the `genai-prices` package: our sums are its own, at any time, and it asks no network."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.billing.listed import Listed
from proxy.billing.tariff import Rates
from proxy.model import CostState, Settlement, Units, Usage
from proxy.upstream.route import provider_of
from tests.store.samples import settlement

LISTED = Listed()
PROVIDERS = get_snapshot().providers
MODELS = [(provider.id, model.id) for provider in PROVIDERS for model in provider.models]
SHORT = Usage(1_001, 207, 31, 0, 503, 97, 0)
LONG = Usage(271_828, 31_415, 9_265, 0, 3_589, 793, 0)
#: What the package must be told apart where kinds overlap, as it says itself.
NONE_OF = (
    "cache_audio_read_tokens",
    "cache_image_read_tokens",
    "cache_video_read_tokens",
    "output_audio_reasoning_tokens",
)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


def theirs(provider: str, model: str, one: Settlement) -> Decimal:
    """What the package says it costs, in dollars."""
    usage = one.usage
    seconds = Decimal(one.units.audio_ms) / 1000
    told = TheirUsage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cached_input,
        cache_write_tokens=usage.cache_write,
        input_audio_tokens=usage.audio_input,
        output_tokens=usage.completion_tokens,
        output_reasoning_tokens=usage.reasoning,
        output_audio_tokens=usage.audio_output,
        input_characters=one.units.characters,
        audio_seconds=seconds,
        input_audio_seconds=seconds,
        **dict.fromkeys(NONE_OF, 0),
    )
    at = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    context = {"service_tier": one.service_tier} if one.service_tier else None
    return get_snapshot().calc(told, model, provider, None, at, context).total_price


def check(provider: str, model: str, one: Settlement) -> bool:
    """Whether there was something to compare."""
    tariff = LISTED.find(provider, model, one.time_ms, one.service_tier).tariff
    cost = None if tariff is None else tariff.cost(one)
    if cost is None or cost.state is CostState.UNPRICED:
        return False
    expected = theirs(provider, model, one).quantize(Decimal("1e-12"), ROUND_HALF_UP)
    assert Decimal(cost.pico_usd).scaleb(-12) == expected, (provider, model)
    return True


def test_every_models_sum_is_the_packages_own() -> None:
    compared = 0
    for (provider, model), usage in zip(MODELS, itertools.cycle((SHORT, LONG)), strict=False):
        compared += check(provider, model, settlement("1", usage=usage, time_ms=ms("2026-10-01T12:00:00")))
    assert compared > 2_000


small = st.integers(0, 500_000)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.builds(Usage, small, small, small, small, small, small, small),
    st.builds(Units, st.just(0), st.integers(0, 10**7), st.integers(0, 10**6)),
    st.datetimes(datetime(2024, 1, 1), datetime(2027, 1, 1)),
    st.sampled_from(["", "default", "flex", "priority", "no-such-tier"]),
)
def test_any_usage_at_any_time(named: tuple[str, str], usage: Usage, units: Units, at: datetime, tier: str) -> None:
    at_ms = ms(at.isoformat(timespec="seconds"))
    check(*named, settlement("1", usage=usage, units=units, time_ms=at_ms, service_tier=tier))


@pytest.mark.parametrize("tier", ["flex", "priority", "fast", "default"])
def test_each_tier_has_its_price_from_its_date_on(tier: str) -> None:
    compared = 0
    for provider, model in MODELS:
        for day in ("2026-10-11", "2026-10-12"):
            standard = LISTED.find(provider, model, ms(day)).tariff
            found = LISTED.find(provider, model, ms(day), tier)
            assert found.from_ms <= ms(day) < found.until_ms
            if standard is None or found.tariff is None or standard.rates == found.tariff.rates:
                continue
            assert found.tariff.origin == f"{standard.origin} ({tier})"
            compared += check(provider, model, settlement("1", usage=SHORT, time_ms=ms(day), service_tier=tier))
    assert (compared > 10) == (tier != "default")


def changes() -> Iterator[tuple[str, str, int]]:
    """Each instant at which a model's price begins, as the package has it."""
    for provider, model in ((one, model) for one in PROVIDERS for model in one.models):
        for price in model.prices if isinstance(model.prices, list) else ():
            start: Any = getattr(price.constraint, "start_date", None)
            if start is not None and provider.find_model(model.id) is model:
                yield provider.id, model.id, ms(start.isoformat())


def test_a_price_holds_from_its_date_on_and_the_one_before_until_then() -> None:
    found = [*changes()]
    assert len(found) > 100
    for provider, model, at_ms in found:
        for time_ms in (at_ms - 1, at_ms):
            holding = LISTED.find(provider, model, time_ms)
            assert holding.from_ms <= time_ms < holding.until_ms
            assert at_ms in (holding.from_ms, holding.until_ms)
            check(provider, model, settlement("1", usage=SHORT, time_ms=time_ms))


@pytest.mark.parametrize("clock", ["00:29:59", "00:30:00", "12:00:00", "16:29:59", "16:30:00", "23:59:59"])
def test_prices_by_the_time_of_day(clock: str) -> None:
    at_ms = ms(f"2025-05-05T{clock}")
    holding = LISTED.find("deepseek", "deepseek-chat", at_ms)
    by_day = "00:30:00" <= clock < "16:30:00"
    assert (holding.until_ms - holding.from_ms) / 3_600_000 == (16 if by_day else 8)
    assert holding.from_ms <= at_ms < holding.until_ms
    assert check("deepseek", "deepseek-chat", settlement("1", usage=SHORT, time_ms=at_ms))


@pytest.mark.parametrize(
    ("provider", "model", "found"),
    [
        ("openai", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini"),
        ("openai", "GPT-4o", "openai/gpt-4o"),
        ("xai", "grok-4", "x-ai/"),
        ("openrouter", "openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("azure", "gpt-5-mini-2025-08-07", "azure/gpt-5-mini"),
        ("api.fireworks.ai", "accounts/fireworks/models/gpt-oss-20b", "fireworks/"),
        ("groq", "whisper-large-v3", "groq/whisper-large-v3"),
    ],
)
def test_providers_are_known_by_our_names_and_by_their_hosts(provider: str, model: str, found: str) -> None:
    tariff = LISTED.find(provider, model, ms("2026-10-01")).tariff
    assert tariff is not None
    assert tariff.origin.startswith(f"genai-prices {LISTED.version}: {found}")


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("api.openai.com", "gpt-4o"),
        ("api.groq.com", "llama-3.3-70b-versatile"),
        ("api.mistral.ai", "mistral-large-latest"),
        ("api.deepseek.com", "deepseek-chat"),
        ("api.x.ai", "grok-4"),
        ("api.together.xyz", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("openrouter.ai", "openai/gpt-4o"),
        ("generativelanguage.googleapis.com", "gemini-2.5-flash"),
        ("mine.openai.azure.com", "gpt-4o"),
        ("api.anthropic.com", "claude-sonnet-4-5"),
    ],
)
def test_each_upstream_that_events_have_a_name_for_has_prices(host: str, model: str) -> None:
    assert LISTED.find(provider_of(host), model, ms("2026-10-01")).tariff is not None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini-of-my-own"),
        ("openai", "dall-e-3"),
        ("127.0.0.1", "gpt-4o"),
        ("my-openai.example", "gpt-4o"),  # its name says nothing of its prices
        ("api.openai.com.example", "gpt-4o"),
        ("sandbox", "gpt-4o-mini"),
        ("", ""),
        ("github-copilot", "gpt-4o"),  # listed without any price, and not as free
        ("mistral", "mistral-ocr-2503"),  # by the page
    ],
)
def test_what_the_list_does_not_know_has_no_tariff(provider: str, model: str) -> None:
    assert LISTED.find(provider, model, ms("2026-10-01")).tariff is None


def test_what_is_listed_as_free_is_free() -> None:
    for provider, model in (("openrouter", "qwen/qwq-32b:free"), ("openai", "omni-moderation-latest")):
        tariff = LISTED.find(provider, model, ms("2026-10-01")).tariff
        assert tariff is not None
        assert tariff.is_free


def test_groq_charges_for_ten_seconds_at_least() -> None:
    for audio_ms in (1, 9_999, 10_000, 61_234):
        one = settlement("1", usage=Usage(), units=Units(audio_ms=audio_ms))
        assert check("groq", "whisper-large-v3", one)


def test_kinds_without_a_price_are_those_of_their_side() -> None:
    tariff = LISTED.find("openai", "gpt-4o", ms("2026-10-01")).tariff
    assert tariff is not None
    (rates,) = tariff.rates
    known = {name: rate for name, rate in asdict(rates).items() if name in Rates.__slots__}
    assert known["cache_write"] == known["uncached_input"] == 2 * known["cached_input"]
    assert known["reasoning"] == known["text_output"]


def test_no_network_is_asked_and_no_thread_left() -> None:
    code = """
import sys, threading
def refuse(event, args):
    assert not event.startswith(("socket.connect", "socket.getaddrinfo", "socket.bind")), (event, args)
sys.addaudithook(refuse)
from proxy.billing.prices import PriceBook
assert PriceBook.of(None).tariff("127.0.0.1", "gpt-4o", 1_776_076_200_000) is None
assert PriceBook.of(None).tariff("sandbox", "gpt-4o", 1_776_076_200_000) is not None
assert "genai_prices" not in sys.modules, "it is loaded where it is needed"
assert PriceBook.of(None).tariff("openai", "gpt-4o", 1_776_076_200_000) is not None
assert "genai_prices" in sys.modules
print([thread.name for thread in threading.enumerate()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")
