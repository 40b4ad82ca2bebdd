"""How a reconciliation is told: in tables with the first of each kind, or in JSON with all."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, Any

import orjson
import typer

from proxy.billing.comparison import Finding, Kind, Tally, Terms, remedy
from proxy.billing.meters import Difference
from proxy.billing.reconcile import Reconciliation
from proxy.billing.repair import Repair
from proxy.cli.instants import iso, iso_short
from proxy.cli.output import complain, printable
from proxy.cli.tables import print_facts, print_table
from proxy.model import EventState


@dataclass(slots=True)
class Findings:
    """What was found: the first `shown_max` of each kind to show; and all of it in `spool`, one JSON object a line,
    where there is one. There may be a million.
    """

    shown_max: int
    spool: IO[bytes] | None = None
    shown: list[Finding] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    difference_count: int = 0

    def add(self, one: Finding | Difference, tally: Tally) -> None:
        """`tally` has counted the finding already."""
        if isinstance(one, Difference):
            self.difference_count += 1
            if self.difference_count <= self.shown_max:
                self.differences.append(one)
        elif tally.findings[one.kind] <= self.shown_max:
            self.shown.append(one)
        if self.spool is not None:
            self.spool.write(orjson.dumps(_json_of(one)) + b"\n")


def report_of(run: Reconciliation, mended: Repair | None, terms: Terms, *, awaited: int) -> dict[str, Any]:
    """The counts. `awaited` are background responses that have no event yet."""
    tally, rate = run.tally, run.tally.capture_rate
    return {
        "source": terms.source,
        "profile": terms.profile,
        "requests": tally.requests,
        "awaited": awaited,
        "events": {
            state.value: {"recorded": tally.recorded[state], "found": tally.found[state]} for state in EventState
        },
        "too_recent": tally.too_recent,
        "due": tally.due,
        "capture_rate": None if rate is None else str(rate),
        "counts": {kind.value: tally.findings[kind] for kind in Kind},
        "unproven": run.unproven,
        "complaints": [
            {"words": words, "events": count, "remedy": remedy(words, terms.profile)}
            for words, count in tally.complaints.most_common()
        ],
        "meters": [meter.key for meter in run.meters],
        "hours": {"compared": run.hours_compared, "open": run.hours_open},
        "repair": None
        if mended is None
        else {"requests": mended.requests, "parts": mended.parts, "stale": mended.stale},
    }


def print_json_report(report: dict[str, Any], spool: IO[bytes]) -> None:
    """The report, with everything that was found under `findings`, one a line."""
    spool.seek(0)
    typer.echo(orjson.dumps(report)[:-1] + b',"findings":[', nl=False)
    separator = b"\n"
    for line in spool:
        typer.echo(separator + line.rstrip(b"\n"), nl=False)
        separator = b",\n"
    typer.echo(b"\n]}")


def print_report(report: dict[str, Any], run: Reconciliation, mended: Repair | None, findings: Findings) -> None:
    tally = run.tally
    typer.echo(f"{report['engine']} from {report['from']} until {report['to']}, source {printable(report['source'])}\n")
    print_table(
        ("events", "in the ledger", "in the engine"),
        [(state.value, tally.recorded[state], tally.found[state]) for state in EventState],
    )
    rate = tally.capture_rate
    captured = "nothing is due" if rate is None else f"{rate} %, {tally.found[EventState.ACCEPTED]:,} of {tally.due:,}"
    typer.echo()
    print_facts(
        [
            ("capture rate", captured),
            ("too recent to be visible", tally.too_recent),
            ("background responses without an event yet", report["awaited"]),
            *((kind.value, tally.findings[kind]) for kind in Kind),
            ("sums that differ", _sums(run, findings)),
        ]
    )
    _print_findings(tally, findings)
    for complaint in report["complaints"][: findings.shown_max]:
        typer.echo(f"\n{complaint['events']:,} × {printable(complaint['words'])}\n  {complaint['remedy']}".rstrip())
    _print_differences(findings)
    _print_repair(run, mended)


def _print_findings(tally: Tally, findings: Findings) -> None:
    # What is refused is told by what is said against it, which is the same for many.
    listed = [one for one in findings.shown if one.kind is not Kind.REFUSED]
    if not listed:
        return
    typer.echo()
    print_table(
        ("finding", "time", "tenant", "event", "what"),
        [
            (one.kind.value, iso_short(one.time_ms), one.subject, one.id, one.words)
            for kind in Kind
            for one in listed
            if one.kind is kind
        ],
    )
    more = tally.findings.total() - tally.findings[Kind.REFUSED] - len(listed)
    if more:
        typer.echo(f"and {more:,} more, which --json lists")


def _print_differences(findings: Findings) -> None:
    if findings.differences:
        typer.echo()
        print_table(
            ("meter", "hour", "tenant", "model", "ledger", "engine"),
            [
                (one.meter, iso_short(one.hour_s * 1000), one.subject, one.model, _cell(one.ledger), _cell(one.engine))
                for one in findings.differences
            ],
        )


def _print_repair(run: Reconciliation, mended: Repair | None) -> None:
    if mended is None:
        if run.tally.findings[Kind.MISSING]:
            typer.echo("\ntollgate reconcile --repair sends again what is missing.")
    else:
        typer.echo(f"\n{mended.requests:,} requests wait to be delivered again.")
        if mended.parts:
            typer.echo(f"{mended.parts:,} events of requests whose other events are there were sent just now.")
        if mended.stale:
            typer.echo(
                f"{mended.stale:,} of these events are older than an hour: where their billing period has ended,"
            )
            typer.echo("its invoice may have been made without them.")
    if run.unproven:
        complain(
            f"{run.unproven} missing events are not proven to be: nothing that was delivered after them is there, so"
            " that the engine may only be behind; --repair leaves them"
        )


def _sums(run: Reconciliation, findings: Findings) -> str:
    if not run.meters:
        return "no meter sums or counts such events"
    hours = f"{run.hours_compared:,} hours compared, {run.hours_open:,} still open"
    return f"{findings.difference_count:,} ({', '.join(meter.key for meter in run.meters)}; {hours})"


def _cell(number: Decimal) -> str | int:
    return int(number) if number == number.to_integral_value() else f"{number:f}"


def _json_of(one: Finding | Difference) -> dict[str, Any]:
    if isinstance(one, Difference):
        return {
            "kind": "sum",
            "meter": one.meter,
            "hour": iso(one.hour_s * 1000),
            "subject": one.subject,
            "model": one.model,
            "ledger": f"{one.ledger:f}",
            "engine": f"{one.engine:f}",
        }
    return {
        "kind": one.kind.value,
        "id": one.id,
        "subject": one.subject,
        "type": one.type,
        "time": iso(one.time_ms),
        "words": one.words,
    }
