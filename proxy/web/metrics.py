"""`/metrics`: what this process counts, for Prometheus. A scrape reads integers that others keep, and queries nothing.

The counts are this process's since its start, or those of all workers (`proxy.web.sums`). No tenant, key or model is a
label: whoever may scrape sees totals only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from proxy import __version__
from proxy.declaration.apply import RESULTS as RELOADS
from proxy.declaration.apply import Declared
from proxy.delivery.sinks.counted import RESULTS, CountedSink
from proxy.delivery.watch import Watch
from proxy.errors import LedgerUnavailable, Unauthenticated
from proxy.gateway.admit import Admission
from proxy.gateway.auth import hide
from proxy.gateway.entitlements import Entitlements
from proxy.gateway.handle import Gateway
from proxy.gateway.settle import Settler
from proxy.gateway.tally import Tally
from proxy.model import CostState, Outcome, UsageSource
from proxy.money import PICO
from proxy.store.commit import GroupCommit
from proxy.store.notifications import Counts


class WebhooksCounted(Protocol):
    """What webhooks count (`proxy.webhooks.service.Webhooks`)."""

    @property
    def counts(self) -> Counts: ...

    @property
    def results(self) -> Mapping[str, int]:
        """Deliveries, by what became of them."""
        ...


@dataclass(frozen=True, slots=True)
class Counted:
    """The parts that keep the numbers. `connections` counts those to the upstream."""

    admission: Admission
    gateway: Gateway
    settler: Settler
    tally: Tally
    commit: GroupCommit
    watch: Watch
    sink: CountedSink | None
    connections: Callable[[], int]
    entitlements: Entitlements | None = None
    webhooks: WebhooksCounted | None = None
    declared: Declared | None = None


class Metrics:
    """The endpoint. With a `token`, only who sends it as Bearer is answered."""

    def __init__(self, collectors: Sequence[Collector], token: str = "") -> None:
        self._expected = f"Bearer {token}".encode() if token else b""
        self._registry = CollectorRegistry()
        for collector in collectors:
            self._registry.register(collector)

    async def metrics(self, request: Request) -> Response:
        """In the format that the scraper asks for. Raises `Unauthenticated`."""
        hide(request.scope["headers"])
        if self._expected and not compare_digest(_authorization(request), self._expected):
            raise Unauthenticated("Send the admin token (TOLLGATE_ADMIN_TOKEN) as Bearer.")
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})


def collectors(counted: Counted) -> list[Collector]:
    """What gives this process's numbers."""
    return [_Parts(counted), ProcessCollector(registry=None)]


