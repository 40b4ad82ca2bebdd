"""A small deterministic tokenizer. Its counts are plausible, not OpenAI's, and they are exact in their own terms:
the pieces of a text join to that text, and the first `n` pieces of a text are the pieces of their own join."""

from __future__ import annotations

import re

# The alternatives look only at the characters they take. That is what makes a cut text count what it was cut to.
_PIECE = re.compile(
    r" *[A-Za-z]{1,6}"  # a word with the spaces before it; a long word is several pieces
    r"| *[0-9]{1,3}"
    r"| ?[!-/:-@\[-`{-~]{1,3}"  # ASCII punctuation
    r"|\s+"
    r"|[^\x00-\x7f]{1,2}"
    r"|.",
    re.DOTALL,
)


def pieces(text: str) -> list[str]:
    """The tokens of `text`, in order, as text."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """How many tokens `text` is."""
    return len(pieces(text))
