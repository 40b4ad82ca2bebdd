"""The tenant of the sandbox, for newcomers to play with."""

from __future__ import annotations

from proxy.errors import ConfigurationError, StoreError
from proxy.store.database import Database
from proxy.store.tenants import create_key, create_tenant, has_tenants, keys, revoke_key

DEMO_TENANT = "demo"
_KEY = "sandbox"


def begin_demo(database: Database, now_ms: int) -> str:
    """A tenant to play with, at the first start with the sandbox."""
    with database.transaction() as connection:
        if has_tenants(connection):
            return ""
        try:
            create_tenant(connection, DEMO_TENANT, name="Demo", now_ms=now_ms)
            return create_key(connection, DEMO_TENANT, name=_KEY, now_ms=now_ms)[1]
        except StoreError as error:
            raise ConfigurationError(f"database_url: {error}") from None


def end_demo(database: Database, now_ms: int) -> None:
    """The demo key was printed where others may read it: it must not spend money at a real upstream."""
    with database.transaction() as connection:
        for key in keys(connection, DEMO_TENANT):
            if key.name == _KEY and key.revoked_ms is None and key.origin == "managed":
                revoke_key(connection, key.id, now_ms=now_ms)
