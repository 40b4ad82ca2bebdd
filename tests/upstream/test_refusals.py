from __future__ import annotations

import pytest

from proxy.upstream.refusals import LIFETIME_S, Refusals, is_refusal


def test_a_refusal_holds_for_its_model_and_for_a_while() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    refusals.note("m")
    assert refusals.holds("m")
    assert not refusals.holds("other")
    now = LIFETIME_S
    assert not refusals.holds("m")


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    refusals = Refusals(lambda: 0.0)
    for number in range(1_001):
        refusals.note(f"m{number}")
    assert not refusals.holds("m0")
    assert refusals.holds("m1000")


@pytest.mark.parametrize(
    ("status", "body", "refuses"),
    [
        (400, b'{"error":{"message":"Unknown parameter: stream_options"}}', True),
        (422, b'{"detail":[{"loc":["body","stream_options"],"msg":"extra fields not permitted"}]}', True),
        (400, b'{"error":{"message":"include_usage is not supported"}}', True),
        (400, b'{"error":{"message":"messages is required"}}', False),
        (500, b"stream_options", False),
        (401, b"stream_options", False),
    ],
)
def test_only_a_400_or_422_that_names_the_option_is_one(status: int, body: bytes, refuses: bool) -> None:
    assert is_refusal(status, body) is refuses
