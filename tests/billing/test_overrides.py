"""The operator's own prices: which entry holds, and what is said of a file with a mistake."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.billing.overrides import PRICES, Overrides
from proxy.billing.tariff import PARTS_PER_USD
from proxy.errors import ConfigurationError
from proxy.model import Usage
from tests.store.samples import settlement

EXAMPLE = Path(__file__).parent.parent.parent / "config" / "prices.toml"
NOW_MS = 1_776_076_200_000  # 2026-04-13


def read(directory: Path, text: str) -> Overrides:
    path = directory / "prices.toml"
    path.write_text(text)
    return Overrides.read(str(path))


def entry(model: str, usd: str, more: str = "") -> str:
    return f'[[price]]\nmodel = "{model}"\ninput_per_million = {usd}\n{more}\n'


def price(found: Overrides, model: str = "gpt-4o", provider: str = "openai", time_ms: int = NOW_MS) -> int | None:
    """Pico-dollars of a token."""
    tariff = found.find(provider, model, time_ms).tariff
    return None if tariff is None else tariff.cost(settlement("1", usage=Usage(1))).pico_usd


def test_the_last_entry_that_fits_holds(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        entry("*", "1")
        + entry("gpt-4o*", '"2"')
        + entry("gpt-4o-mini", "0.25")
        + entry("*", "9", 'provider = "azure"'),
    )
    models = ("o3", "gpt-4o", "gpt-4o-mini", "gpt-4o-mini-2024-07-18")
    assert [price(found, model) for model in models] == [1_000_000, 2_000_000, 250_000, 250_000]
    assert price(found, provider="azure") == 9_000_000
    assert price(Overrides.read(None)) is None


def test_a_price_may_be_of_one_tier(tmp_path: Path) -> None:
    found = read(tmp_path, entry("a", "1") + entry("a", "2", 'service_tier = "prio*"'))

    def rate(tier: str) -> int | None:
        tariff = found.find("p", "a", 0, tier).tariff
        return None if tariff is None else tariff.cost(settlement("1", usage=Usage(1))).pico_usd

    assert [rate(tier) for tier in ("", "flex", "priority")] == [1_000_000, 1_000_000, 2_000_000]


def test_prices_hold_from_their_date_on(tmp_path: Path) -> None:
    later = "from = 2026-05-01\n"
    found = read(tmp_path, entry("a", "1", "from = 2026-04-01T12:00:00+02:00") + entry("a", "2", later))

    def at(text: str) -> int:
        return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)

    begins, changes = at("2026-04-01T10:00:00"), at("2026-05-01")
    instants = (begins - 1, begins, changes - 1, changes)
    assert [price(found, "a", time_ms=one) for one in instants] == [None, 1_000_000, 1_000_000, 2_000_000]
    spans = [found.find("openai", "a", one) for one in instants]
    assert [(one.from_ms, one.until_ms) for one in spans[1:]] == [(begins, changes)] * 2 + [(changes, float("inf"))]
    assert spans[0].until_ms == begins


def test_an_entry_has_steps(tmp_path: Path) -> None:
    steps = "[[price.tiers]]\nabove_input_tokens = 10\ninput_per_million = 2\n"
    steps += "[[price.tiers]]\nabove_input_tokens = 20\noutput_per_million = 7\n"
    tariff = read(tmp_path, entry("a", "1", f"output_per_million = 5\n{steps}")).find("p", "a", 0).tariff
    assert tariff is not None
    used = [tariff.cost(settlement("1", usage=Usage(n, text_output=1))).pico_usd for n in (10, 11, 20, 21)]
    assert used == [15_000_000, 27_000_000, 45_000_000, 49_000_000]


def test_the_example_is_whole_and_names_every_key(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert Overrides.read(str(EXAMPLE)) == Overrides()
    written = re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    found = read(tmp_path, written)
    assert (len(found.entries), found.doubts) == (2, ())
    assert {key for key in PRICES if f"\n{key} = " in written} == PRICES.keys()
    local = found.find("127.0.0.1", "llama3.3", NOW_MS).tariff
    assert local is not None
    assert local.is_free


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "line 1: x: is not known; begin each entry with [[price]]"),
        ("\nprice = 3", "line 2: price: begin each entry with [[price]]"),
        ('[[price]]\nmodel = "a"', "line 2: price 1: model: has no price: give it one, or write free = true"),
        ("[[price]]\nfree = true", "price 1: model: name it, or a pattern such as gpt-4o*"),
        (entry("a", "1", "free = true"), "line 4: price 1: free: write free = true, without prices"),
        (
            entry("a", "1") + entry("b", "1", "input = 3"),
            "line 8: price 2: input: is not known.",
        ),
        (entry("a", "1", "output_per_milion = 3"), "output_per_milion: is not known. Did you mean output_per_million?"),
        (entry("a", '"1e-3"'), 'line 3: price 1: input_per_million: write dollars, such as "2.50"'),
        (entry("a", "-1"), "line 3: price 1: input_per_million: write dollars"),
        (entry("a", "nan"), "line 3: price 1: input_per_million: write dollars"),
        (entry("a", "true"), "line 3: price 1: input_per_million: write dollars"),
        (entry("a", "[1]"), "line 3: price 1: input_per_million: write dollars"),
        (entry("a", '"0.0000000000001"'), "at most 1000000 dollars, with at most 12 places after the point"),
        (entry("a", "1000001"), "at most 1000000 dollars"),
        (entry("a", "1", "from = 5"), "line 4: price 1: from: write a date"),
        (entry("a", "1", "from = 2026-04-01T00:00:00"), "line 4: price 1: from: write a date"),
        (entry("a", "1", "provider = 3"), "line 4: price 1: provider: name it"),
        (entry("a", "1", "tiers = 3"), "line 4: price 1: tiers: write [[price.tiers]] before each"),
        (entry("a", "1", "[[price.tiers]]\nper_image = 1"), "line 5: price 1: per_image: is not known"),
        (entry("a", "1", "[[price.tiers]]\ninput_per_million = 1"), "line 4: price 1: above_input_tokens: a number"),
        ("[[price]]\nmodel=", "Invalid value (at end of document)"),
        ('[[price]]\nmodel="a"\nmodel="b"', "Cannot overwrite a value"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(tmp_path, text)
    said = str(refused.value)
    assert said.startswith(f"prices.file (TOLLGATE_PRICES__FILE): {tmp_path}/prices.toml: ")
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize("bad", [b"\xff", None])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, bad: bytes | None) -> None:
    path = tmp_path / "prices.toml"
    if bad is not None:
        path.write_bytes(bad)
    with pytest.raises(ConfigurationError, match=r"^prices\.file \(TOLLGATE_PRICES__FILE\): cannot read "):
        Overrides.read(str(path))


@pytest.mark.parametrize("usd", ["0.0000025", "0.0005", "10_001"])
def test_a_price_that_looks_like_one_for_another_number_is_questioned(tmp_path: Path, usd: str) -> None:
    (doubt,) = read(tmp_path, entry("a", "2.5") + entry("b", usd)).doubts
    assert "line 7: price 2: input_per_million: " in doubt
    assert "dollars for a million is unusual" in doubt


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.decimals(0, 1_000_000, places=12))
def test_a_price_is_taken_as_it_is_written(tmp_path: Path, usd: object) -> None:
    tariff = read(tmp_path, f'[[price]]\nmodel = "a"\nper_request = "{usd:f}"\n').find("p", "a", 0).tariff
    assert tariff is not None
    assert tariff.rates[0].request == usd * PARTS_PER_USD  # type: ignore[operator] # a decimal
