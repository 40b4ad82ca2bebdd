"""Counting the tokens of a text: by the model's own vocabulary where it is installed, else by its bytes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
from functools import cache
from typing import Protocol

#: The optional package (`pip install tollgate[tokens]`) that has the vocabularies within it, and its compiled part.
_PACKAGE = "bpe_openai"
_COMPILED = "bpe_openai._bindings"

#: The models of the older vocabulary (tiktoken, `model.py`): gpt-4 without o or .1, gpt-3.5 (gpt-35 at Azure), the
#: embeddings. Every later model of OpenAI's has o200k_base. Of all others only this is known: that their vocabularies
#: are as large, so that the newer one is the better guess.
_CL100K = re.compile(r"gpt-4(?![o.\d])|gpt-3\.?5|text-embedding-|davinci-002|babbage-002")

#: A text is counted in pieces of so many characters: the tokenizer holds the interpreter's lock, so that elsewhere
#: than in pieces (4 ms each at most) a worker thread would stop the event loop all the same. Costs a token per cut.
_PIECE_CHARS = 65_536


class Tokenizer(Protocol):
    """Counts tokens. `name` goes into the event as its estimator."""

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int: ...


class Vocabulary(Protocol):
    """What is used of the optional package: one of its compiled tokenizers."""

    def count(self, text: str) -> int: ...


class ByBytes:
    """Four bytes to a token, rounded up: OpenAI's rule of thumb for English ("about 4 characters"), in bytes so that
    other scripts, which take more tokens, are not far under."""

    name = "bytes/4"

    def count(self, text: str) -> int:
        return (bytes_of(text) + 3) // 4


BY_BYTES = ByBytes()


class ByVocabulary:
    """Byte pairs, as the model itself counts them. A text that spells a special token is counted as text."""

    def __init__(self, name: str, vocabulary: Vocabulary) -> None:
        self.name = name
        self._vocabulary = vocabulary

    def count(self, text: str) -> int:
        if len(text) > _PIECE_CHARS:
            return sum(self.count(text[at : at + _PIECE_CHARS]) for at in range(0, len(text), _PIECE_CHARS))
        try:
            return self._vocabulary.count(text)
        except UnicodeEncodeError:  # half an emoji, as a lone surrogate
            return self._vocabulary.count(text.encode(errors="replace").decode())


def tokenizer_for(model: str) -> Tokenizer:
    """The tokenizer for a model's name, as it stands in a request or in an answer.

    The first call for a vocabulary loads it, once for the process (measured: o200k_base 0.07 s and 67 MiB of memory,
    half of it file pages that the system may take back; cl100k_base 0.02 s and 30 MiB more). So call it where an
    estimate is due and not before; and off the event loop if 0.07 s matter there. Safe in threads.
    """
    return _named("cl100k_base" if _CL100K.match(_bare(model)) else "o200k_base")


def _bare(model: str) -> str:
    """`openai/gpt-4o` (routers), `ft:gpt-4:org::id` (fine-tuned) and `GPT-4` without what stands around the name."""
    return model.lower().rpartition("/")[2].removeprefix("ft:")


def bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


@cache
def _named(name: str) -> Tokenizer:
    # Two threads may both come here at first: loading again gives what is loaded already.
    vocabulary = load(name)
    return BY_BYTES if vocabulary is None else ByVocabulary(name, vocabulary)


def load(name: str) -> Vocabulary | None:
    """A vocabulary of the optional package, or None where that is not installed, or not for this machine.

    Only its compiled part is loaded, by its file: to import the package would read all of its vocabularies into
    dictionaries that nobody asks for (measured: 0.4 s and 68 MiB more).
    """
    package = importlib.util.find_spec(_PACKAGE)
    where = None if package is None else package.submodule_search_locations
    spec = None if where is None else importlib.machinery.PathFinder.find_spec(_COMPILED, where)
    if spec is None or spec.loader is None:
        return None
    try:
        compiled = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compiled)
        found: Vocabulary = compiled.tokenizer_for_encoding(name)
    except (ImportError, AttributeError, ValueError):  # built for another machine, or another version than we know
        return None
    return found
