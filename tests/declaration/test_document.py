"""What a file may declare, and how a wrong one is told."""

from __future__ import annotations

import re

import pytest

from proxy.errors import ConfigurationError, WrongDeclaration
from proxy.limits import Written
from tests.declaration.files import ACME, FIRST, NOBODY, OTHER, WITH_SECOND, declaration, digest

KEY = f'[[tenants.acme.keys]]\nsha256 = "{digest(FIRST)}"\n'


def wrong(text: str) -> WrongDeclaration:
    with pytest.raises(WrongDeclaration) as refused:
        declaration(text)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "acme" not in refused.value.place
    return refused.value


def test_everything_that_can_be_set_by_command_can_be_declared() -> None:
    found = declaration(f"{ACME}\ntrusted = true\n[tenants.zed]\ndisabled = true\nupstream_key = 'env:ZED_KEY'\n")
    starter, acme, zed = found.plans["starter"], found.tenants["acme"], found.tenants["zed"]
    assert [(one.limit, one.name, one.soft) for one in starter.limits] == [
        (Written.parse("requests/minute=60"), "requests/minute (of gpt-4o*)", True),
        (Written.parse("tokens/month=10000"), "tokens/month", False),
    ]
    assert (acme.name, acme.plan, acme.disabled, acme.upstream_key) == ("Acme", "starter", False, "")
    assert acme.period_anchor == 1_794_700_800_000
    (key,) = acme.keys
    assert (key.sha256, key.name, key.models, key.trusted) == (digest(FIRST), "ci", ["gpt-4o-mini"], True)
    assert key.expires == 4_102_358_400_000
    assert key.limits[0].limit == Written.parse("requests/day=50")
    assert (zed.name, zed.disabled, zed.upstream_key, zed.keys) == ("", True, "env:ZED_KEY", [])


@pytest.mark.parametrize(
    "written",
    ["2026-11-15", "'2026-11-15'", "2026-11-15T00:00:00Z", "2026-11-15 02:00:00+02:00", "'2026-11-15T00:00:00Z'"],
)
def test_instants_are_written_as_toml_has_them_or_in_quotes(written: str) -> None:
    found = declaration(f"[tenants.acme]\nperiod_anchor = {written}\n{KEY}expires = {written}\n").tenants["acme"]
    assert found.period_anchor == found.keys[0].expires == 1_794_700_800_000


def test_a_digest_is_of_what_is_declared_and_not_of_how_it_is_written() -> None:
    acme = declaration("[tenants.acme]\nname='x'\n[tenants.zed]\n")
    assert acme.digest == declaration("# the same\ntenants = {zed = {}, acme = {name = 'x'}}").digest
    assert acme.digest != declaration("[tenants.acme]\nname='y'\n[tenants.zed]\n").digest
    first, second = (f"[[tenants.a.keys]]\nsha256 = '{digest(secret)}'\n" for secret in (FIRST, OTHER))
    assert declaration(first + second).digest == declaration(second + first).digest
    limits = "'tokens/day=1', 'inflight=2'"
    assert (
        declaration(f"[plans.a]\nlimits = [{limits}]").digest
        == declaration(f"[plans.a]\nlimits = [{', '.join(reversed(limits.split(', ')))}]").digest
    )
    assert declaration(ACME).digest == declaration(ACME.replace(digest(FIRST), digest(FIRST).upper())).digest


