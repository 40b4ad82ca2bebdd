from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import pytest

from proxy.cli.instants import parse_instant
from proxy.model import Key
from proxy.store import accounts, tenants
from tests.cli.conftest import Command, clean_environment

DAY_MS = 86_400_000
ALSO_ON_A_SERVER = True
ONLY_HERE = ("test_as_a_process_the_json_is_all_there_is_on_standard_output",)


@pytest.fixture(autouse=True)
def acme(tollgate: Command) -> None:
    tollgate.done("tenants", "create", "acme")


def stored(tollgate: Command, key_id: str) -> Key:
    with closing(tollgate.database.connect()) as connection:
        return tenants.key(connection, key_id)


def caller_of(tollgate: Command, secret: str) -> Any:
    with closing(tollgate.database.connect()) as connection:
        return connection.execute(accounts.CALLER, (tenants.hash_of(secret.encode()),)).fetchone()


def test_a_key_is_stored_as_its_hash_and_its_secret_nowhere(tollgate: Command) -> None:
    made = tollgate.json("keys", "create", "acme", "--name", "laptop")
    secret = made["key"]
    assert secret.startswith("tg_")
    assert list(made)[:3] == ["id", "tenant_id", "key"]
    assert caller_of(tollgate, secret)[:2] == (made["id"], "acme")
    on_disk = tollgate.bytes_on_disk()
    assert tenants.hash_of(secret.encode()) in on_disk
    assert secret.encode() not in on_disk
    assert secret.removeprefix("tg_").encode() not in on_disk


def test_the_secret_is_shown_to_people_once_and_said_so(tollgate: Command) -> None:
    said = tollgate.done("keys", "create", "acme")
    (secret,) = (line.strip() for line in said.splitlines() if line.strip().startswith("tg_"))
    assert "shown only now" in said
    assert caller_of(tollgate, secret) is not None
    for listing in (["keys", "list"], ["keys", "list", "acme"], ["tenants", "show", "acme"], ["tenants", "list"]):
        assert secret not in tollgate.done(*listing)
        assert secret not in tollgate.done(*listing, "--json")


def test_the_rights_of_a_key_are_stored_and_listed(tollgate: Command) -> None:
    before_ms = time.time_ns() // 1_000_000
    made = tollgate.json(
        *("keys", "create", "acme", "--name", "ci", "--trusted", "--expires", "30d"),
        *("--model", "gpt-4o", "--model", "gpt-4o-mini", "--model", "gpt-4o"),
    )
    key = stored(tollgate, made["id"])
    assert (key.name, key.trusted, key.models) == ("ci", True, ("gpt-4o", "gpt-4o-mini"))
    assert key.expires_ms is not None
    assert before_ms <= key.expires_ms - 30 * DAY_MS <= time.time_ns() // 1_000_000
    (listed,) = tollgate.json("keys", "list", "acme")
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert listed["models"] == ["gpt-4o", "gpt-4o-mini"]
    assert (listed["trusted"], listed["status"], listed["hint"]) == (True, "active", made["key"][-4:])
    assert parse_instant(listed["expires_at"]) == key.expires_ms
    table = tollgate.done("keys", "list")
    assert "gpt-4o, gpt-4o-mini" in table
    assert f"tg_…{made['key'][-4:]}" in table


def test_an_expiry_may_be_an_instant(tollgate: Command) -> None:
    made = tollgate.json("keys", "create", "acme", "--expires", "2099-12-31T00:00:00Z")
    assert made["expires_at"] == "2099-12-31T00:00:00.000Z"


@pytest.mark.parametrize("expires", ["soon", "30", "2020-01-01", "0s", "999999w", "2099-12-31T00:00:00", ""])
def test_an_expiry_that_is_none_is_a_usage_error_and_makes_no_key(tollgate: Command, expires: str) -> None:
    assert "--expires" in tollgate.refused("keys", "create", "acme", "--expires", expires, code=2)
    assert tollgate.json("keys", "list") == []


