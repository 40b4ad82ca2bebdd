from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.model import Cost, CostState
from proxy.store import followups
from proxy.store.unrecorded import Unrecorded, Way, line_of
from tests.cli.conftest import Command, settlement
from tests.store.samples import rollups, sums_of_events

ALSO_ON_A_SERVER = True


def line(event_id: str, way: Way = Way.PLAIN) -> str:
    return line_of(Unrecorded(settlement(event_id, response_id=f"resp_{event_id}"), way))


LOG = f"""2026-04-13 10:30:00 INFO proxy: Tollgate listens
2026-04-13 10:30:01 ERROR proxy.gateway.settle: the ledger refused event req_1, which follows as a JSON line: full
{line("req_1")}
2026-04-13T10:30:01.5Z stderr F {line("req_2")}
{{"tollgate": "elsewhere"}}
{line("req_1")}
"""


def ids(tollgate: Command) -> list[str]:
    return sorted(event["id"] for event in tollgate.json("events", "list"))


@pytest.mark.parametrize("by_name", [True, False])
def test_settlements_are_taken_out_of_a_log_once(tollgate: Command, tmp_path: Path, by_name: bool) -> None:
    (tmp_path / "server.log").write_text(LOG)
    words, stdin = (("server.log",), None) if by_name else (("-",), LOG)
    assert tollgate.json("events", "import", *words, stdin=stdin) == {"imported": 2, "known": 1, "bad": 0}
    assert tollgate.json("events", "import", *words, stdin=stdin) == {"imported": 0, "known": 3, "bad": 0}
    assert ids(tollgate) == ["req_1", "req_2"]
    assert tollgate.json("usage", "--from", "2026-04-01", "--to", "2026-05-01")["totals"]["total_tokens"] == 2 * 247


def test_what_was_imported_is_delivered_as_any_other(tollgate: Command) -> None:
    tollgate.done("events", "import", stdin=LOG)
    shown = tollgate.json("events", "show", "req_1")
    assert (shown["state"], shown["events"][0]["data"]["total_tokens"]) == ("pending", 247)


def test_a_damaged_line_is_told_with_its_number_and_the_others_go_in(tollgate: Command) -> None:
    result = tollgate("events", "import", "--json", stdin=LOG + line("req_3")[:-40] + "\n" + line("req_4") + "\n")
    assert result.exit_code == 1
    assert orjson.loads(result.stdout) == {"imported": 3, "known": 1, "bad": 1}
    assert result.stderr.startswith("tollgate: line 7: ")
    assert ids(tollgate) == ["req_1", "req_2", "req_4"]


def test_a_response_that_was_billed_is_not_billed_again_and_one_that_runs_is_awaited(tollgate: Command) -> None:
    log = "\n".join([line("req_1", Way.ONCE), line("req_1", Way.ONCE), line("req_2", Way.LATER)])
    assert tollgate.json("events", "import", stdin=log) == {"imported": 2, "known": 1, "bad": 0}
    assert ids(tollgate) == ["req_1"]
    with tollgate.database.transaction() as connection:
        assert [one.response_id for one in followups.due(connection, 2**50, 9)] == ["resp_req_2"]


def test_a_log_that_is_not_there_is_a_slip(tollgate: Command) -> None:
    assert "nowhere.log" in tollgate.refused("events", "import", "nowhere.log", code=2)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([line("req_1").encode(), line("req_2").encode()[:-3]])))
def test_no_log_breaks_it_and_totals_stay_the_events(tollgate: Command, lines: list[bytes]) -> None:
    result = tollgate("events", "import", stdin=b"\n".join(lines))
    assert result.exit_code in (0, 1)
    with tollgate.database.transaction() as connection:
        assert rollups(connection) == sums_of_events(connection)


def test_a_long_log_is_taken_in_in_parts(tollgate: Command) -> None:
    log = "".join(line(f"req_{number}") + "\n" for number in range(1_234))
    assert tollgate.json("events", "import", stdin=log)["imported"] == 1_234
    assert tollgate.json("events", "status")["recorded"] == 1_234


def test_what_a_version_wrote_that_knew_of_no_costs_gets_that_of_its_time(tollgate: Command) -> None:
    document = orjson.loads(line("req_1"))
    del document["tollgate_settlement"]["cost"]
    known = line_of(Unrecorded(settlement("req_2", cost=Cost(7, CostState.PRICED))))
    tollgate.done("events", "import", stdin=f"{orjson.dumps(document).decode()}\n{known}\n")
    costs = [tollgate.json("explain", event_id)["cost"] for event_id in ("req_1", "req_2")]
    # gpt-4o-mini: 40 tokens at 0.15, 12 from the cache at 0.075, and 195 at 0.60 dollars for a million.
    assert costs[0] == {"usd": "0.0001239", "state": "priced"}
    assert costs[1] == {"usd": "0.000000000007", "state": "priced"}
