from __future__ import annotations

import hashlib

import pytest

from proxy.errors import Forbidden, InvalidRequest, Unauthenticated
from proxy.gateway.auth import Authenticator
from proxy.model import Caller, Limit, Tenant

NOW_S = 1_000.0


class Directory:
    """Callers by their secret, as a store would find them."""

    def __init__(self, **callers: Caller) -> None:
        self._callers = {hashlib.sha256(secret.encode()).digest(): caller for secret, caller in callers.items()}
        self.tenants = {
            "closed": Tenant("closed", "", "disabled", 0),
            "keyed": Tenant("keyed", "", "active", 0, "env:KEYED"),
        }

    async def find(self, key_hash: bytes) -> Caller | None:
        return self._callers.get(key_hash)

    async def tenant(self, tenant_id: str) -> Tenant | None:
        return self.tenants.get(tenant_id)

    async def limits(self, tenant_id: str, key_id: str) -> tuple[Limit, ...]:
        return ()


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
        owner=caller(trusted=True, upstream_key="env:OWN", own_account=True),
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


@pytest.mark.parametrize(
    ("key", "subject", "upstream_key", "own_account"),
    [
        ("trusted", "user-001", "", False),
        ("trusted", "user-777", "", False),
        ("trusted", "keyed", "env:KEYED", True),
        ("owner", "user-001", "env:OWN", True),
        ("owner", "user-777", "env:OWN", False),  # it shares the account with all that this key speaks for
        ("owner", "keyed", "env:KEYED", True),
    ],
)
async def test_the_account_is_the_named_subject_s_own_or_its_speaker_s(
    key: str, subject: str, upstream_key: str, own_account: bool
) -> None:
    found = await AUTH.authenticate([(b"x-api-key", key.encode()), (b"x-tollgate-subject", subject.encode())])
    assert (found.subject, found.upstream_key, found.own_account) == (subject, upstream_key, own_account)
