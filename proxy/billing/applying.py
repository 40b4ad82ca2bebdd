"""The steps of a deployment, taken one by one. Whatever ends it in the middle, beginning again goes on from there.

A change is sent once. Where its answer is lost, where somebody else was faster, or where an engine is busy, what there
is now is read again, and what is still to be done follows from that. A refusal counts if the engine, read again, still
needs the same step.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable
from dataclasses import dataclass

from proxy.billing.catalog import Catalog
from proxy.billing.deployment import Action, Deployment, Found, Kind, Step, deployment, read
from proxy.billing.drift import METER_FIXED, METER_MAY_CHANGE, PLAN_FIXED, PLAN_MAY_CHANGE, drift, feature_drift
from proxy.billing.mapping import feature_body, meter_body, meter_update, plan_body, plan_update
from proxy.billing.openmeter import TRIES, WAIT_MAX_S, Document, OpenMeter, Sleep
from proxy.delivery.backoff import Backoff
from proxy.errors import EngineError, EngineRefused, EngineUnavailable, NotKept

#: How often it is begun again because somebody else changes things too.
_RACES_MAX = 20


@dataclass(frozen=True, slots=True)
class Applied:
    """The steps that were taken, and what was left alone."""

    steps: list[Step]
    left: list[Step]


class Applying:
    """Brings an engine to what the catalog says. `tell` is called before each step, with how many are left with it."""

    def __init__(
        self,
        engine: OpenMeter,
        catalog: Catalog,
        *,
        prune: bool = False,
        tell: Callable[[Step, int], None] = lambda _, __: None,
        tries: int = TRIES,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._prune = prune
        self._tell = tell
        self._tries = tries
        self._sleep = sleep
        self._backoff = Backoff(WAIT_MAX_S, random)
        self._taken: list[Step] = []

    async def run(self) -> Applied:
        """Raises `EngineError`: of what is taken by then, nothing is taken back."""
        refused: tuple[Step, EngineRefused] | None = None
        failures = 0
        for _ in range(_RACES_MAX):
            found = await read(self._engine)
            wanted = self._wanted(found)
            if refused and wanted.steps and str(wanted.steps[0]) == str(refused[0]):
                raise refused[1]
            if not wanted.steps:
                return Applied(self._taken, wanted.left)
            try:
                await self._take(wanted, found)
            except EngineUnavailable as error:
                failures += 1
                if failures == self._tries:
                    raise
                await self._sleep(self._backoff.next_s(error.retry_after_s))
            except _Refused as error:
                if error.cause.status in (401, 403):
                    raise error.cause from None
                refused = (error.step, error.cause)
            else:
                await self._read_back()
                return Applied(self._taken, wanted.left)
        raise EngineError(f"{self._engine.url}: somebody else changes the same things; apply again when they are done")

    def _wanted(self, found: Found) -> Deployment:
        wanted = deployment(self._catalog, found, prune=self._prune)
        if wanted.blocked:
            raise EngineError("; ".join(map(str, wanted.blocked)))
        return wanted

    async def _read_back(self) -> None:
        """What there is now, compared with what there is to be."""
        again = self._wanted(await read(self._engine))
        if again.steps:
            told = "; ".join(f"{one.kind} {one.key}: {', '.join(one.why) or 'it is not there'}" for one in again.steps)
            raise NotKept(f"{self._engine.url}: what was sent is not what is there: {told}")

    async def _take(self, wanted: Deployment, found: Found) -> None:
        meters, features = found.ids(Kind.METER), found.ids(Kind.FEATURE)
        drafts: dict[str, str] = {}
        ids = {Kind.METER: meters, Kind.FEATURE: features, Kind.PLAN: drafts}
        for at, step in enumerate(wanted.steps):
            self._tell(step, len(wanted.steps) - at)
            try:
                answer = await self._step(step, found, meters, features, drafts)
            except EngineRefused as error:
                raise _Refused(step, error) from None
            self._taken.append(step)
            if step.action in (Action.CREATE, Action.NEW_VERSION):
                ids[step.kind][step.key] = _id_of(self._engine, answer)

    async def _step(
        self, step: Step, found: Found, meters: dict[str, str], features: dict[str, str], drafts: dict[str, str]
    ) -> Document:
        change = self._engine.change
        path = f"/{step.kind}s/{step.id}"
        match step.action, step.kind:
            case Action.DELETE, _:
                return await change("DELETE", path)
            case Action.ARCHIVE, Kind.PLAN:
                return await change("POST", f"{path}/archive")
            case Action.ARCHIVE, _:
                return await change("DELETE", path)
            case Action.PUBLISH, _:
                return await self._publish(step, features, drafts)
            case Action.UPDATE, Kind.METER:
                meter = self._catalog.meters[step.key]
                body = meter_update(meter, found.meters[step.key])
                return self._kept(step, drift(body, await change("PUT", path, body), METER_MAY_CHANGE))
            case Action.UPDATE, _:
                return await change("PUT", path, plan_update(self._catalog.plans[step.key], features))
            case _, Kind.METER:
                body = meter_body(self._catalog.meters[step.key])
                answer = await change("POST", "/meters", body)
                self._kept(step, drift(body, answer, METER_FIXED + METER_MAY_CHANGE))
                return answer
            case _, Kind.FEATURE:
                body = feature_body(self._catalog.features[step.key], meters)
                answer = await change("POST", "/features", body)
                self._kept(step, feature_drift(body, answer, {one: key for key, one in meters.items()}))
                return answer
            case _:
                return await change("POST", "/plans", plan_body(self._catalog.plans[step.key], features))

    async def _publish(self, step: Step, features: dict[str, str], drafts: dict[str, str]) -> Document:
        """Read the draft back first: who is subscribed to a plan that lacks something is billed without it."""
        path = f"/plans/{step.id or drafts[step.key]}"
        draft = await self._engine.get(path)
        body = plan_body(self._catalog.plans[step.key], features)
        self._kept(step, drift(body, draft, PLAN_FIXED + PLAN_MAY_CHANGE))
        errors = draft.get("validation_errors")
        if isinstance(errors, list) and errors:
            told = "; ".join(f"{one.get('field')}: {one.get('message')}" for one in errors if isinstance(one, dict))
            raise EngineError(f"{self._engine.url}: plan {step.key} cannot be published: {told}")
        return await self._engine.change("POST", f"{path}/publish")

    def _kept(self, step: Step, differences: tuple[str, ...]) -> Document:
        if differences:
            raise NotKept(
                f"{self._engine.url}: it took {step.kind} {step.key}, and did not keep all of it: "
                f"{'; '.join(differences)}; update the engine, or take this out of the catalog"
            )
        return {}


class _Refused(Exception):
    """Which step was refused, and how."""

    def __init__(self, step: Step, cause: EngineRefused) -> None:
        super().__init__(str(cause))
        self.step = step
        self.cause = cause


def _id_of(engine: OpenMeter, answer: Document) -> str:
    found = answer.get("id")
    if not isinstance(found, str) or not found.isalnum():
        raise EngineError(f"{engine.url}: it created something, and its answer has no id")
    return found
