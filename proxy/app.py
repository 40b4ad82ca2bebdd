"""The one place where everything is wired. Nothing is shared but what `create_app` makes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.admin.api import AdminApi, operations
from proxy.admin.desk import Desk
from proxy.admin.docs import Docs
from proxy.agent.endpoint import ENDPOINTS, Agent
from proxy.billing.entitlements import entitlements_of
from proxy.billing.prices import SANDBOX, PriceBook
from proxy.declaration.reload import apply_first
from proxy.delivery.relay import Relay
from proxy.delivery.sinks import EventCourier, sink_for
from proxy.delivery.sinks.counted import CountedSink
from proxy.delivery.watch import Watch
from proxy.errors import ConfigurationError
from proxy.gateway.admit import Admission
from proxy.gateway.auth import Authenticator
from proxy.gateway.counters import Counters
from proxy.gateway.entitlements import Entitlements
from proxy.gateway.fellows import Fellows
from proxy.gateway.followup import Followup
from proxy.gateway.handle import Gateway
from proxy.gateway.ownership import Ownership, allowed_references
from proxy.gateway.quotas import Quotas
from proxy.gateway.rescue import Rescue
from proxy.gateway.settle import Settler
from proxy.gateway.shares import Shares
from proxy.gateway.stop import Stops
from proxy.gateway.tally import Tally
from proxy.limits import Calendar
from proxy.model import Settlement
from proxy.payments.endpoint import Hooks
from proxy.settings import Settings, load
from proxy.store.board import Board, Seat
from proxy.store.callers import Callers
from proxy.store.commit import GroupCommit
from proxy.store.database import Database
from proxy.store.demo import begin_demo, end_demo
from proxy.store.holds import Holds
from proxy.store.lease import FileLease
from proxy.store.outbox import EVENTS, Backlog, Outbox, undelivered
from proxy.store.owned import Owned
from proxy.store.reader import Reader
from proxy.store.turn import Turn
from proxy.upstream.connect import Origin
from proxy.upstream.connection import Timeouts
from proxy.upstream.keys import UpstreamKeys
from proxy.upstream.pool import Pool, PoolLimits
from proxy.upstream.route import Router, Upstream, bearer, provider_of
from proxy.upstream.sandbox import Sandbox
from proxy.web.files import connections_room
from proxy.web.health import Readiness, WebhooksHealth
from proxy.web.metrics import Counted, Metrics, collectors
from proxy.web.routes import create_web
from proxy.web.sums import Led, Together
from proxy.web.usage import Usage
from proxy.webhooks.service import webhooks_for
from proxy.wire.endpoints import Routes
from proxy.wire.tokens import tokenizer_for

#: How long a stop waits for requests that the server has cancelled, and for the relay's last batches.
_QUIET_S = 5.0
_FLUSH_S = 5.0
_PATIENCE_S = 1.0
#: How often a worker looks what others have recorded while it writes nothing itself.
_LOOK_S = 0.05


def create_app(settings: Settings | None = None, seat: Seat | None = None) -> App:
    """The ASGI application for these settings (default: those of the environment); with a `seat` as one of several.

    Raises `ConfigurationError` for settings that cannot work; opens the store, and nothing else before its lifespan.
    """
    return App(settings or load(), seat)


class App:
    """`/v1` goes to the gateway, the rest to Starlette."""

    def __init__(self, settings: Settings, seat: Seat | None = None) -> None:
        self.settings = settings
        self._seat = seat
        self.database = Database(settings.database_url)
        self.database.create()
        #: Follows the file of the settings, where there is one, for the tenants that it declares.
        self.reload = apply_first(settings, self.database, _now_ms)
        #: The secret of the demo key, where this start has made one.
        self.demo_key = begin_demo(self.database, _now_ms()) if settings.uses_sandbox else ""
        if not settings.uses_sandbox:
            end_demo(self.database, _now_ms())
        self._sandbox = Sandbox() if settings.uses_sandbox else None
        self._origin = Origin.parse(settings.upstream.base_url)
        self._routes = Routes(settings.server.allow_routes)
        self._allowed_references = allowed_references(settings.server.allow_references)
        self._board = None if seat is None else Board(seat.board)
        self._shares = None if seat is None or self._board is None else Shares(self._board, seat.place)
        if self._shares is None:
            self.commit = GroupCommit(self.database)
        else:
            self.commit = GroupCommit(self.database, look_s=_LOOK_S, turn=Turn(self.database.path))
            self.commit.reached = self._shares.reached
        self._callers = Callers(self.database)
        self._owned = Owned(self.database, self.commit, _now_ms)
        self._holds = Holds(self.database.path)
        self._calendar = Calendar.of(settings.limits.time_zone)
        self._together: Together | None = None
        self._engine = entitlements_of(settings.entitlements, settings.sink)
        self._backlog = Reader(self.database)
        self._entitlements: Entitlements | None = None
        if self._engine is not None:
            backlog = partial(self._backlog.read, undelivered)
            self._entitlements = Entitlements(self._engine, settings.entitlements, backlog, self._forget_accounts)
        self.prices = PriceBook.of(settings.prices.file)
        self.quotas = Quotas(
            Counters(self.commit, self._calendar, _now_ms()),
            output_tokens=settings.limits.output_tokens,
            caps_output=settings.limits.cap_output,
            stops_streams=settings.limits.stop_streams,
            wait_s=settings.limits.wait_s,
            rate_wait_s=settings.limits.rate_wait_s,
            now_ms=_now_ms,
            entitled=None if self._entitlements is None else self._entitlements.limit_of,
            prices=self.prices,
            counts_unpriced=settings.limits.unpriced == "count",
            shares=self._shares,
        )
        self.commit.recorded_elsewhere = self._recorded_elsewhere
        self._fellows: Fellows | None = None
        if self._shares is not None:
            self._fellows = Fellows(self._shares, self.quotas, self.commit, self._holds, self._callers, _now_ms)
        entitled = None if self._entitlements is None else self._entitlements.check
        self.admission = Admission(self.commit, self._holds, self.quotas, entitled)
        sink = sink_for(settings.sink)
        self._sink = None if sink is None else CountedSink(sink)
        self._tally = Tally()
        self._outbox = Outbox(self.database, self.commit, _now_ms, EVENTS)
        lease = FileLease(self.database.path)
        courier = None if self._sink is None else EventCourier(self._sink, settings.sink)
        self._relay = None if courier is None else Relay(self._outbox, courier, settings.sink, lease)
        self._webhooks = webhooks_for(settings.webhooks, self.database, self.commit, self._calendar, _now_ms)
        if self._webhooks is not None:
            self.quotas.refused = self._webhooks.lookout.refused
        if self._shares is not None:  # all of them end together, and the last one delivers what is left
            for relay in (self._relay, None if self._webhooks is None else self._webhooks.relay):
                if relay is not None:
                    relay.patience_s = _PATIENCE_S
        self._running = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["raw_path"].startswith(b"/v1/"):
                await self.gateway(scope, receive, send)
            else:
                await self._web(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except ConfigurationError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Start the parts; what has started is stopped in the reverse order."""
        settings = self.settings
        # So that the list of prices is loaded before the first request, where there is one for this provider.
        await asyncio.to_thread(self.prices.tariff, provider_name(settings), settings.agent.model, _now_ms())
        rescue = Rescue(self._holds, self.commit, self._recorded, costed=self.prices.costed)
        # The last to stop: a request keeps its trace until the ledger has taken its settlement, or told why not.
        self._running.push_async_callback(rescue.stop)
        self._running.push_async_callback(self._wait_until_quiet)
        self.commit.start()
        self._running.push_async_callback(self.commit.stop)
        self._running.callback(self._callers.close)
        if self.reload is not None:
            self.reload.start(self.commit, self._callers.recheck)
            self._running.push_async_callback(self.reload.stop)
        self._running.callback(self._owned.close)
        rescue.start()
        if self._fellows is not None:
            await self._fellows.start()
            self._running.push_async_callback(self._fellows.stop)
        await self._start_limits()
        self._start_delivery()
        origin = self._origin
        if self._sandbox is not None:
            origin = Origin.parse(await asyncio.to_thread(self._sandbox.start))
            self._running.push_async_callback(asyncio.to_thread, self._sandbox.stop)
        pool = _pool(settings, origin)
        self._running.push_async_callback(pool.close)
        self._running.push_async_callback(self._wait_until_quiet)

        router = Router(_upstream(settings, pool), UpstreamKeys())
        followup = Followup(self.commit, router, self._recorded, costed=self.prices.costed)
        followup.start()
        self._running.push_async_callback(followup.stop)
        settler = Settler(self.commit, self._recorded, followup.defer, costed=self.prices.costed)
        ownership = Ownership(self._owned, self._allowed_references, followup.settle_first)
        # The sandbox stands in for OpenAI, whose base URL is set then.
        field = settings.upstream.token_limit_field or _token_limit_field(self._origin)
        gateway = Gateway(
            settings,
            self._routes,
            Authenticator(self._callers),
            self.admission,
            router,
            settler,
            ownership,
            Stops(self.quotas, self._callers.limits),
            token_limit_field=field,
        )
        agent: dict[str, ASGIApp] = {
            path: Agent(path, gateway, default_model=settings.agent.model, token_limit_field=field)
            for path in ENDPOINTS
        }
        self.gateway = gateway
        self._web = self._start_web(settler, pool, agent)

    def _start_web(self, settler: Settler, pool: Pool, agent: dict[str, ASGIApp]) -> Starlette:
        """All that people look at."""
        settings = self.settings
        watch = Watch(self.database, has_sink=self._sink is not None)
        if self._webhooks is not None:
            watch.late = partial(self._backlog_late, self._webhooks.lookout.backlog_late)
        watch.start()
        self._running.push_async_callback(watch.stop)
        declared = None if self.reload is None else self.reload.declared
        counted = Counted(
            *(self.admission, self.gateway, settler, self._tally, self.commit, watch, self._sink),
            connections=lambda: pool.connections,
            entitlements=self._entitlements,
            webhooks=self._webhooks,
            declared=declared,
        )
        numbers = collectors(counted)
        webhooks: WebhooksHealth | None = self._webhooks
        if self._board is not None and self._seat is not None and self._fellows is not None:
            self._together = Together(self._board, self._seat.place, numbers, self._troubles)
            self._fellows.publish = self._together.publish
            numbers = [self._together]
            webhooks = None if webhooks is None else Led(webhooks, self._together, "webhooks")
        readiness = Readiness(
            *(self.commit, watch, None if self._relay is None else self._delivery_trouble),
            webhooks=webhooks,
            entitlements=self._entitlements,
            declared=declared,
        )
        token = settings.admin_token
        admin_token = "" if token is None else token.get_secret_value()
        metrics = Metrics(numbers, admin_token)
        reader = Reader(self.database)
        self._running.push_async_callback(reader.stop)
        usage = Usage(self.gateway, self.quotas, reader, self._calendar, settings.limits.time_zone, _now_ms)
        # A reader of its own: no question of an operator's holds up a tenant's.
        operators = Reader(self.database)
        self._running.push_async_callback(operators.stop)
        desk = Desk(settings, self.commit, operators, self._changed, _now_ms)
        admin = AdminApi(operations() if admin_token else (), desk, self.gateway.read_body, admin_token)
        docs = Docs()
        pages = {"/openapi.json": docs.openapi, "/docs": docs.docs}
        hooks = Hooks(
            *(settings.hooks, self.commit, self._noted, self.gateway.refusals, _now_ms, self.gateway.read_body),
        )
        return create_web(readiness, metrics, usage, agent, admin, pages, hooks.endpoints)

    def _start_delivery(self) -> None:
        if self._sink is not None and self._relay is not None:
            self._running.callback(self._outbox.close)
            self._running.push_async_callback(self._sink.close)
            self._relay.start()
            self._running.push_async_callback(self._relay.stop, _FLUSH_S)
        if self._webhooks is not None:
            self._webhooks.start()
            self._running.push_async_callback(self._webhooks.stop)

    async def _start_limits(self) -> None:
        if self.settings.limits.stop_streams:
            await asyncio.to_thread(tokenizer_for, "")  # streams are counted in the loop, which must not load it
        if self._engine is not None and self._entitlements is not None:
            self._running.push_async_callback(self._backlog.stop)
            self._running.push_async_callback(self._engine.close)
            self._entitlements.start()
            self._running.push_async_callback(self._entitlements.stop)

    async def stop(self) -> None:
        """Stop the parts. Every settlement that was begun is on disk when this returns."""
        await self._running.aclose()

    async def _wait_until_quiet(self) -> None:
        try:
            async with asyncio.timeout(_QUIET_S):
                await self.admission.quiet()
        except TimeoutError:
            pass  # a request that cannot even be cancelled keeps nobody from stopping

    def _recorded(self, settlement: Settlement) -> None:
        self.quotas.settled(settlement)
        if self._entitlements is not None:
            self._entitlements.settled(settlement)
        self._tally.add(settlement)
        self._wake()

    def _wake(self) -> None:
        """Something has come into the ledger."""
        if self._relay is not None:
            self._relay.wake()
        if self._webhooks is not None:
            self._webhooks.lookout.wake()

    def _noted(self) -> None:
        if self._webhooks is not None:
            self._webhooks.relay.wake()

    def _recorded_elsewhere(self, found: list[Settlement] | None) -> None:
        self.quotas.settled_elsewhere(found)
        if self._entitlements is not None:
            self._entitlements.settled_elsewhere(found)
        if self._shares is not None:  # with them, one delivers what all record
            self._wake()

    def _forget_accounts(self) -> None:
        self.quotas.forget()

    def _changed(self, recorded: list[Settlement]) -> None:
        """An operator has changed something here: it is in force at once."""
        self._callers.recheck()
        if recorded:
            self._recorded_elsewhere(recorded)
        if self._relay is not None:
            self._relay.wake()

    def _delivery_trouble(self) -> str:
        if self._together is not None:
            return self._together.trouble("events")
        return "" if self._relay is None else self._relay.trouble

    def _backlog_late(self, tell: Callable[[Backlog, int, str], None], backlog: Backlog, late_s: int, why: str) -> None:
        """Of several workers the one tells it that delivers: each sees it at its own time, and maybe another oldest."""
        if self._shares is None or self._relay is None or self._relay.leads:
            tell(backlog, late_s, why)

    def _troubles(self) -> dict[str, str]:
        """What is wrong with that which this worker does for all."""
        relays = {"events": self._relay, "webhooks": None if self._webhooks is None else self._webhooks.relay}
        return {what: relay.trouble for what, relay in relays.items() if relay is not None and relay.leads}


