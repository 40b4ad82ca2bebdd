"""The traces of what is in flight: files of this process, and files of the dead."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ConfigurationError
from proxy.model import NO_USAGE, Outcome, Settlement, Usage, UsageSource
from proxy.store.holds import Holds
from tests.running import WAIT_S
from tests.store.samples import TIME_MS, settlement, settlements

SEEN_MS = TIME_MS + 5_000
KNOWN: dict[str, Any] = {
    "outcome": Outcome.INTERRUPTED,
    "usage_source": UsageSource.ESTIMATED,
    "usage": Usage(uncached_input=40),
}


def known(event_id: str, **changes: Any) -> Settlement:
    return settlement(event_id, **{**KNOWN, **changes})


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "tollgate.db"


@pytest.fixture
def holds(ledger: Path) -> Iterator[Holds]:
    made = Holds(ledger)
    made.open(TIME_MS)
    yield made
    made.close()


def found(ledger: Path) -> list[Settlement]:
    """What the next process finds of those that are no more; the files are let go of unsettled."""
    settlements = []
    for orphan in Holds(ledger).orphans():
        settlements += orphan.settlements()
        orphan.close(settled=False)
    return settlements


def files(ledger: Path) -> list[Path]:
    return sorted(ledger.parent.glob("tollgate.db-holds-*"))


def test_what_a_process_leaves_is_found_and_what_it_released_is_not(ledger: Path, holds: Holds) -> None:
    slots = [holds.take(one) for one in (known("req_1"), known("req_2"), known("req_3"))]
    for slot in slots:
        holds.progress(slot, 0)
    holds.seen(SEEN_MS)
    holds.release(slots[1])
    assert not found(ledger), "its process lives"
    holds.close()
    assert [one.id for one in found(ledger)] == ["req_1", "req_3"]
    assert found(ledger)[0] == known("req_1", duration_ms=5_000)


def test_a_request_that_was_not_sent_has_used_nothing(ledger: Path, holds: Holds) -> None:
    holds.take(known("req_1", estimator="bytes/4"))
    holds.close()
    (only,) = found(ledger)
    assert (only.usage, only.usage_source, only.estimator) == (NO_USAGE, UsageSource.NONE, "")


def test_what_was_delivered_is_counted(ledger: Path, holds: Holds) -> None:
    slot = holds.take(known("req_1"))
    holds.progress(slot, 9)
    holds.progress(slot, 2**40)
    holds.progress(slot, 10)
    holds.close()
    (only,) = found(ledger)
    assert only.usage == Usage(uncached_input=40, text_output=3)


def test_a_settled_file_goes_away_and_so_does_an_empty_one(ledger: Path, holds: Holds) -> None:
    holds.take(known("req_1"))
    holds.close()
    (orphan,) = Holds(ledger).orphans()
    assert not [*Holds(ledger).orphans()], "somebody is at it"
    orphan.close(settled=True)
    assert not files(ledger)
    holds.open(TIME_MS)
    holds.release(holds.take(known("req_2")))
    holds.close()
    assert not files(ledger)


def test_it_grows_with_what_is_in_flight(ledger: Path, holds: Holds) -> None:
    flying = [known(one.id) for one in settlements(3_000)]
    slots = [holds.take(one) for one in flying]
    assert len(set(slots)) == 3_000
    assert len(files(ledger)) == 1
    for slot in slots[::2]:
        holds.release(slot)
    holds.close()
    assert {one.id for one in found(ledger)} == {one.id for one in flying[1::2]}


def test_slots_are_used_again(ledger: Path, holds: Holds) -> None:
    for one in settlements(10_000):
        holds.release(holds.take(one))
    (file,) = files(ledger)
    assert file.stat().st_size <= 512 * 1024


def test_long_names_are_cut_to_fit(ledger: Path, holds: Holds) -> None:
    name = "mødel-🙂" * 500
    holds.progress(holds.take(known("req_1", requested_model=name, model=name, subject="s" * 128)), 0)
    holds.close()
    (only,) = found(ledger)
    assert (only.subject, only.requested_model) == ("s" * 128, "m?del-?" * 4 + "m?de")


def test_a_deleted_file_is_made_again_with_all_that_it_held(ledger: Path, holds: Holds) -> None:
    holds.progress(holds.take(known("req_1")), 0)
    (file,) = files(ledger)
    file.unlink()
    holds.seen(SEEN_MS)
    assert files(ledger) != [file]
    holds.close()
    assert [one.id for one in found(ledger)] == ["req_1"]


def test_it_is_nobody_elses_to_read(ledger: Path, holds: Holds) -> None:
    (file,) = files(ledger)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_place_where_nothing_can_be_written_fails_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^database_url: .*No such file"):
        Holds(tmp_path / "missing" / "tollgate.db").open(TIME_MS)


@pytest.mark.parametrize("size", [0, 1, 15, 1024, 1030, 3000])
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(ledger: Path, holds: Holds, size: int) -> None:
    for one in settlements(5):
        holds.progress(holds.take(one), 0)
    holds.close()
    (file,) = files(ledger)
    os.truncate(file, size)
    assert len(found(ledger)) <= 1


def test_a_torn_slot_is_no_trace(ledger: Path, holds: Holds) -> None:
    for one in settlements(3):
        holds.progress(holds.take(replace(one, **KNOWN)), 0)
    holds.close()
    (file,) = files(ledger)
    content = bytearray(file.read_bytes())
    at = content.index(b"req_000001")
    content[at + 9] = ord("7")
    file.write_bytes(content)
    assert {one.id for one in found(ledger)} == {"req_000000", "req_000002"}


def test_a_file_that_is_something_else_is_left_alone(ledger: Path) -> None:
    stranger = ledger.with_name("tollgate.db-holds-old")
    stranger.write_bytes(b"x" * 5_000)
    assert not [*Holds(ledger).orphans()]


_KILLED = """
import os, pathlib, signal, sys
from proxy.store.holds import Holds
from tests.store.test_holds import TIME_MS, known
holds = Holds(pathlib.Path(sys.argv[1]))
holds.open(TIME_MS)
for number in range(5):
    holds.progress(holds.take(known(f"req_{number}")), 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trace_survives_its_process(ledger: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(ledger)], timeout=WAIT_S)
    assert killed.returncode == -signal.SIGKILL
    assert [one.id for one in found(ledger)] == [f"req_{number}" for number in range(5)]
