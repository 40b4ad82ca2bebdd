from __future__ import annotations

import pytest
import typer

from proxy.cli.wanted import wanted_of
from proxy.store.ledger import EVERY, Wanted


def test_what_is_not_said_filters_nothing() -> None:
    assert wanted_of("", None, None, None) == EVERY


def test_instants_are_read_as_usage_reads_them() -> None:
    found = wanted_of("400", "2026-04-13", "2026-04-13T10:30:00.123+02:00", "acme")
    assert found == Wanted("acme", "400", 1_776_038_400_000, 1_776_069_000_123)


@pytest.mark.parametrize(("begin", "end"), [("2026-04-13", "2026-04-13"), ("soon", None), (None, "13.4.2026")])
def test_a_time_that_is_none_is_a_usage_error(begin: str | None, end: str | None) -> None:
    with pytest.raises(typer.BadParameter):
        wanted_of("", begin, end, None)
