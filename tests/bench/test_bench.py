from __future__ import annotations

import os
from pathlib import Path

import orjson

from tests.bench import report
from tests.bench.__main__ import run


def test_a_short_run_has_all_its_figures_and_one_event_for_each_answer(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    try:
        found = run(tmp_path, ["tollgate"], rounds=1, seconds=0.2, holds=False)
    finally:
        os.sched_setaffinity(0, cores)
    system, figures = found["tollgate"]
    assert system.answers > 64 + 1 + 200
    assert figures.streamed[0].events == 200 * 103  # with the stop, the usage and [DONE]
    told = orjson.loads(report.as_json(found, (1.0, 2.0), rounds=1, seconds=0.2))["systems"]["tollgate"]["figures"]
    assert all(told[row.name] is not None for row in report.ROWS)
