from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.models import family


@pytest.mark.parametrize(
    ("model", "alias"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("gpt-3.5-turbo-0125", "gpt-3.5-turbo"),
        ("gpt-3.5-turbo-16k-0613", "gpt-3.5-turbo-16k"),
        ("gpt-4-0613", "gpt-4"),
        ("o1-2024-12-17", "o1"),
        # A context length, and a size: no dates.
        ("llama3-8b-8192", "llama3-8b-8192"),
        ("gemma-2-9b-1024", "gemma-2-9b-1024"),
        ("org/model-2099-13-01", "org/model-2099-13-01"),
        ("", ""),
    ],
)
def test_a_date_is_cut_off_and_nothing_else(model: str, alias: str) -> None:
    assert family(model) == alias


@given(st.text())
def test_a_family_is_its_own_family(model: str) -> None:
    assert model.startswith(family(model))
