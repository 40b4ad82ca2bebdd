"""Tenants and their keys."""

from __future__ import annotations

import sqlite3

import pytest

from proxy.errors import StoreError
from proxy.model import Key, Tenant
from proxy.store import accounts, tenants
from proxy.store.database import Database
from proxy.store.tenants import create_key, create_tenant, hash_of, revoke_key, rotate_key, set_active

NOW = 1_000_000
HOUR = 3_600_000


@pytest.fixture
def acme(connection: sqlite3.Connection) -> Tenant:
    return create_tenant(connection, "acme", name="Acme Inc.", now_ms=NOW)


def finds(connection: sqlite3.Connection, secret: str) -> bool:
    return connection.execute(accounts.CALLER, (hash_of(secret.encode()),)).fetchone() is not None


def test_a_tenant_is_as_it_was_made(connection: sqlite3.Connection, acme: Tenant) -> None:
    assert acme == Tenant("acme", "Acme Inc.", "active", NOW, anchor_ms=NOW)
    assert tenants.tenant(connection, "acme") == acme
    assert create_tenant(connection, "Zed@x:y_z.1-2", now_ms=NOW).name == "Zed@x:y_z.1-2"
    assert [one.id for one in tenants.tenants(connection)] == ["Zed@x:y_z.1-2", "acme"]


def test_tenants_and_keys_can_be_read_in_parts(connection: sqlite3.Connection) -> None:
    for tenant_id in ("b", "a", "c"):
        create_tenant(connection, tenant_id, now_ms=NOW)
    assert [one.id for one in tenants.tenants(connection, after="a", limit=1)] == ["b"]
    made = [create_key(connection, of, now_ms=NOW + at)[0].id for at, of in enumerate(("c", "a", "c", "a"))]
    in_order = [made[1], made[3], made[0], made[2]]
    assert [one.id for one in tenants.keys(connection)] == in_order
    for at, after in enumerate(in_order):
        assert [one.id for one in tenants.keys(connection, after=after)] == in_order[at + 1 :]
    assert [one.id for one in tenants.keys(connection, "c", after=made[3], limit=1)] == [made[0]]


def test_the_first_tenant_makes_a_difference(connection: sqlite3.Connection) -> None:
    assert not tenants.has_tenants(connection)
    create_tenant(connection, "a", now_ms=NOW)
    assert tenants.has_tenants(connection)


def test_where_its_own_upstream_key_is_found_is_stored_and_no_key_ever(connection: sqlite3.Connection) -> None:
    made = create_tenant(connection, "acme", upstream_key="file:/run/secrets/acme", now_ms=NOW)
    assert made.upstream_key == "file:/run/secrets/acme"
    assert tenants.set_upstream_key(connection, "acme", "env:ACME_KEY").upstream_key == "env:ACME_KEY"
    for secret in ("sk-secret", "env:sk-secret", "file:secret"):
        with pytest.raises(StoreError) as caught:
            tenants.set_upstream_key(connection, "acme", secret)
        assert "secret" not in str(caught.value)
        with pytest.raises(StoreError):
            create_tenant(connection, "other", upstream_key=secret, now_ms=NOW)
    assert tenants.set_upstream_key(connection, "acme", "").upstream_key == ""
    with pytest.raises(StoreError, match="there is no tenant nobody"):
        tenants.set_upstream_key(connection, "nobody", "")


def test_an_id_is_taken_once(connection: sqlite3.Connection, acme: Tenant) -> None:
    with pytest.raises(StoreError, match="there is a tenant acme already"):
        create_tenant(connection, acme.id, now_ms=NOW)


@pytest.mark.parametrize("bad", ["", "-a", ".a", "a b", "a/b", "é", "a\n", "a\0", "x" * 129, "\ud800"])
def test_an_id_that_could_not_be_a_subject_is_refused(connection: sqlite3.Connection, bad: str) -> None:
    with pytest.raises(StoreError, match="tenant id"):
        create_tenant(connection, bad, now_ms=NOW)
    assert not tenants.has_tenants(connection)


def test_a_tenant_is_disabled_and_let_in_again(connection: sqlite3.Connection, acme: Tenant) -> None:
    assert set_active(connection, "acme", active=False).status == "disabled"
    assert set_active(connection, "acme", active=False).status == "disabled"
    assert set_active(connection, "acme", active=True) == acme


def test_what_is_unknown_is_told(connection: sqlite3.Connection) -> None:
    for attempt in (
        lambda: tenants.tenant(connection, "nobody"),
        lambda: set_active(connection, "nobody", active=False),
        lambda: create_key(connection, "nobody", now_ms=NOW),
        lambda: tenants.key(connection, "key_none"),
        lambda: revoke_key(connection, "key_none", now_ms=NOW),
        lambda: rotate_key(connection, "key_none", overlap_ms=0, now_ms=NOW),
    ):
        with pytest.raises(StoreError, match=r"there is no (tenant nobody|key key_none)"):
            attempt()


def test_a_key_is_as_it_was_made(connection: sqlite3.Connection, acme: Tenant) -> None:
    models = ("gpt-4o", "ft:x/ü")
    key, secret = create_key(
        connection, "acme", name="ci", models=models, trusted=True, expires_ms=NOW + HOUR, now_ms=NOW
    )
    assert key == Key(key.id, "acme", "ci", secret[-4:], models, True, NOW, NOW + HOUR, None)
    assert tenants.key(connection, key.id) == key
    assert key.id.startswith("key_")
    assert secret.startswith("tg_")
    assert len(secret) > 40
    assert finds(connection, secret)