def test_an_empty_model_would_allow_none_and_is_refused(tollgate: Command) -> None:
    assert "--model" in tollgate.refused("keys", "create", "acme", "--model", "", code=2)


@pytest.mark.parametrize("stdin", ["ak_user1_abc123\n", "ak_user1_abc123\r\nrest", "ak_user1_abc123"])
def test_an_own_key_is_read_from_standard_input(tollgate: Command, stdin: str) -> None:
    said = tollgate.done("keys", "create", "acme", "--import", "-", stdin=stdin)
    assert "ak_user1_abc123" not in said
    assert caller_of(tollgate, "ak_user1_abc123")[1] == "acme"
    assert b"ak_user1_abc123" not in tollgate.bytes_on_disk()
    (listed,) = tollgate.json("keys", "list")
    assert listed["hint"] == ""
    assert "imported" in tollgate.done("keys", "list")


def test_an_own_key_may_be_an_argument_and_is_used_once(tollgate: Command) -> None:
    assert tollgate.json("keys", "create", "acme", "--import", "ak_user1_abc123")["key"] == "ak_user1_abc123"
    refusal = tollgate.refused("keys", "create", "acme", "--import", "ak_user1_abc123")
    assert refusal == "this key is in use already"


@pytest.mark.parametrize("stdin", [b"", b"\n", b"short\n", b"with space\n", b"\xff" * 12, "schlüssel1\n", b"x" * 5_000])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(tollgate: Command, stdin: str | bytes) -> None:
    refusal = tollgate.refused("keys", "create", "acme", "--import", "-", stdin=stdin)
    assert refusal == "an imported key must be 8 to 256 printable ASCII characters without spaces"
    assert tollgate.json("keys", "list") == []


def test_keys_are_listed_by_tenant(tollgate: Command) -> None:
    assert "There are no keys" in tollgate.done("keys", "list")
    tollgate.done("tenants", "create", "other")
    mine, theirs = tollgate.json("keys", "create", "acme"), tollgate.json("keys", "create", "other")
    assert [key["id"] for key in tollgate.json("keys", "list")] == [mine["id"], theirs["id"]]
    assert [key["id"] for key in tollgate.json("keys", "list", "other")] == [theirs["id"]]
    for unknown in ("nobody", ""):  # an empty variable of a script is not everybody
        assert tollgate.refused("keys", "list", unknown) == f"there is no tenant {unknown}".strip()


def test_a_rotated_key_has_the_same_rights_and_the_old_one_ends_after_the_overlap(tollgate: Command) -> None:
    old = tollgate.json("keys", "create", "acme", "--model", "gpt-4o", "--trusted", "--name", "ci")
    before_ms = time.time_ns() // 1_000_000
    new = tollgate.json("keys", "rotate", old["id"])
    assert new["key"] not in (old["key"], "")
    assert (new["models"], new["trusted"], new["name"]) == (["gpt-4o"], True, "ci")
    assert (new["replaces"], new["expires_at"]) == (old["id"], None)
    until_ms = stored(tollgate, old["id"]).expires_ms
    assert until_ms is not None
    assert before_ms <= until_ms - DAY_MS <= time.time_ns() // 1_000_000
    assert parse_instant(new["replaced_expires_at"]) == until_ms
    assert caller_of(tollgate, old["key"]) is not None
    assert caller_of(tollgate, new["key"]) is not None
    assert new["key"].encode() not in tollgate.bytes_on_disk()


