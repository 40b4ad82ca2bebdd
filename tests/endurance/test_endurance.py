"""The long runs in short: what `make outage` and `make soak` look for, on a load that CI can bear."""

from __future__ import annotations

from pathlib import Path

from tests.endurance.backlog import backlog
from tests.endurance.outage import outage
from tests.endurance.soak import soak

#: In a few seconds a process has not found its size yet; the long runs hold it to 5 %.
_GROWTH_MAX = 0.25


async def test_a_sink_that_is_down_under_full_load_loses_nothing(tmp_path: Path) -> None:
    report = await outage(tmp_path, events=2_000)
    print(report)
    assert report.faults() == []


async def test_a_backlog_drains_while_requests_are_served(tmp_path: Path) -> None:
    report = await backlog(tmp_path, events=20_000)
    print(report)
    assert report.faults() == []


async def test_a_load_of_every_kind_leaves_nothing_over(tmp_path: Path) -> None:
    report = await soak(tmp_path, seconds=4, capacity_s=1, burst=50)
    print(report)
    assert report.faults(growth_max=_GROWTH_MAX) == []
