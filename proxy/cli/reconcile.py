"""`tollgate reconcile`: whether the metering engine has what the ledger says it took."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import typer

from proxy.billing.comparison import Terms
from proxy.billing.openmeter import OpenMeter
from proxy.billing.reconcile import Reconciliation
from proxy.billing.repair import Repair
from proxy.cli.findings import Findings, print_json_report, print_report, report_of
from proxy.cli.instants import iso, now_ms, parse_instant, parse_span
from proxy.cli.opening import open_store
from proxy.cli.output import Json
from proxy.delivery.sinks import Sink, sink_for
from proxy.errors import ConfigurationError
from proxy.store import audit
from proxy.store.audit import Recorded

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_SPOOL_BYTES = 1024 * 1024
_SHOWN_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The store as the reconciliation sees it (`proxy.billing.reconcile.Ledger`)."""

    connection: sqlite3.Connection

    def between(self, from_ms: int, to_ms: int) -> Iterable[Recorded]:
        return audit.between(self.connection, from_ms, to_ms)

    def recorded(self, request_id: str) -> Recorded | None:
        return audit.recorded(self.connection, request_id)


def reconcile(
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="WHEN", help="A date or an RFC 3339 instant. Default: a day ago, at the full hour."
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="WHEN", help="Until then, exclusively. Default: now.")
    ] = None,
    settle_for: Annotated[
        str,
        typer.Option(metavar="SPAN", help="What was delivered within this span may not be visible yet: not missing."),
    ] = "5m",
    repair: Annotated[bool, typer.Option("--repair", help="Send again what is proven to be absent.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=_SHOWN_MAX, help="How many of each kind to show.")] = 10,
    as_json: Json = False,
) -> None:
    """Compare the ledger with what OpenMeter or Konnect has stored, and with the sums of its meters.

    The exit code is 0 where all is there, 1 where something differs or could not be asked.
    """
    from_s, to_s, visible_ms = _period(begin, end, settle_for, now_ms())
    settings, database = open_store()
    if settings.sink.konnect_api_url is None:
        raise ConfigurationError(
            "reconcile reads events back from OpenMeter or Konnect: set sink.konnect_api_url (KONNECT_API_URL)"
        )
    terms = Terms(settings.sink.source, settings.sink.profile, visible_ms)
    sink = sink_for(settings.sink)
    assert sink is not None
    mended = Repair(database, sink, visible_ms=visible_ms, now_ms=now_ms) if repair else None
    token = settings.sink.konnect_token
    engine = OpenMeter(settings.sink.konnect_api_url, token="" if token is None else token.get_secret_value())
    with (
        closing(database.connect(read_only=True)) as connection,
        tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool,
    ):
        run = Reconciliation(_Ledger(connection), engine, terms, from_s, to_s, repair=mended)
        findings = Findings(limit, spool if as_json else None)
        asyncio.run(_walk(run, findings, (engine, sink)))
        report = {"from": iso(from_s * 1000), "to": iso(to_s * 1000), "engine": engine.url}
        report |= report_of(run, mended, terms, awaited=audit.awaited(connection))
        if as_json:
            print_json_report(report, spool)
        else:
            print_report(report, run, mended, findings)
    if run.tally.findings or findings.difference_count:
        raise typer.Exit(1)


async def _walk(run: Reconciliation, findings: Findings, opened: Iterable[OpenMeter | Sink]) -> None:
    try:
        async for one in run.findings():
            findings.add(one, run.tally)
    finally:
        for connection in opened:
            await connection.close()


def _period(begin: str | None, end: str | None, settle_for: str, now_ms: int) -> tuple[int, int, int]:
    """From and to in unix seconds, and until when what was delivered is visible (ms). Raises `typer.BadParameter`."""
    from_ms = (now_ms - _DAY_MS) // _HOUR_MS * _HOUR_MS if begin is None else _parsed(parse_instant, begin, "--from")
    to_ms = now_ms if end is None else _parsed(parse_instant, end, "--to")
    from_s, to_s = from_ms // 1000, -(-to_ms // 1000)  # the engine keeps whole seconds
    if from_s >= to_s:
        raise typer.BadParameter(f"{iso(from_ms)} is not before {iso(to_ms)}", param_hint="--from")
    return from_s, to_s, now_ms - _parsed(parse_span, settle_for, "--settle-for")


def _parsed(parse: Callable[[str], int], words: str, option: str) -> int:
    try:
        return parse(words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
