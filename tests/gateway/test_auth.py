from __future__ import annotations

import hashlib

import pytest

from proxy.errors import Forbidden, InvalidRequest, Unauthenticated
from proxy.gateway.auth import Authenticator
from proxy.model import Caller

NOW_S = 1_000.0


class Directory:
    """Callers by their secret, as a store would find them."""

    def __init__(self, **callers: Caller) -> None:
        self._callers = {hashlib.sha256(secret.encode()).digest(): caller for secret, caller in callers.items()}
        self.disabled = {"closed"}

    async def find(self, key_hash: bytes) -> Caller | None:
        return self._callers.get(key_hash)

    async def is_disabled(self, tenant_id: str) -> bool:
        return tenant_id in self.disabled


def caller(**given: object) -> Caller:
    known: dict[str, object] = {
        "key_id": "key_1",
        "subject": "user-001",
        "active": True,
        "models": frozenset(),
        "trusted": False,
        "expires_ms": None,
    }
    return Caller(**(known | given))  # type: ignore[arg-type] # the names are checked by the dataclass


AUTH = Authenticator(
    Directory(
        good=caller(),
        ends=caller(expires_ms=int(NOW_S * 1000)),
        lasts=caller(expires_ms=int(NOW_S * 1000) + 1),
        closed=caller(active=False),
        trusted=caller(trusted=True),
    ),
    lambda: NOW_S,
)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer good")],
        [(b"authorization", b"bearer  good ")],
        [(b"x-api-key", b"good")],
        [(b"authorization", b"Basic Zm9v"), (b"x-api-key", b"good")],
        [(b"x-api-key", b"unknown"), (b"authorization", b"Bearer good")],
        [(b"authorization", b"Bearer lasts")],
    ],
)
async def test_a_valid_key_is_found_wherever_it_stands(headers: list[tuple[bytes, bytes]]) -> None:
    assert (await AUTH.authenticate(headers)).subject == "user-001"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer unknown")],
        [(b"authorization", b"good")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"g" * 10_000)],
        [(b"x-api-key", b"\xff\xfe")],
        [(b"authorization", b"Bearer ends")],
    ],
)
async def test_no_key_or_a_bad_one_is_401_and_never_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await AUTH.authenticate(headers)
    assert caught.value.status == 401
    assert not [word for word in ("unknown", "good", "ends", "ggg") if word in str(caught.value)]


async def test_a_disabled_tenant_is_403() -> None:
    with pytest.raises(Forbidden):
        await AUTH.authenticate([(b"x-api-key", b"closed")])


async def test_only_a_trusted_key_may_name_whose_usage_it_is() -> None:
    named = (b"x-tollgate-subject", b"user-777")
    assert (await AUTH.authenticate([(b"x-api-key", b"trusted"), named])).subject == "user-777"
    assert (await AUTH.authenticate([(b"x-api-key", b"good"), named])).subject == "user-001"


@pytest.mark.parametrize("named", [b"", b"-x", b"a b", b"\xff", b"x" * 129])
async def test_a_subject_that_is_no_tenant_id_is_refused(named: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await AUTH.authenticate([(b"x-api-key", b"trusted"), (b"x-tollgate-subject", named)])
    assert caught.value.param == "X-Tollgate-Subject"


async def test_a_trusted_key_cannot_act_for_a_disabled_tenant() -> None:
    with pytest.raises(Forbidden):
        await AUTH.authenticate([(b"x-api-key", b"trusted"), (b"x-tollgate-subject", b"closed")])