def test_a_file_may_declare_nobody_or_say_nothing_of_it() -> None:
    assert declaration(NOBODY).is_given
    assert not declaration("").is_given


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tenants = 1", "tenants: must be a table"),
        ("tenants = {acme = 'x'}", "tenants.acme: must be a table"),
        ("[tenants.acme]\nnmae = 'x'", "tenants.acme.nmae: is not known. Did you mean name?"),
        ("[plans.a]\nlimit = []", "plans.a.limit: is not known. Did you mean limits?"),
        ("[tenants.'a b']", "tenants.\"a b\": tenant id 'a b': use 1 to 128 letters"),
        ("[plans.Pro]", "plans.Pro: plan 'Pro': use 1 to 64 lower-case letters"),
        ("[tenants.acme]\nplan = 'P!'", "tenants.acme.plan: plan 'P!': use"),
        ("[tenants.acme]\ndisabled = 'no'", "tenants.acme.disabled: Input should be a valid boolean"),
        ("[tenants.acme]\nname = 1", "tenants.acme.name: Input should be a valid string"),
        ("[tenants.acme]\nupstream_key = 'sk-hunter2'", "tenants.acme.upstream_key: an upstream key is named by where"),
        ("[tenants.acme]\nperiod_anchor = 'soon'", "tenants.acme.period_anchor: 'soon': write a date such as"),
        ("[tenants.acme]\nperiod_anchor = 2026-11-15T00:00:00", "tenants.acme.period_anchor: a time needs an offset"),
        ("[tenants.acme]\nperiod_anchor = 5", "tenants.acme.period_anchor: must be a date such as"),
        ("[tenants.acme]\nlimits = 'tokens/day=1'", "tenants.acme.limits: Input should be a valid list"),
        ("[tenants.acme]\nlimits = ['tokens/moth=1']", "tenants.acme.limits[0]: 'tokens/moth=1': 'moth' is no window"),
        ("[plans.a]\nlimits = ['tokens/day=1', 5]", "plans.a.limits[1]: must be text, such as"),
        ("[plans.a]\nlimits = [{}]", "plans.a.limits[0].limit: is missing"),
        ("[plans.a]\nlimits = [{limit = 7}]", "plans.a.limits[0]: must be text, such as"),
        (
            "[plans.a]\nlimits = [{limit = 'tokens/day=1', sotf = true}]",
            "limits[0].sotf: is not known. Did you mean soft?",
        ),
        (
            "[plans.a]\nlimits = [{limit = 'requests/day=1', kind = 'output'}]",
            "plans.a.limits[0]: requests has no kinds",
        ),
        ("[plans.a]\nlimits = ['tokens/day=1', 'tokens/day=2']", "plans.a.limits: tokens/day is named twice"),
        (f"{KEY}limits = ['tokens/day=1', 'bad']", "tenants.acme.keys[0].limits[1]: 'bad': write a limit as"),
        (f"[tenants.acme]\nlimits = [{', '.join(['0'] * 101)}]", "tenants.acme.limits"),
        ("[tenants.acme]\nkeys = ['tg_hunter2']", "tenants.acme.keys[0]: must be a table, with the key's sha256"),
        ("[tenants.acme]\nkeys = [{key = 'tg_hunter2'}]", "keys[0].key: a key never stands here in clear"),
        ("[tenants.acme]\nkeys = [{secret = 'tg_hunter2'}]", "keys[0].secret: a key never stands here in clear"),
        ("[[tenants.acme.keys]]\nname = 'ci'", "tenants.acme.keys[0].sha256: is missing"),
        ("[[tenants.acme.keys]]\nsha256 = 'tg_hunter2'", "keys[0].sha256: must be 64 hexadecimal digits"),
        (f"[[tenants.acme.keys]]\nsha256 = '{digest('')}'", "keys[0].sha256: is the SHA-256 of nothing at all"),
        (f"{KEY}models = ['']", "tenants.acme.keys[0].models[0]: a model's name is empty"),
        (f"{KEY}expires = '30d'", "tenants.acme.keys[0].expires: '30d': write a date such as"),
        (f"{KEY}trusted = 1", "tenants.acme.keys[0].trusted: Input should be a valid boolean"),
        (f"{KEY}{KEY}", "tenants.acme.keys[1].sha256: this is also the key at tenants.acme.keys[0].sha256"),
        (
            f"{KEY}{KEY.replace('acme', 'zed')}",
            "tenants.zed.keys[0].sha256: this is also the key at tenants.acme.keys[0]",
        ),
        ("[tenants.acme]\nis_blank = true", "tenants.acme.is_blank: is not known."),
    ],
)
def test_a_wrong_one_names_the_place_and_no_secret(text: str, words: str) -> None:
    assert words in str(wrong(text))


def test_what_is_told_to_everybody_names_nobody() -> None:
    assert wrong(f"{WITH_SECOND}nmae = 1\n[tenants.zed]\n").place == "tenants[0].keys[1]"
    assert wrong(f"[tenants.zed]\n{KEY}{KEY}").place == "tenants[1].keys[1].sha256"
    assert wrong("tenants = 1").place == "tenants"
    assert wrong("[tenants.zed]\n[tenants.'/acme']").place == "tenants[1]"


def test_it_is_a_fault_of_the_configuration() -> None:
    assert isinstance(wrong("tenants = 1"), ConfigurationError)
    assert re.fullmatch("[0-9a-f]{64}", digest(OTHER))
