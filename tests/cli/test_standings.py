from __future__ import annotations

import pytest

from proxy.admin.limits import Limit, Standing
from proxy.cli.standings import print_standings, told

COUNTED = {"limit": "requests/day", "unit": "requests", "model": None, "kind": None, "value": 1_000, "origin": "tenant"}


def test_a_limit_is_told_in_a_few_words() -> None:
    assert told(Limit.model_validate(COUNTED | {"window": "day", "soft": False})) == "requests/day 1,000"
    assert told(Limit.model_validate(COUNTED | {"window": "day", "soft": True})) == "requests/day 1,000 (soft)"


@pytest.mark.parametrize(
    ("window", "used", "renews_at", "words"),
    [
        ("day", 3, "2026-11-26T00:00:00.000Z", ["1,000", "3", "997", "2026-11-26T00:00:00Z", "tenant", "hard"]),
        ("minute", 3, None, ["1,000", "3", "997", "slides", "tenant", "hard"]),
        ("total", 3, None, ["1,000", "3", "997", "never", "tenant", "hard"]),
        (None, None, None, ["1,000", "tenant", "hard"]),
    ],
)
def test_a_standing_is_told_with_when_it_renews(
    capsys: pytest.CaptureFixture[str], window: str | None, used: int | None, renews_at: str | None, words: list[str]
) -> None:
    standing = {"used": used, "remaining": None if used is None else 1_000 - used, "renews_at": renews_at}
    one = Standing.model_validate(COUNTED | standing | {"window": window, "soft": False})
    print_standings([one], empty="")
    assert capsys.readouterr().out.splitlines()[-1].split()[1:] == words


def test_no_limits_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_standings([], empty="It has none.")
    assert capsys.readouterr().out == "It has none.\n"