class _Parts(Collector):
    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("tollgate_build", "The version that runs.", {"version": __version__})
        yield from self._requests()
        yield from self._ledger()
        yield from self._delivery()
        yield from self._entitlements()
        yield from self._webhooks()
        yield from self._declaration()

    def _requests(self) -> Iterator[Metric]:
        counted = self._counted
        yield _gauge("requests_in_flight", "Requests that are admitted and not settled.", counted.admission.in_flight)
        yield _gauge(
            "answers_draining", "Answers read on for their usage after the client left.", counted.gateway.draining
        )
        yield _gauge("upstream_connections", "Connections to the upstream.", counted.connections())
        refusals = CounterMetricFamily(
            "tollgate_refusals", "Requests refused before they were forwarded, by the error's code.", labels=["code"]
        )
        for code, count in sorted(counted.gateway.refusals.items()):
            refusals.add_metric([code], count)
        yield refusals
        settlements = CounterMetricFamily(
            "tollgate_settlements", "Requests settled, as the ledger has them.", labels=["outcome", "usage_source"]
        )
        for outcome in Outcome:
            for source in UsageSource:
                settlements.add_metric([outcome, source], counted.tally.settlements[outcome, source])
        yield settlements
        tokens = CounterMetricFamily("tollgate_tokens", "Tokens of settled requests.", labels=["kind"])
        tokens.add_metric(["prompt"], counted.tally.prompt_tokens)
        tokens.add_metric(["completion"], counted.tally.completion_tokens)
        yield tokens
        # The format has floats; what is exact stands in the ledger.
        usd = counted.tally.pico_usd / PICO
        yield CounterMetricFamily("tollgate_cost_usd", "What settled requests cost, at list prices.", usd)
        costs = CounterMetricFamily(
            "tollgate_costs", "Requests settled, by whether their cost is known.", labels=["cost_state"]
        )
        for state in (CostState.PRICED, CostState.FREE, CostState.UNPRICED):
            costs.add_metric([state], counted.tally.costs[state])
        yield costs

    def _ledger(self) -> Iterator[Metric]:
        commit = self._counted.commit
        yield _gauge("ledger_up", "1 while events can be recorded, and so requests are served.", _is_up(commit))
        yield _gauge("ledger_backlog", "Changes that wait for their commit.", commit.backlog)
        yield CounterMetricFamily(
            "tollgate_settlements_unrecorded",
            "Settlements that the ledger did not take: they are on standard error, to be imported.",
            self._counted.settler.unrecorded,
        )

    def _delivery(self) -> Iterator[Metric]:
        watch, sink = self._counted.watch, self._counted.sink
        yield _gauge("events_pending", "Events that the sink has not taken yet.", watch.backlog.pending)
        yield _gauge("events_oldest_pending_age_seconds", "How long the oldest has waited.", watch.age_s or 0)
        yield _gauge("events_dead", "Events that the sink refused for good.", watch.backlog.dead)
        yield _gauge("events_discarded", "Dead events that a person gave up.", watch.backlog.discarded)
        if sink is None:
            return
        deliveries = CounterMetricFamily("tollgate_deliveries", "Batches sent, by their result.", labels=["result"])
        for result in RESULTS:
            deliveries.add_metric([result], sink.batches[result])
        yield deliveries
        yield CounterMetricFamily("tollgate_events_delivered", "Events that the sink has taken.", sink.events)

    def _entitlements(self) -> Iterator[Metric]:
        asked = self._counted.entitlements
        if asked is None:
            return
        up = not asked.trouble
        yield _gauge("entitlements_up", "1 while the metering engine answers what it grants.", up)
        questions = CounterMetricFamily("tollgate_entitlement_questions", "Questions to it.", labels=["result"])
        for result in ("answered", "failed"):
            questions.add_metric([result], asked.questions[result])
        yield questions

    def _webhooks(self) -> Iterator[Metric]:
        webhooks = self._counted.webhooks
        if webhooks is None:
            return
        yield _gauge("webhooks_pending", "Webhooks that the receiver has not taken yet.", webhooks.counts.pending)
        yield _gauge("webhooks_dead", "Webhooks that the receiver refused for good.", webhooks.counts.dead)
        sent = CounterMetricFamily("tollgate_webhook_deliveries", "Webhooks sent, by their result.", labels=["result"])
        for result, count in webhooks.results.items():
            sent.add_metric([result], count)
        yield sent

    def _declaration(self) -> Iterator[Metric]:
        declared = self._counted.declared
        if declared is None:
            return
        yield _gauge(
            "declaration_up", "1 while what the file declares of tenants is in force.", int(not declared.trouble)
        )
        reloads = CounterMetricFamily(
            "tollgate_declaration_reads", "How often that file was read, by what came of it.", labels=["result"]
        )
        for result in RELOADS:
            reloads.add_metric([result], declared.results[result])
        yield reloads


def _authorization(request: Request) -> bytes:
    return request.headers.get("authorization", "").encode("latin-1")


def _gauge(name: str, words: str, value: int) -> Metric:
    return GaugeMetricFamily(f"tollgate_{name}", words, value)


def _is_up(commit: GroupCommit) -> bool:
    try:
        commit.check()
    except LedgerUnavailable:
        return False
    return True
