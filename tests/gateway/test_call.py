from __future__ import annotations

from proxy.gateway.call import Arrival


def test_ids_are_unique_sort_by_time_and_hold_no_dash() -> None:
    arrivals = [Arrival() for _ in range(1_000)]
    ids = [one.id for one in arrivals]
    assert len(set(ids)) == len(ids)
    assert [one[:16] for one in ids] == sorted(one[:16] for one in ids)
    # A receiver joins source and id with a dash when it looks for repeats (OpenMeter).
    assert not [one for one in ids if "-" in one]
