"""The values that cross stages."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest
from hypothesis import given

from proxy import model
from proxy.model import BUCKETS, NO_USAGE, SUBJECT_PATTERN, Cost, Settlement, Units, Usage
from proxy.store import queries
from tests.store.samples import usages


@given(usages)
def test_the_buckets_are_disjoint_and_sum_to_the_totals(usage: Usage) -> None:
    buckets = dataclasses.astuple(usage)
    assert usage.total_tokens == sum(buckets)
    assert usage.prompt_tokens == sum(buckets[:4])
    assert usage.completion_tokens == sum(buckets[4:])


def test_no_usage_is_none_at_all() -> None:
    assert (NO_USAGE.prompt_tokens, NO_USAGE.completion_tokens, NO_USAGE.total_tokens) == (0, 0, 0)


def test_the_buckets_are_the_fields_in_the_order_of_the_columns() -> None:
    assert tuple(field.name for field in dataclasses.fields(Usage)) == BUCKETS
    for sql in (queries.INSERT_EVENT, queries.ADD_TO_ROLLUP, queries.PENDING_EVENTS, queries.EVENT):
        assert ", ".join(BUCKETS) in sql
    assert ", ".join(f"sum({name})" for name in BUCKETS) in queries.USAGE[()]


def test_every_value_is_frozen_and_slotted() -> None:
    classes = [value for _, value in inspect.getmembers(model, dataclasses.is_dataclass) if isinstance(value, type)]
    assert len(classes) >= 5
    for one in classes:
        is_frozen = one.__dataclass_params__.frozen  # type: ignore[attr-defined] # not in the stubs
        assert is_frozen or one in (Usage, Units, Cost, Settlement), f"{one.__name__}, which is not made all the time"
        assert "__slots__" in vars(one), one.__name__


def test_what_is_made_all_the_time_is_frozen_to_the_type_checker() -> None:
    # In a process of its own: mypy raises the limit of recursion, which other tests look at.
    code = "from proxy.model import Usage\nusage = Usage(1)\nusage.reasoning = 5\n"
    command = [sys.executable, "-m", "mypy", "--config-file=", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'Property "reasoning" defined in "Usage" is read-only' in done.stdout


def test_it_is_compared_and_counted_by_what_it_says() -> None:
    assert Usage(1, reasoning=2) == Usage(1, reasoning=2) != Usage(1)
    assert len({Usage(1), Usage(1), Usage(2)}) == 2


@pytest.mark.parametrize("subject", ["a", "user-001", "me@example.org", "org:team.1_x", "x" * 128])
def test_a_subject_may_be(subject: str) -> None:
    assert SUBJECT_PATTERN.fullmatch(subject)


@pytest.mark.parametrize("subject", ["", "-a", "@a", "a b", "a/b", "a\n", "é", "x" * 129])
def test_a_subject_may_not_be(subject: str) -> None:
    assert not SUBJECT_PATTERN.fullmatch(subject)
