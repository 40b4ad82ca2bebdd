from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import tokens
from proxy.wire.tokens import ByBytes, ByVocabulary, tokenizer_for

INSTALLED = importlib.util.find_spec("bpe_openai") is not None
needs_vocabularies = pytest.mark.skipif(not INSTALLED, reason="the optional package bpe-openai is not installed")

#: Text, cl100k_base, o200k_base: what the OpenAI cookbook prints for its examples, and three of our own.
KNOWN = [
    ("", 0, 0),
    ("hello world", 2, 2),
    ("tiktoken is great!", 6, 6),
    ("<|endoftext|>", 7, 7),
    ("antidisestablishmentarianism", 6, 6),
    ("お誕生日おめでとう", 9, 8),
]


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What is loaded is forgotten, before and after."""
    tokens._named.cache_clear()
    yield
    tokens._named.cache_clear()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *[(model, "o200k_base") for model in ("gpt-4o", "gpt-4o-mini-2024-07-18", "chatgpt-4o-latest", "gpt-4.1-nano")],
        *[(model, "o200k_base") for model in ("gpt-4.5-preview", "gpt-5", "gpt-5.1-codex", "o1", "o3-mini", "o4-mini")],
        *[(model, "o200k_base") for model in ("gpt-oss-120b", "openai/gpt-oss-20b", "ft:gpt-4o:org::id")],
        *[(model, "o200k_base") for model in ("claude-haiku-4.5", "mistral-large", "", "a/b/c", "GPT-4O")],
        *[(model, "cl100k_base") for model in ("gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-4-32k", "openai/gpt-4")],
        *[(model, "cl100k_base") for model in ("gpt-3.5-turbo", "gpt-35-turbo", "ft:gpt-3.5-turbo:org::id", "GPT-4")],
        *[(model, "cl100k_base") for model in ("text-embedding-3-small", "text-embedding-ada-002")],
    ],
)
@needs_vocabularies
def test_a_model_is_counted_by_its_own_vocabulary(model: str, name: str) -> None:
    assert tokenizer_for(model).name == name


@needs_vocabularies
@pytest.mark.parametrize(("text", "older", "newer"), KNOWN)
def test_the_counts_are_those_of_the_reference(text: str, older: int, newer: int) -> None:
    assert tokenizer_for("gpt-4").count(text) == older
    assert tokenizer_for("gpt-4o").count(text) == newer


def test_without_the_package_four_bytes_are_a_token(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tokenizer = tokenizer_for("gpt-4o")
    assert tokenizer.name == "bytes/4"
    assert [tokenizer.count(text) for text in ("", "a", "abcd", "abcde", "é" * 4, "\ud83d")] == [0, 1, 1, 2, 2, 1]


def test_a_package_that_cannot_be_loaded_is_as_none(
    monkeypatch: pytest.MonkeyPatch, forgotten: None, tmp_path: Path
) -> None:
    package = tmp_path / "bpe_openai"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bpe_openai", raising=False)
    assert tokenizer_for("gpt-4o").name == "bytes/4"
    (package / "_bindings.py").write_text("raise ImportError('another machine')")
    tokens._named.cache_clear()
    importlib.invalidate_caches()
    assert tokenizer_for("gpt-4o").name == "bytes/4"


@needs_vocabularies
def test_nothing_is_loaded_before_the_first_estimate() -> None:
    asked = "import sys, proxy.wire.tokens, proxy.wire.prompt, proxy.wire.delivered; "
    asked += "print([name for name in sys.modules if 'bpe' in name])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_vocabularies
def test_threads_that_ask_at_once_get_the_same_count(forgotten: None) -> None:
    with ThreadPoolExecutor(16) as threads:
        counts = list(threads.map(lambda _: tokenizer_for("gpt-4o").count("hello world"), range(64)))
    assert counts == [2] * 64


@needs_vocabularies
def test_half_an_emoji_is_counted_all_the_same() -> None:
    assert tokenizer_for("gpt-4o").count("a\ud83d b") == tokenizer_for("gpt-4o").count("a? b")


class PerCall:
    """A vocabulary that says how much text it was given at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def count(self, text: str) -> int:
        self.sizes.append(len(text))
        return len(text)


@given(st.integers(0, 300_000))
def test_a_long_text_is_counted_in_pieces_that_are_the_text(size: int) -> None:
    vocabulary = PerCall()
    assert ByVocabulary("x", vocabulary).count("a" * size) == size
    assert max(vocabulary.sizes) <= 65_536
    assert sum(vocabulary.sizes) == size


@given(st.text(), st.text())
def test_bytes_add_up(one: str, other: str) -> None:
    both = ByBytes().count(one + other)
    assert both <= ByBytes().count(one) + ByBytes().count(other) <= both + 1


@needs_vocabularies
@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@given(one=st.text(), other=st.text())
def test_the_tokens_of_lines_add_up(model: str, one: str, other: str) -> None:
    count = tokenizer_for(model).count
    # Between letters a line end is a token of its own, so that neither side can merge with it.
    assert count(f"{one}a\na{other}") == count(f"{one}a") + 1 + count(f"a{other}")


@needs_vocabularies
@given(st.text())
def test_a_token_is_at_least_a_byte(text: str) -> None:
    assert (text != "") <= tokenizer_for("gpt-4o").count(text) <= len(text.encode())