def test_keys_are_never_the_same(connection: sqlite3.Connection, acme: Tenant) -> None:
    made = [create_key(connection, "acme", now_ms=NOW) for _ in range(50)]
    assert len({secret for _, secret in made}) == len({key.id for key, _ in made}) == 50


def test_keys_are_listed_all_or_of_one_tenant(connection: sqlite3.Connection, acme: Tenant) -> None:
    create_tenant(connection, "zed", now_ms=NOW)
    late, _ = create_key(connection, "acme", now_ms=NOW + 1)
    early, _ = create_key(connection, "acme", now_ms=NOW)
    other, _ = create_key(connection, "zed", now_ms=NOW)
    assert tenants.keys(connection) == [early, late, other]
    assert tenants.keys(connection, "zed") == [other]
    assert tenants.keys(connection, "nobody") == []


def test_a_key_of_ones_own_can_be_brought(connection: sqlite3.Connection, acme: Tenant) -> None:
    key, secret = create_key(connection, "acme", secret="ak_user1_abc123", now_ms=NOW)
    assert secret == "ak_user1_abc123"
    assert key.hint == "", "the end of a short key would give too much of it away"
    assert finds(connection, secret)


@pytest.mark.parametrize("bad", ["", "short", "with space", "ümlaut-key", "tab\tkey-1", "x" * 257, "line-key\n"])
def test_what_could_not_be_sent_as_a_key_is_refused(connection: sqlite3.Connection, acme: Tenant, bad: str) -> None:
    with pytest.raises(StoreError, match="imported key") as refused:
        create_key(connection, "acme", secret=bad, now_ms=NOW)
    assert not bad or bad not in str(refused.value)


def test_a_key_belongs_to_one_tenant(connection: sqlite3.Connection, acme: Tenant) -> None:
    create_tenant(connection, "zed", now_ms=NOW)
    key, _ = create_key(connection, "acme", secret="ak_user1_abc123", now_ms=NOW)
    revoke_key(connection, key.id, now_ms=NOW)
    for tenant in ("acme", "zed"):
        with pytest.raises(StoreError, match="in use already") as refused:
            create_key(connection, tenant, secret="ak_user1_abc123", now_ms=NOW)
        assert "ak_user1" not in str(refused.value)


def test_a_secret_is_stored_nowhere(database: Database, connection: sqlite3.Connection, acme: Tenant) -> None:
    _, brought = create_key(connection, "acme", secret="ak_user1_abc123", now_ms=NOW)
    key, made = create_key(connection, "acme", now_ms=NOW)
    _, rotated = rotate_key(connection, key.id, overlap_ms=0, now_ms=NOW)

    def stored() -> bytes:
        return b"".join(path.read_bytes() for path in database.path.parent.iterdir())

    for when in ("in the write-ahead log", "after a checkpoint"):
        for secret in (brought, made, rotated):
            assert hash_of(secret.encode()) in stored(), when
            assert secret.encode() not in stored(), when
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_revoked_key_is_refused_for_good(connection: sqlite3.Connection, acme: Tenant) -> None:
    key, secret = create_key(connection, "acme", now_ms=NOW)
    assert revoke_key(connection, key.id, now_ms=NOW + 5).revoked_ms == NOW + 5
    assert revoke_key(connection, key.id, now_ms=NOW + 9).revoked_ms == NOW + 5
    assert not finds(connection, secret)
    with pytest.raises(StoreError, match="revoked or expired"):
        rotate_key(connection, key.id, overlap_ms=0, now_ms=NOW + 9)


def test_rotation_keeps_the_rights_and_ends_the_old_key(connection: sqlite3.Connection, acme: Tenant) -> None:
    old, _ = create_key(
        connection, "acme", name="ci", models=["m"], trusted=True, expires_ms=NOW + 9 * HOUR, now_ms=NOW
    )
    new, secret = rotate_key(connection, old.id, overlap_ms=HOUR, now_ms=NOW + 1)
    assert (new.tenant_id, new.name, new.models, new.trusted) == ("acme", "ci", ("m",), True)
    assert (new.created_ms, new.expires_ms) == (NOW + 1, NOW + 9 * HOUR)
    assert tenants.key(connection, old.id).expires_ms == NOW + 1 + HOUR
    assert finds(connection, secret)


def test_rotation_never_lengthens_a_key(connection: sqlite3.Connection, acme: Tenant) -> None:
    old, _ = create_key(connection, "acme", expires_ms=NOW + 5, now_ms=NOW)
    new, _ = rotate_key(connection, old.id, overlap_ms=HOUR, now_ms=NOW)
    assert tenants.key(connection, old.id).expires_ms == new.expires_ms == NOW + 5
    with pytest.raises(StoreError, match="revoked or expired"):
        rotate_key(connection, old.id, overlap_ms=HOUR, now_ms=NOW + 5)


def test_a_tenant_with_keys_cannot_vanish(connection: sqlite3.Connection, acme: Tenant) -> None:
    create_key(connection, "acme", now_ms=NOW)
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        connection.execute("DELETE FROM tenants")


def test_every_change_of_tenants_and_keys_counts_the_revision_up(connection: sqlite3.Connection) -> None:
    def revision() -> int:
        number: int = connection.execute(accounts.REVISION).fetchone()[0]
        return number

    create_tenant(connection, "acme", now_ms=NOW)
    key, _ = create_key(connection, "acme", now_ms=NOW)
    for change in (
        lambda: set_active(connection, "acme", active=False),
        lambda: rotate_key(connection, key.id, overlap_ms=0, now_ms=NOW),
        lambda: revoke_key(connection, key.id, now_ms=NOW),
        lambda: connection.execute("DELETE FROM keys"),
        lambda: connection.execute("DELETE FROM tenants"),
    ):
        before = revision()
        change()
        assert revision() > before