def test_the_overlap_may_be_nothing_and_never_makes_a_key_last_longer(tollgate: Command) -> None:
    old = tollgate.json("keys", "create", "acme", "--expires", "1h")
    new = tollgate.json("keys", "rotate", old["id"], "--overlap", "7d")
    assert new["replaced_expires_at"] == old["expires_at"]
    said = tollgate.done("keys", "rotate", old["id"], "--overlap", "0s")
    assert "shown only now" in said
    assert f"The old key {old['id']} holds until 20" in said
    assert {key["id"]: key["status"] for key in tollgate.json("keys", "list")}[old["id"]] == "expired"
    assert "revoked or expired" in tollgate.refused("keys", "rotate", old["id"])
    assert "--overlap" in tollgate.refused("keys", "rotate", new["id"], "--overlap", "a day", code=2)


def test_a_revoked_key_authenticates_nobody_and_stays_revoked_since_the_first_time(tollgate: Command) -> None:
    made = tollgate.json("keys", "create", "acme")
    revoked = tollgate.json("keys", "revoke", made["id"])
    assert revoked["status"] == "revoked"
    assert caller_of(tollgate, made["key"]) is None
    assert tollgate.json("keys", "revoke", made["id"])["revoked_at"] == revoked["revoked_at"]
    said = tollgate.done("keys", "revoke", made["id"])
    assert said.startswith(f"Key {made['id']} of tenant acme is revoked since 20")
    assert "revoked or expired" in tollgate.refused("keys", "rotate", made["id"])


@pytest.mark.parametrize("command", ["rotate", "revoke"])
def test_an_unknown_key_is_refused(tollgate: Command, command: str) -> None:
    assert tollgate.refused("keys", command, "key_0").startswith("there is no key key_0;")


def test_a_key_for_an_unknown_tenant_is_refused(tollgate: Command) -> None:
    assert tollgate.refused("keys", "create", "nobody") == "there is no tenant nobody"


def test_as_a_process_the_json_is_all_there_is_on_standard_output(tollgate: Command) -> None:
    made = tollgate.process("keys", "create", "acme", "--import", "-", "--json", input="ak_user1_abc123\n")
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["tenant_id"] == "acme"
    assert caller_of(tollgate, "ak_user1_abc123") is not None


def test_the_hash_of_a_key_is_printed_as_a_file_has_it(tollgate: Command) -> None:
    expected = tenants.hash_of(b"ak_user1_abc123").hex()
    assert tollgate.done("keys", "hash", stdin="ak_user1_abc123\n") == f'sha256 = "{expected}"\n'
    assert tollgate.json("keys", "hash", stdin="ak_user1_abc123") == {"sha256": expected}
    for bad in ("", "short", "with space in it"):
        assert "8 to 256 printable ASCII characters" in tollgate.refused("keys", "hash", stdin=bad)
    assert "unexpected" in tollgate.refused("keys", "hash", "ak_user1_abc123", code=2)


def test_a_key_to_declare_is_made_and_stored_nowhere(tollgate: Command) -> None:
    made = tollgate.json("keys", "hash", "--generate")
    assert made["sha256"] == tenants.hash_of(made["key"].encode()).hex()
    said = tollgate.done("keys", "hash", "--generate")
    (secret,) = (line.strip() for line in said.splitlines() if line.strip().startswith("tg_"))
    assert tenants.hash_of(secret.encode()).hex() in said
    assert tollgate.json("keys", "list") == []


def test_a_key_is_asked_for_where_somebody_types(tollgate: Command) -> None:
    master, slave = os.openpty()
    typing = subprocess.Popen(
        [sys.executable, "-m", "proxy", "keys", "hash"],
        cwd=tollgate.directory,
        env=clean_environment(),
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # without a terminal of its own, it prompts on standard error
    )
    try:
        assert typing.stderr is not None
        while typing.stderr.read(1) != b":":
            assert typing.poll() is None
        os.write(master, b"ak_user1_abc123\n")
        said, _ = typing.communicate(timeout=30)
        os.set_blocking(master, False)
        with pytest.raises(BlockingIOError):  # it is not shown
            os.read(master, 1)
    finally:
        typing.kill()
        typing.wait()
        os.close(slave)
        os.close(master)
    assert tenants.hash_of(b"ak_user1_abc123").hex() in said.decode()
