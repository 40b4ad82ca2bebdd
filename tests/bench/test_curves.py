from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.bench.curves import CURVES, Effort, Sample, lines_of, run


def test_each_curve_has_its_points(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    try:
        found = run(tmp_path, list(CURVES), Effort(rounds=1, seconds=0.05, points=1))
    finally:
        os.sched_setaffinity(0, cores)
    both = ["tollgate", "nginx"] if shutil.which("nginx") else ["tollgate"]
    assert {name: [*lines] for name, lines in found.items()} == {
        "in_flight": both,
        "body_size": both,
        "stream_length": ["tollgate"],
        "tenants": ["tollgate"],
        "ledger_size": ["a request", "GET /api/usage"],
        "backlog": ["tollgate"],
        "workers": ["tollgate"],
    }
    for lines in found.values():
        for points in lines.values():
            assert len(points) == 1
            assert all(value > 0 for point in points for figure, value in point.items() if figure == "cpu_us")
    assert not [*tmp_path.iterdir()], "large files are gone at the end"


def test_a_point_is_the_median_of_its_rounds() -> None:
    samples = [Sample("a", x, {"cpu_us": float(x * value)}) for value in (5, 1, 2) for x in (10, 1)]
    assert lines_of(samples) == {"a": [{"x": 10, "cpu_us": 20.0}, {"x": 1, "cpu_us": 2.0}]}
