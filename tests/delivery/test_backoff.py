"""Waits double, are spread, obey the receiver, and begin anew."""

from __future__ import annotations

from proxy.delivery.backoff import Backoff


def longest() -> float:
    return 1.0


def test_the_wait_doubles_from_half_a_second_up_to_the_ceiling() -> None:
    backoff = Backoff(60, longest)
    assert [backoff.next_s() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_the_wait_is_spread_over_the_whole_range() -> None:
    numbers = iter([0.0, 0.5, 0.25])
    backoff = Backoff(60, lambda: next(numbers))
    assert [backoff.next_s() for _ in range(3)] == [0.0, 0.5, 0.5]


def test_a_retry_after_is_the_least_and_does_not_shorten() -> None:
    backoff = Backoff(60, longest)
    assert backoff.next_s(retry_after_s=7) == 7
    assert backoff.next_s(retry_after_s=0) == 1
    assert backoff.next_s(retry_after_s=600) == 600, "the receiver may ask for more than our own ceiling"


def test_a_success_begins_anew() -> None:
    backoff = Backoff(60, longest)
    for _ in range(5):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_a_ceiling_below_the_first_wait_holds() -> None:
    assert Backoff(0.1, longest).next_s() == 0.1


def test_a_sink_that_is_down_for_years_overflows_nothing() -> None:
    backoff = Backoff(60, longest)
    for _ in range(5_000):
        assert backoff.next_s() <= 60
