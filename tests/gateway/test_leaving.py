from __future__ import annotations

from proxy.gateway.leaving import Leaving
from proxy.sections import UpstreamSettings


def test_so_many_are_read_on_at_once_and_no_more() -> None:
    leaving = Leaving(UpstreamSettings(drain_answers_max=2))
    assert [leaving.drains(one) for one in ("a", "b", "c", "a")] == [True, True, False, True]
    leaving.draining.discard("b")
    assert leaving.drains("c")
    assert leaving.draining == {"a", "c"}


def test_none_is_read_on_where_that_is_not_wanted() -> None:
    leaving = Leaving(UpstreamSettings(on_disconnect="cancel"))
    assert not leaving.drains("a")
    assert leaving.draining == set()
