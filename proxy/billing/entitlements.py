"""What OpenMeter or Konnect grants a tenant: one feature of one customer, asked for in either dialect.

v1 has a call with numbers, v3 (which Konnect has alone) tells only whether there is access.
"""

from __future__ import annotations

import math
from typing import Any

from proxy.billing.openmeter import Document, OpenMeter
from proxy.errors import ConfigurationError, EngineRefused, EngineUnreadable
from proxy.model import Access
from proxy.sections import EntitlementSettings, SinkSettings

#: Seconds for one answer. Nobody waits for it for so long: it is for the questions in the background.
TIMEOUT_S = 5.0

_V3_SELF_HOSTED, _V1_SELF_HOSTED = "/api/v3/openmeter", "/api/v1"
#: Customers whose ids are remembered; beyond it all are looked up again.
_CUSTOMERS_MAX = 50_000
#: Pages that are searched in v1, whose filter by subject finds parts of subjects as well.
_PAGES_MAX = 10
_PAGE_ITEMS = 100


def entitlements_of(settings: EntitlementSettings, sink: SinkSettings) -> Grants | None:
    """Whom to ask by the settings; None where no feature is set. Raises `ConfigurationError`."""
    if not settings.feature:
        return None
    if settings.refresh_s > settings.stale_s:
        raise ConfigurationError("entitlements.refresh_s: must not be longer than entitlements.stale_s")
    url = settings.url or sink.konnect_api_url
    if url is None:
        raise ConfigurationError("entitlements.url: set where to ask, or KONNECT_API_URL, for entitlements.feature")
    token = settings.token or sink.konnect_token
    base = url.rstrip("/")
    dialect = settings.dialect or ("v1" if base.endswith("/v1") else "v3")
    if dialect == "v1" and base.endswith(_V3_SELF_HOSTED):
        base = base.removesuffix(_V3_SELF_HOSTED) + _V1_SELF_HOSTED
    if dialect == "v1" and not base.endswith("/v1"):
        raise ConfigurationError("entitlements.dialect: v1 is spoken below …/api/v1 by OpenMeter, and not by Konnect")
    engine = OpenMeter(base, token="" if token is None else token.get_secret_value(), timeout_s=TIMEOUT_S, tries=1)
    return (GrantsV1 if dialect == "v1" else GrantsV3)(engine, settings.feature)


class Grants:
    """Asks one engine for one feature."""

    def __init__(self, engine: OpenMeter, feature: str) -> None:
        self._engine = engine
        self._feature = feature
        self._ids: dict[str, str] = {}

    async def close(self) -> None:
        await self._engine.close()

    async def access(self, subject: str) -> Access | None:
        """What the customer is granted whose key, or one of whose subjects, this is; None where there is none.

        Raises `EngineError`.
        """
        for _ in range(2):  # a customer that is remembered may be gone, and another one in its place
            known = self._ids.get(subject)
            customer = known or await self._find(subject)
            if customer is None:
                return None
            if len(self._ids) >= _CUSTOMERS_MAX:
                self._ids.clear()
            self._ids[subject] = customer
            try:
                return await self._access(customer)
            except EngineRefused as error:
                if error.status != 404:
                    raise
                self._ids.pop(subject, None)
                if known is None:
                    return None  # it was deleted since it was found
        return None

    async def _find(self, subject: str) -> str | None:
        """The id of the customer. A listing that is empty says that there is none; a 404 says nothing of the kind."""
        raise NotImplementedError

    async def _access(self, customer: str) -> Access:
        raise NotImplementedError

    def _id_of(self, customer: Document) -> str:
        found = customer.get("id")
        if not isinstance(found, str) or not found.isalnum():
            raise EngineUnreadable(f"{self._engine.url}/customers: a customer without an id")
        return found

    def _unreadable(self, what: str) -> EngineUnreadable:
        return EngineUnreadable(f"{self._engine.url}: an answer on entitlements has {what}")


class GrantsV3(Grants):
    """`GET /customers`, `GET /customers/{ULID}/entitlement-access`: has access or not."""

    async def _find(self, subject: str) -> str | None:
        for field in ("key", "usage_attribution_subject_key"):
            found = self._engine.items(await self._engine.get("/customers", {f"filter[{field}][eq]": subject}))
            if found:
                return self._id_of(found[0])
        return None

    async def _access(self, customer: str) -> Access:
        answer = await self._engine.get(f"/customers/{customer}/entitlement-access")
        for one in self._engine.items(answer):
            if one.get("feature_key") == self._feature:
                granted = one.get("has_access")
                if not isinstance(granted, bool):
                    raise self._unreadable("no has_access")
                return Access(granted, metered=one.get("type") == "metered")
        return Access(granted=False)


class GrantsV1(Grants):
    """`GET /customers/{id}/entitlements/{feature}/value`: with what is left, where that is counted."""

    async def _find(self, subject: str) -> str | None:
        try:
            one = await self._engine.get(f"/customers/{subject}")  # by its id, or by its key
        except EngineRefused as error:
            if error.status != 404:
                raise
        else:
            if one.get("key") == subject and not one.get("deletedAt"):
                return self._id_of(one)
        for number in range(1, _PAGES_MAX + 1):  # by parts of its subjects
            page = {"subject": subject, "page": str(number), "pageSize": str(_PAGE_ITEMS)}
            items = self._items(await self._engine.get("/customers", page))
            for one in items:
                if subject in _subjects(one):
                    return self._id_of(one)
            if len(items) < _PAGE_ITEMS:
                return None
        raise self._unreadable(f"more than {_PAGES_MAX * _PAGE_ITEMS} customers like {subject}")

    async def _access(self, customer: str) -> Access:
        answer = await self._engine.get(f"/customers/{customer}/entitlements/{self._feature}/value")
        granted, balance = answer.get("hasAccess"), answer.get("balance")
        if not isinstance(granted, bool):
            raise self._unreadable("no hasAccess")
        if balance is None:
            return Access(granted)
        if isinstance(balance, bool) or not isinstance(balance, int | float) or not 0 <= balance < math.inf:
            raise self._unreadable("a balance that is no number of tokens")
        # With a soft limit there is access beyond it, and the balance never turns negative.
        return Access(granted, metered=True, balance=math.floor(balance) or None if granted else 0)

    def _items(self, answer: Document) -> list[Document]:
        items = answer.get("items")
        if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
            raise self._unreadable("no list of customers under items")
        return items


def _subjects(customer: Document) -> list[Any]:
    attribution = customer.get("usageAttribution")
    found = attribution.get("subjectKeys") if isinstance(attribution, dict) else None
    return found if isinstance(found, list) else []
