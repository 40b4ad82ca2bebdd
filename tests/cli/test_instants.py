from __future__ import annotations

import time

from proxy.cli.instants import now_ms, short


def test_instants_of_json_stand_in_tables_without_their_milliseconds() -> None:
    assert short("2026-04-13T10:30:00.123Z") == "2026-04-13T10:30:00Z"
    assert short(None) == ""


def test_now_is_in_unix_milliseconds() -> None:
    assert abs(now_ms() - time.time() * 1_000) < 5_000
