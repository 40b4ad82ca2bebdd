from __future__ import annotations

import pytest

from tests.cli.conftest import Command

OPTIONS = ("--error", "--from", "--to", "--tenant")


@pytest.mark.parametrize("command", ["list", "replay", "discard"])
def test_each_command_on_events_has_the_same_filters(tollgate: Command, command: str) -> None:
    said = tollgate.done("events", command, "--help")
    assert [option for option in OPTIONS if f"{option} " in said] == [*OPTIONS]
