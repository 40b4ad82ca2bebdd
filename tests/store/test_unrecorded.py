from __future__ import annotations

import sqlite3
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store import followups, ledger
from proxy.store.ledger import record
from proxy.store.unrecorded import Unrecorded, Way, line_of, take_in, unrecorded_in
from tests.store.samples import SAMPLE, any_settlement, rollups, settlement, sums_of_events

NOW_MS = SAMPLE.time_ms + 1_000


@given(st.builds(Unrecorded, any_settlement, st.sampled_from(Way), st.sampled_from(["", "env:KEY"])), st.binary())
def test_what_was_written_is_read_again_whatever_stands_before_it(one: Unrecorded, prefix: bytes) -> None:
    assert unrecorded_in(prefix.replace(b"{", b"") + line_of(one).encode() + b"\r\n") == one


@pytest.mark.parametrize("line", [b"", b"INFO all is well", b'{"event": 1}', b'{"tollgate_settlements": []}', b"\xff{"])
def test_other_lines_hold_none(line: bytes) -> None:
    assert unrecorded_in(line) is None


def changed(**values: Any) -> dict[str, Any]:
    document = orjson.loads(line_of(Unrecorded(SAMPLE)))
    document["tollgate_settlement"] |= values
    return document  # type: ignore[no-any-return] # it is a dict


def without(name: str) -> dict[str, Any]:
    document = changed()
    del document["tollgate_settlement"][name]
    return document


USAGE = orjson.loads(orjson.dumps(SAMPLE.usage))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (without("usage"), "usage is missing"),
        (without("id"), "it is no settlement: .*'id'"),
        ({"tollgate_settlement": 3}, "it is no settlement"),
        ({"tollgate_settlement": None}, "it is no settlement"),
        (changed(surprise=1), "it is no settlement: .*surprise"),
        (changed() | {"surprise": 1}, "members that no settlement has"),
        (changed() | {"way": "sideways"}, "sideways"),
        (changed() | {"upstream_key": 3}, "members that no settlement has"),
        (changed(outcome="won"), "'won' is not a valid Outcome"),
        (changed(usage_source=None), "None is not a valid UsageSource"),
        (changed(usage=USAGE | {"text_output": "7"}), "text_output must be of type int"),
        (changed(usage=USAGE | {"text_output": 7.0}), "text_output must be of type int"),
        (changed(usage=USAGE | {"text_output": True}), "text_output must be of type int"),
        (changed(usage=USAGE | {"text_output": -1}), "text_output must be from 0 to"),
        (changed(usage=USAGE | {"text_output": 2**60}), "text_output must be from 0 to"),
        (changed(usage=USAGE | {"tokens": 1}), "it is no settlement: .*tokens"),
        (changed(units=3), "it is no settlement"),
        (changed(streamed=1), "streamed must be of type bool"),
        (changed(model=None), "model must be of type str"),
        (changed(status=99), "status is no HTTP status"),
        (changed(time_ms=2**52), "time_ms is no instant"),
        (changed(id=""), "id must be"),
        (changed(id="a b"), "id must be"),
        (changed(subject="a b"), "subject is no tenant's id"),
        (changed(on_disconnect="wave"), "on_disconnect is neither"),
    ],
)
def test_a_settlement_that_cannot_be_one_is_refused_with_the_reason(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unrecorded_in(orjson.dumps(document))


@pytest.mark.parametrize("cut", [30, 100, -1])
def test_a_line_that_was_cut_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"JSON|unexpected|EOF|column"):
        unrecorded_in(line_of(Unrecorded(SAMPLE)).encode()[:cut])


def test_each_is_taken_in_once_with_its_rollup(connection: sqlite3.Connection) -> None:
    record(connection, [settlement("req_2")])
    followups.add(connection, settlement("req_3", response_id="resp_3"), next_ms=0, until_ms=9)
    told = [take_in(connection, Unrecorded(settlement(f"req_{number}")), NOW_MS) for number in (1, 1, 2, 3)]
    assert told == [True, False, False, False]
    assert rollups(connection) == sums_of_events(connection)
    assert [one.settlement.id for one in ledger.newest(connection, limit=9)] == ["req_1", "req_2"]


def test_a_response_that_was_billed_already_is_not_billed_again(connection: sqlite3.Connection) -> None:
    ledger.record_once(connection, settlement("req_1", response_id="resp_1"))
    repeat = Unrecorded(settlement("req_2", response_id="resp_1"), Way.ONCE)
    assert not take_in(connection, repeat, NOW_MS)
    assert take_in(connection, Unrecorded(settlement("req_3", response_id="resp_1")), NOW_MS)


def test_a_background_response_is_asked_for_from_then_on(connection: sqlite3.Connection) -> None:
    later = settlement("req_1", response_id="resp_1")
    assert take_in(connection, Unrecorded(later, Way.LATER, "env:KEY"), NOW_MS)
    assert not take_in(connection, Unrecorded(later, Way.LATER, "env:KEY"), NOW_MS)
    (pending,) = followups.due(connection, NOW_MS, 9)
    assert (pending.settlement, pending.upstream_key) == (later, "env:KEY")
    assert pending.until_ms > NOW_MS
    assert ledger.newest(connection, limit=9) == []
