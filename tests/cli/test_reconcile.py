"""`tollgate reconcile`, as it is called and as it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.billing.books import Books
from tests.billing.engine import LOST, Engine, Fate, meter, problem
from tests.billing.operating import Operator
from tests.delivery.ledger import NOW_MS, event_of, settlement

PERIOD = ("--from", "2026-04-13T10:00:00Z", "--to", "2026-04-13T12:00:00Z")


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine that lost the third event of five."""
    engine = Engine(lambda event: LOST if event["id"] == "req-0003" else Fate())
    engine.meters = [meter("total", "llm_token_usage", "total_tokens", model="model")]
    with engine.running():
        yield engine
    assert engine.faults == []


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine) -> Operator:
    books = Books(tmp_path)
    ours = [settlement(number) for number in range(1, 6)]
    books.record(ours, delivered_ms=NOW_MS + 9)
    for one in ours:
        event = event_of(one, "tollgate")
        engine.store(event, engine.fate(event))
    return Operator(tmp_path, engine.url, monkeypatch)


def test_the_report_says_what_was_asked_what_was_found_and_what_to_do(operator: Operator, engine: Engine) -> None:
    code, said, complaint = operator(*PERIOD)
    assert (code, complaint) == (1, "")
    assert said.startswith(
        f"{engine.url} from 2026-04-13T10:00:00.000Z until 2026-04-13T12:00:00.000Z, source tollgate"
    )
    lines = [line.split() for line in said.splitlines()]
    assert ["accepted", "5", "4"] in lines
    assert ["capture", "rate", "80.00", "%,", "4", "of", "5"] in lines
    assert ["missing", "1"] in lines
    assert ["missing", "2026-04-13T10:30:00Z", "user-001", "req-0003", "accepted,", "and", "not", "there"] in lines
    assert ["sums", "that", "differ", "1", "(total;", "1", "hours", "compared,", "0", "still", "open)"] in lines
    model = "gpt-4o-mini-2024-07-18"
    assert ["total", "2026-04-13T10:00:00Z", "user-001", model, "1,235", "988"] in lines
    assert said.endswith("tollgate reconcile --repair sends again what is missing.\n")


def test_where_all_is_there_the_exit_code_is_0(operator: Operator, engine: Engine) -> None:
    engine.store(event_of(settlement(3), "tollgate"))
    code, said, _ = operator(*PERIOD)
    assert code == 0
    assert "100.00 %, 5 of 5" in said
    assert "finding" not in said


def test_by_default_it_is_about_the_last_day(operator: Operator) -> None:
    assert operator()[1].count("nothing is due") == 1
    assert operator.report()["requests"] == 0


def test_the_json_has_all_and_can_be_read_as_one_object(operator: Operator) -> None:
    report = operator.report(*PERIOD)
    assert (report["code"], report["requests"], report["capture_rate"]) == (1, 5, "80.00")
    assert report["findings"] == [
        {
            "kind": "missing",
            "id": "req-0003",
            "subject": "user-001",
            "type": "llm_token_usage",
            "time": "2026-04-13T10:30:00.126Z",
            "words": "accepted, and not there",
        },
        {
            "kind": "sum",
            "meter": "total",
            "hour": "2026-04-13T10:00:00.000Z",
            "subject": "user-001",
            "model": "gpt-4o-mini-2024-07-18",
            "ledger": "1235",
            "engine": "988",
        },
    ]
    assert report["repair"] is None


def test_a_repair_is_told(operator: Operator) -> None:
    code, said, _ = operator(*PERIOD, "--repair")
    assert code == 1
    assert "\n1 requests wait to be delivered again.\n" in said
    assert "older than an hour" in said
    code, said, _ = operator(*PERIOD, "--repair")
    assert code == 0
    assert "\n0 requests wait to be delivered again.\n" in said
    assert ["pending", "1", "0"] in [line.split() for line in said.splitlines()]


def test_without_a_meter_or_a_customer_it_says_what_to_make(operator: Operator, engine: Engine) -> None:
    engine.meters, engine.customers = [], set()
    _, said, _ = operator(*PERIOD)
    assert "4 × no meter found for event type: llm_token_usage\n  create a meter for event type llm_token_usage" in said
    assert "4 × no customer found for event subject: user-001\n  create a customer" in said
    assert "no meter sums or counts such events" in said
    assert operator.report(*PERIOD)["counts"]["refused"] == 4


def test_what_may_only_be_on_its_way_is_told_apart(operator: Operator, engine: Engine) -> None:
    engine.rows.clear()
    code, said, complaint = operator(*PERIOD, "--repair")
    assert code == 1
    assert complaint.startswith("tollgate: 5 missing events are not proven to be")
    assert "0 requests wait" in said


def test_of_each_kind_the_first_are_shown(operator: Operator, engine: Engine) -> None:
    engine.rows = [row for row in engine.rows if row.event["id"] == "req-0005"]
    said = operator(*PERIOD, "--limit", "2")[1]
    assert said.count("accepted, and not there") == 2
    assert "and 2 more, which --json lists" in said


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "missing, wrong or expired"),
        (403, "in KONNECT_TOKEN"),
        (404, "check the base URL"),
        (400, "400 Bad Request"),
    ],
)
def test_what_the_engine_refuses_is_one_line_with_what_to_mend(
    operator: Operator, engine: Engine, status: int, words: str
) -> None:
    engine.answers = lambda _: problem(status)
    for options in ((), ("--json",)):
        code, said, complaint = operator(*PERIOD, *options)
        assert (code, said, complaint.count("\n")) == (1, "", 1)
        assert words in complaint


@pytest.mark.parametrize(
    "options",
    [
        ("--from", "2026-04-13", "--to", "2026-04-13"),
        ("--from", "2030-01-01", "--to", "2029-01-01"),
        ("--from", "yesterday"),
        ("--to", "12:00"),
        ("--settle-for", "soon"),
        ("--limit", "0"),
    ],
)
def test_wrong_options_are_a_usage_error(operator: Operator, engine: Engine, options: tuple[str, ...]) -> None:
    code, said, complaint = operator(*options)
    assert (code, said) == (2, "")
    assert options[0] in complaint
    assert engine.asked == []


def test_without_an_engine_that_can_be_asked_it_says_so(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KONNECT_API_URL")
    monkeypatch.setenv("TOLLGATE_SINK__FILE", "events.jsonl")
    code, said, complaint = operator()
    assert (code, said) == (2, "")
    assert "set sink.konnect_api_url (KONNECT_API_URL)" in complaint


def test_the_token_is_the_commands_own_and_never_shown(
    operator: Operator, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONNECT_TOKEN", "kpat_reader")
    said = operator(*PERIOD)[1]
    assert set(engine.tokens) == {"Bearer kpat_reader"}
    assert "kpat_reader" not in said
    engine.answers = lambda _: problem(401, "kpat_reader is not known")
    assert "kpat_reader" not in operator(*PERIOD)[2]
