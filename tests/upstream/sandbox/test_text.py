from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.upstream.sandbox.text import count, pieces


@settings(deadline=None)
@given(st.text())
def test_the_pieces_of_a_text_join_to_the_text_and_are_the_same_each_time(text: str) -> None:
    assert "".join(pieces(text)) == text
    assert pieces(text) == pieces(text)
    assert all(pieces(text))


@settings(deadline=None)
@given(st.text(), st.integers(0, 20))
def test_a_text_cut_after_n_pieces_counts_n(text: str, cut: int) -> None:
    kept = pieces(text)[:cut]
    assert pieces("".join(kept)) == kept


def test_words_punctuation_and_other_scripts_count_about_as_one_would_expect() -> None:
    assert pieces("Hello, world!") == ["Hello", ",", " world", "!"]
    assert pieces("incomprehensible") == ["incomp", "rehens", "ible"]
    assert count("") == 0
    assert count("日本語です") == 3
