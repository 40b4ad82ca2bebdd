"""The values that cross stages."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from hypothesis import given

from proxy import model
from proxy.model import BUCKETS, NO_USAGE, SUBJECT_PATTERN, Usage
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
        assert one.__dataclass_params__.frozen, one.__name__  # type: ignore[attr-defined] # not in the stubs
        assert "__slots__" in vars(one), one.__name__


@pytest.mark.parametrize("subject", ["a", "user-001", "me@example.org", "org:team.1_x", "x" * 128])
def test_a_subject_may_be(subject: str) -> None:
    assert SUBJECT_PATTERN.fullmatch(subject)


@pytest.mark.parametrize("subject", ["", "-a", "@a", "a b", "a/b", "a\n", "é", "x" * 129])
def test_a_subject_may_not_be(subject: str) -> None:
    assert not SUBJECT_PATTERN.fullmatch(subject)
