from __future__ import annotations

import orjson
import pytest
from hypothesis import given

from proxy.model import Settlement
from proxy.store.written import settlement_of, write
from tests.store.samples import any_settlement, settlement


@given(any_settlement)
def test_what_was_written_is_read_again(one: Settlement) -> None:
    assert settlement_of(orjson.loads(write(one))) == one


def test_half_an_emoji_in_a_name_loses_no_settlement() -> None:
    again = settlement_of(orjson.loads(write(settlement("req_1", model="m\ud83d", upstream="\udc00"))))
    assert again == settlement("req_1", model="m?", upstream="?")


@pytest.mark.parametrize("change", [{"outcome": "won"}, {"usage": {"tokens": 1}}, {"surprise": 1}, {"units": 3}])
def test_what_is_no_settlement_is_refused(change: dict[str, object]) -> None:
    document = orjson.loads(write(settlement("req_1"))) | change
    with pytest.raises((TypeError, ValueError)):
        settlement_of(document)
