"""What a metering engine grants: asked for in the background, and held to together with the limits that are set here.

An answer is some seconds old, and the engine has not seen yet what was used since, nor what waits to be delivered. So
all that is subtracted from the balance that it told; in the accounts of `Quotas` the rest is one limit more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import EngineError, EngineUnavailable, EntitlementUnknown, Forbidden, ProxyError, QuotaExceeded
from proxy.gateway.counters import Counter
from proxy.limits import Calendar
from proxy.model import ENGINE, Access, Counted, Limit, Settlement, Unit, Window
from proxy.sections import EntitlementSettings

log = logging.getLogger(__name__)

#: How long requests of a tenant of whom nothing is known wait for the first answer, together.
FIRST_WAIT_S = 1.0
#: Tenants of whom something is remembered; beyond it all that send nothing at the moment are forgotten.
STANDINGS_MAX = 50_000
#: Questions at the same time, and those that may wait for one of these places.
AT_ONCE = 16
QUESTIONS_MAX = 1_000

#: Until the engine is asked again that did not answer.
_RETRY_S = 5.0
#: Between two looks at what is due, and at what waits to be delivered, at most and at least.
_TICK_MAX_S = 5.0
_TICK_MIN_S = 0.1
#: A look at a long backlog takes time; at most so much of it is spent on looking.
_LOOKING_SHARE = 0.1
_WARN_S = 60.0
_UNBOUND = 2**60
_CALENDAR = Calendar()


class Engine(Protocol):
    """Who is asked (`proxy.billing.entitlements`)."""

    async def access(self, subject: str) -> Access | None:
        """What a subject is granted; None: it is none of its customers. Raises `EngineError`."""


class Standing:
    """How one subject stands. `as_of_s` is when the engine was asked for what is known."""

    __slots__ = (
        *("access", "active_s", "as_of_s", "asked_s", "counter", "due_s", "settled", "since_s", "subject", "task"),
    )

    def __init__(self, subject: str, now_s: float) -> None:
        self.subject = subject
        self.access: Access | None = None
        #: What is used of what was granted, less that: so there is room while it is below nothing.
        self.counter = Counter(Counted(ENGINE, subject, Unit.TOKENS, Window.TOTAL), _CALENDAR, 0)
        self.lift()
        self.as_of_s = -math.inf
        self.asked_s = now_s  #: when the last question was asked, or put in line
        self.due_s = -math.inf  #: when to ask again, and not sooner
        self.active_s = now_s
        self.task: asyncio.Task[None] | None = None
        self.since_s = math.inf  #: from when on the question that is being asked needs what was settled
        #: By the second: tokens that were settled since then, and a little before.
        self.settled: deque[tuple[float, int]] = deque()

    def lift(self) -> None:
        """Nothing is known that would limit it."""
        self._leave(_UNBOUND)

    def learn(self, access: Access | None, as_of_s: float, unseen: int) -> None:
        """The answer to what was asked then, of which the engine had not seen so many tokens."""
        self.access = access
        self.as_of_s = as_of_s
        balance = None if access is None else access.balance
        self._leave(_UNBOUND if balance is None else balance - unseen)

    def use(self, now_s: float, tokens: int, since_s: float) -> None:
        """So much was settled. What was before `since_s` will not be asked for."""
        self.counter.use(0, tokens)
        second = now_s // 1
        if self.settled and self.settled[-1][0] == second:
            tokens += self.settled.pop()[1]
        self.settled.append((second, tokens))
        while self.settled[0][0] < min(since_s, self.since_s) - 1:
            self.settled.popleft()

    def since(self, since_s: float) -> int:
        """What was settled from then on, and maybe in the second before."""
        return sum(tokens for second, tokens in self.settled if second >= since_s - 1)

    def _leave(self, tokens: int) -> None:
        self.counter.use(0, -tokens - self.counter.used)


@dataclass(frozen=True, slots=True)
class _Look:
    """What was not delivered at some time between these two."""

    began_s: float
    ended_s: float
    waiting: Mapping[str, int]


class Entitlements:
    """One task that asks, and what it knows. `start` and `stop` may be called in any order, and more than once.

    `undelivered` gives the tokens of events that no sink has, by subject, and may raise `sqlite3.Error`. `forgotten` is
    called when counters are gone that accounts may hold.
    """

    def __init__(
        self,
        engine: Engine,
        settings: EntitlementSettings,
        undelivered: Callable[[], Awaitable[Mapping[str, int]]],
        forgotten: Callable[[], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._undelivered = undelivered
        self._forgotten = forgotten
        self._monotonic = monotonic
        self._origin = f"entitlement {settings.feature}"
        self._standings: dict[str, Standing] = {}
        self._looks: deque[_Look] = deque()
        self._looking = asyncio.Lock()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._asking: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_down = False
        self._warned_s = -math.inf
        #: Why the last question was not answered; empty while all is well.
        self.trouble = ""
        #: Questions by `answered` and `failed`.
        self.questions: Tally[str] = Tally()

    def start(self) -> None:
        if self._task is None:
            self._stopping = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="tollgate-entitlements")

    async def stop(self) -> None:
        task, self._task = self._task, None
        self._stopping.set()
        ending = [*self._asking, *([] if task is None else [task])]
        for one in ending:
            one.cancel()
        if ending:
            await asyncio.wait(ending)

    # On the request path

    async def check(self, subject: str) -> None:
        """Whether requests of this subject may be served at all. Waits for the engine once, and not for long.

        Raises `QuotaExceeded` (429), `Forbidden` (403) or `EntitlementUnknown` (503).
        """
        now_s = self._monotonic()
        standing = self._standings.get(subject) or self._add(subject)
        standing.active_s = now_s
        if now_s - standing.as_of_s > self._settings.stale_s:
            await self._ask_first(standing, now_s)
            if self._monotonic() - standing.as_of_s > self._settings.stale_s:
                self._guess(standing)
                return
        access = standing.access
        if access is None:
            return
        if not access.granted:
            raise self._refusal(access)
        if standing.counter.used + standing.counter.reserved >= 0:  # asked sooner: there may be more by now
            standing.due_s = min(standing.due_s, standing.as_of_s + self._settings.lag_s)

    def limit_of(self, subject: str) -> tuple[Limit, Counter]:
        """What the engine grants, as one of the limits of an account."""
        standing = self._standings.get(subject) or self._add(subject)
        return Limit(standing.counter.counted, 0, self._origin), standing.counter

    def settled(self, one: Settlement) -> None:
        """It is in the ledger now, and not in what the engine has told."""
        standing = self._standings.get(one.subject)
        if standing is not None and (tokens := one.usage.total_tokens):
            now_s = self._monotonic()
            standing.use(now_s, tokens, self._since_s(now_s))

    def settled_elsewhere(self, found: list[Settlement] | None) -> None:
        """Other processes have recorded these; None: the ledger is another one, and all is asked anew."""
        if found is None:
            self._looks.clear()
            for standing in self._standings.values():
                standing.as_of_s = standing.due_s = -math.inf
        for one in found or ():
            self.settled(one)

    def _guess(self, standing: Standing) -> None:
        if self._settings.when_unknown == "refuse":
            message = f"What your plan grants ({self._origin}) cannot be asked for at the moment. Try again soon."
            raise EntitlementUnknown(message)
        standing.access = None
        standing.lift()

    def _refusal(self, access: Access) -> ProxyError:
        if access.metered:
            return QuotaExceeded(f"Your plan's {self._origin} is used up. It is granted anew with its next period.")
        return Forbidden(f"Your plan does not include this ({self._origin}).", code="not_entitled")

    async def _ask_first(self, standing: Standing, now_s: float) -> None:
        """Wait for an answer, where one may be expected: until a second after the first request that needs it."""
        if standing.task is None:
            if self._is_down or now_s < standing.due_s or len(self._asking) >= QUESTIONS_MAX:
                return
            self._ask(standing)
        rest_s = standing.asked_s + FIRST_WAIT_S - now_s
        if standing.task is not None and rest_s > 0:
            await asyncio.wait([standing.task], timeout=rest_s)

    def _add(self, subject: str) -> Standing:
        if len(self._standings) >= STANDINGS_MAX:
            self._standings = {
                known: one
                for known, one in self._standings.items()
                if one.task is not None or one.counter.reserved > one.counter.elsewhere
            }
            self._forgotten()
        standing = self._standings[subject] = Standing(subject, self._monotonic())
        return standing

    # In the background

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._look()
                await self._ask_due()
            except sqlite3.Error as error:
                log.debug("the backlog cannot be read: %s", error)  # the ledger's own trouble is told elsewhere
            except Exception:
                # The edge of the task: a fault of ours must not end it.
                log.exception("entitlements could not be refreshed")
            tick_s = min(_TICK_MAX_S, self._settings.lag_s / 2, self._settings.refresh_s / 2)
            took_s = self._looks[-1].ended_s - self._looks[-1].began_s if self._looks else 0.0
            tick_s = max(_TICK_MIN_S, tick_s, took_s / _LOOKING_SHARE)
            try:
                async with asyncio.timeout(tick_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """See what is not delivered. What the engine may not have seen is what was not delivered at the last look that
        is `lag_s` old, and what was settled after that began."""
        began_s = self._monotonic()
        waiting = await self._undelivered()
        ended_s = self._monotonic()
        self._looks.append(_Look(began_s, ended_s, waiting))
        while len(self._looks) > 1 and self._looks[1].ended_s <= ended_s - self._settings.lag_s:
            self._looks.popleft()

    def _since_s(self, as_of_s: float) -> float:
        """From when on what was settled may not be in an answer to what is asked now."""
        since_s = as_of_s - self._settings.lag_s
        return min(since_s, self._looks[0].began_s) if self._looks else since_s

    async def _ask_due(self) -> None:
        """Ask for those that have sent requests lately: while the engine is in trouble for one alone."""
        now_s = self._monotonic()
        due = [
            one
            for one in self._standings.values()
            if one.due_s <= now_s and one.task is None and now_s - one.active_s <= self._settings.stale_s
        ]
        due.sort(key=lambda one: one.asked_s)
        free = max(0, QUESTIONS_MAX - len(self._asking))
        asked = [self._ask(one) for one in due[: 1 if self._is_down else free]]
        if asked:
            await asyncio.wait(asked, timeout=_TICK_MAX_S)

    def _ask(self, standing: Standing) -> asyncio.Task[None]:
        standing.asked_s = self._monotonic()
        task = asyncio.get_running_loop().create_task(self._question(standing))
        standing.task = task
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _question(self, standing: Standing) -> None:
        settings = self._settings
        try:
            async with self._at_once:
                await self._look_first()
                as_of_s = self._monotonic()
                standing.since_s, waiting = self._since_s(as_of_s), self._looks[0].waiting
                access = await self._engine.access(standing.subject)
        except (EngineError, sqlite3.Error) as error:
            self._is_down = isinstance(error, EngineUnavailable)
            self._note(str(error))
            standing.due_s = self._monotonic() + min(_RETRY_S, settings.refresh_s)
        except Exception:
            # The edge of this task: whoever waits for it goes on by what is set for that.
            log.exception("an entitlement could not be asked for")
            standing.due_s = self._monotonic() + settings.refresh_s
        else:
            self._is_down = False
            self._note("")
            # What was settled before anything was known of it is in no sum: so the first answer holds for a short time.
            rest_s = settings.refresh_s if math.isfinite(standing.as_of_s) else min(settings.lag_s, settings.refresh_s)
            standing.learn(access, as_of_s, waiting.get(standing.subject, 0) + standing.since(standing.since_s))
            standing.due_s = as_of_s + rest_s
        finally:
            standing.task = None
            standing.since_s = math.inf

    async def _look_first(self) -> None:
        async with self._looking:  # one for all that ask at the same time
            if not self._looks:
                await self._look()

    def _note(self, trouble: str) -> None:
        """Each question is counted, and trouble told now and then."""
        self.questions["failed" if trouble else "answered"] += 1
        now_s = self._monotonic()
        if trouble and now_s - self._warned_s > _WARN_S:
            self._warned_s = now_s
            then = f"answers hold for {self._settings.stale_s:g} s, then: {self._settings.when_unknown}"
            log.warning("an entitlement could not be asked for (%s): %s", then, trouble)
        self.trouble = trouble
