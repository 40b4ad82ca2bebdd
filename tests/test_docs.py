"""README, docs/ and the example configuration name everything that there is."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import orjson
import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families
from typer.core import TyperGroup

from proxy.admin.operations import OPERATIONS
from proxy.agent.endpoint import ENDPOINTS as AGENT_ENDPOINTS
from proxy.cli import app as cli
from proxy.limits import Written
from proxy.model import MOVES, NO_USAGE, EventState, Outcome, Settlement, Topic, UsageSource
from proxy.payments.follow import message
from proxy.payments.invoices import Told
from proxy.settings import ECOSYSTEM_VARIABLES, known_keys
from proxy.store.limits import set_limit
from proxy.web.usage import GROUPS, PARAMETERS
from proxy.webhooks.messages import backlog_late, key_expiring, threshold_crossed
from proxy.wire.endpoints import ENDPOINTS
from tests.delivery.ledger import event_of
from tests.documents import EVERYTHING, README, ROOT
from tests.running import tollgate
from tests.webhooks.hooks import SECRET
from tests.webhooks.test_messages import KEY, STANDING

EXAMPLE = (ROOT / "config" / "tollgate.example.toml").read_text()
WEB_ROUTES = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/usage",
    "/openapi.json",
    "/docs",
)
HOOKS = ("/hooks/openmeter", "/hooks/stripe")
ADMIN_ROUTES = sorted({one.path for one in OPERATIONS})


def commands() -> list[str]:
    root = typer.main.get_command(cli)
    found = []
    assert isinstance(root, TyperGroup)
    context = typer.Context(root)
    for name in root.list_commands(context):
        inner = getattr(root.get_command(context, name), "commands", None)
        found += [f"{name} {sub}" for sub in inner] if inner else [name]
    return found


@pytest.mark.parametrize("keys", known_keys(), ids=".".join)
def test_every_setting_is_in_readme_and_in_the_example(keys: tuple[str, ...]) -> None:
    assert f"`TOLLGATE_{'__'.join(keys).upper()}`" in README
    assert re.search(rf"^# {keys[-1]} = ", EXAMPLE, re.MULTILINE)


@pytest.mark.parametrize("name", ECOSYSTEM_VARIABLES)
def test_every_variable_of_the_ecosystem_is_in_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize(
    "route", [*[one.name for one in ENDPOINTS], *AGENT_ENDPOINTS, *WEB_ROUTES, *HOOKS, *ADMIN_ROUTES]
)
def test_every_route_is_in_readme(route: str) -> None:
    assert f"{route}`" in README


@pytest.mark.parametrize("name", [*PARAMETERS, *GROUPS])
def test_every_parameter_and_group_of_usage_is_documented(name: str) -> None:
    assert f"`{name}`" in EVERYTHING


@pytest.mark.parametrize("command", commands())
def test_every_command_is_in_readme(command: str) -> None:
    assert f"tollgate {command}" in README


@pytest.mark.parametrize("word", [*Outcome, *UsageSource])
def test_every_outcome_and_source_is_in_readme(word: str) -> None:
    assert f"`{word}`" in README


@pytest.mark.parametrize("word", [*EventState, *Topic])
def test_every_state_and_topic_is_documented(word: str) -> None:
    assert f"`{word}`" in EVERYTHING


def test_every_member_of_the_event_is_in_readme() -> None:
    settlement = Settlement(
        "id", "s", "k", 0, "/", "m", "m", "p", False, 200, Outcome.COMPLETED, NO_USAGE, UsageSource.NONE, 1, 1
    )
    event = event_of(settlement, "tollgate")
    for member in (*event, *event["data"]):
        assert f'"{member}"' in README


def test_every_member_of_a_webhook_is_documented() -> None:
    paid = message(
        Told("stripe", "evt_1", Topic.INVOICE_PAID, 0, "in_1", "cus_1", "USD", (), ()), "", 0, suspended=False
    )
    for one in (threshold_crossed(STANDING, 80, 0, 0), key_expiring(KEY, 0), backlog_late(1, 0, 0, "", 0), paid):
        body = orjson.loads(one.body)
        for member in (*body, *body["data"]):
            assert f'"{member}":' in EVERYTHING


def test_every_member_of_an_answer_about_usage_is_documented(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        key = server.key()
        with server.app.database.transaction() as connection:
            set_limit(connection, "tenant", "user-001", Written.parse("tokens/month=1000"))
        asked = {"group_by": ",".join(GROUPS)}
        headers = {"x-api-key": key}
        httpx.post(f"{server.url}/api/generate", json={"prompt": "x", "max_tokens": 1}, headers=headers)
        found = httpx.get(f"{server.url}/api/usage", params=asked, headers=headers).json()
    for member in (*found, *found["totals"], *found["data"][0], *found["limits"][0]):
        assert f'"{member}"' in EVERYTHING or f"`{member}`" in EVERYTHING, member


def test_the_moves_that_are_documented_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` → `(\w+)` \| (.+?) \|$", EVERYTHING, re.MULTILINE)
    assert [(before, after, words.replace("`", "")) for before, after, words in rows] == [
        (before, after, words) for (before, after), words in MOVES.items()
    ]


def test_every_metric_is_documented(tmp_path: Path) -> None:
    declaring = {"TOLLGATE_CONFIG": str(ROOT / "config" / "tollgate.example.toml")}
    sinks = {"KONNECT_API_URL": "http://127.0.0.1:9", "TOLLGATE_WEBHOOKS__URL": "http://127.0.0.1:9"}
    with tollgate(tmp_path, TOLLGATE_WEBHOOKS__SECRET=SECRET, **sinks, **declaring) as server:
        said = httpx.get(f"{server.url}/metrics").text
    ours = {sample.name for family in text_string_to_metric_families(said) for sample in family.samples}
    named = {name for name in ours if name.startswith("tollgate_")} | {"tollgate_refusals_total"}
    assert len(named) > 15
    for name in named:
        assert f"`{name}" in EVERYTHING, name
