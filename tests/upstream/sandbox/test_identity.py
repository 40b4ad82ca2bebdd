from __future__ import annotations

import time

from proxy.upstream.sandbox.identity import new_id, now_s


def test_no_two_ids_are_alike() -> None:
    ids = {new_id("chatcmpl-") for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(one.startswith("chatcmpl-") for one in ids)


def test_the_time_is_unix_time_in_seconds() -> None:
    assert abs(now_s() - time.time()) < 5