def provider_name(settings: Settings) -> str:
    """Who serves, as events and prices call them."""
    if settings.upstream.provider:
        return settings.upstream.provider
    return SANDBOX if settings.uses_sandbox else provider_of(Origin.parse(settings.upstream.base_url).host)


def _pool(settings: Settings, origin: Origin) -> Pool:
    upstream = settings.upstream
    limits = PoolLimits(
        connections_max=min(upstream.connections_max, connections_room()),
        waiting_max=upstream.waiting_max,
        wait_s=upstream.wait_timeout_s,
        connect_timeout_s=upstream.connect_timeout_s,
        idle_s=upstream.idle_timeout_s,
    )
    timeouts = Timeouts(upstream.first_byte_timeout_s, upstream.between_bytes_timeout_s)
    return Pool(origin, limits, timeouts, ca_file=upstream.ca_file)


def _upstream(settings: Settings, pool: Pool) -> Upstream:
    key = settings.upstream.api_key
    credentials = [] if key is None else bearer(key.get_secret_value())
    return Upstream(provider_name(settings), pool, credentials)


def _token_limit_field(origin: Origin) -> str:
    """OpenAI's own API refuses `max_tokens` for its newer models; most others know no other name."""
    return "max_completion_tokens" if origin.host == "api.openai.com" else "max_tokens"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
