"""From an empty directory to an invoice, with a real server, real calls and real commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, RateLimitError
from openai.types.chat import ChatCompletionUserMessageParam
from typer.testing import CliRunner

from proxy.billing.catalog_file import parse
from proxy.cli import app
from proxy.errors import CatalogError
from tests.documents import ROOT, section
from tests.process import needs_curl, process
from tests.running import WAIT_S, Running, tollgate

SECTION = section("docs/billing.md", "Billing")
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z")


def shown(text: str) -> list[str]:
    """The lines, without what no two runs have in common."""
    return [INSTANT.sub("WHEN", line).rstrip() for line in text.splitlines() if line.strip()]


@needs_curl
def test_the_three_commands_of_the_documentation_print_what_it_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    table = re.findall(r"^```text\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    with process(tmp_path) as server:
        code = block.replace("http://localhost:8000", server.url)
        done = subprocess.run(["bash", "-ec", code], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S * 3)
    assert done.returncode == 0, done.stderr
    assert '"usage"' in (tmp_path / "answer.json").read_text()
    assert shown(done.stdout)[-len(shown(table)) :] == shown(table)


def billing(server: Running, *args: str) -> Any:
    """What `tollgate billing` prints as JSON, on the ledger of a server that runs."""
    url = f"sqlite:///{server.app.database.path}"
    done = CliRunner().invoke(app, ["billing", *args, "--json"], env={"TOLLGATE_DATABASE_URL": url})
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def cents(tokens: int, price: str) -> Fraction:
    return Fraction(floor(tokens * Fraction(price) * 100 + Fraction(1, 2)), 100)


def asked(url: str, key: str) -> list[Any]:
    """A chat, a stream and an embedding, with enough tokens to cost something: the usage of each."""
    client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    words = " ".join(map(str, range(5_000)))
    chat = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": words}])
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": words}],
        stream=True,
        stream_options={"include_usage": True},
    )
    (last,) = [chunk.usage for chunk in stream if chunk.usage]
    embedding = client.embeddings.create(model="text-embedding-3-small", input=words)
    return [chat.usage, last, embedding.usage]


def test_three_tenants_are_billed_to_the_cent(tmp_path: Path) -> None:
    plans = {"user-001": "starter", "user-002": "pro", "user-003": "by_model"}
    with tollgate(tmp_path) as server:
        done = {tenant: billing(server, "onboard", tenant, "--plan", plan) for tenant, plan in plans.items()}
        used = {tenant: asked(server.url, one["key"]) for tenant, one in done.items()}
        server.settlements(9)
        bills = {tenant: billing(server, "invoice", tenant) for tenant in plans}

    total = sum(one.total_tokens for one in used["user-001"])
    assert total > 15_000
    assert bills["user-001"]["lines"][0]["quantity"] == total
    assert Fraction(bills["user-001"]["total"]) == cents(total, "0.000002") > 0

    total = sum(one.total_tokens for one in used["user-002"])
    assert Fraction(bills["user-002"]["total"]) == 20 + cents(total - 10_000, "0.000002") > 20

    chat, stream, _ = used["user-003"]
    quantities = {line["key"]: line["quantity"] for line in bills["user-003"]["lines"]}
    assert quantities == {
        "gpt_4o_mini_input": chat.prompt_tokens,
        "gpt_4o_mini_cached": 0,
        "gpt_4o_mini_output": chat.completion_tokens,
        "gpt_4o_input": stream.prompt_tokens,
        "gpt_4o_cached": 0,
        "gpt_4o_output": stream.completion_tokens,
    }
    assert Fraction(bills["user-003"]["total"]) == sum(
        cents(tokens, price)
        for tokens, price in (
            (chat.prompt_tokens, "0.00000015"),
            (chat.completion_tokens, "0.0000006"),
            (stream.prompt_tokens, "0.0000025"),
            (stream.completion_tokens, "0.00001"),
        )
    )


def test_the_free_tier_ends_where_it_says(tmp_path: Path) -> None:
    with tollgate(tmp_path) as server:
        done = billing(server, "onboard", "user-001", "--plan", "free")
        client = OpenAI(base_url=f"{server.url}/v1", api_key=done["key"], max_retries=0)
        message: ChatCompletionUserMessageParam = {"role": "user", "content": " ".join(map(str, range(4_500)))}
        client.chat.completions.create(model="gpt-4o-mini", messages=[message], max_tokens=9)
        with pytest.raises(RateLimitError, match="tokens/period") as refused:
            client.chat.completions.create(model="gpt-4o-mini", messages=[message], max_tokens=9)
        assert refused.value.code == "insufficient_quota"
        bill = billing(server, "invoice", "user-001")
    assert 0 < bill["lines"][0]["quantity"] <= 10_000
    assert bill["total"] == "0.00"


def test_the_fault_that_is_shown_there_is_told_so() -> None:
    text = (ROOT / "config" / "billing.toml").read_text()
    with pytest.raises(CatalogError) as refused:
        parse(text.replace('amount = "0.000002" } # 2 dollars', 'amount = "2" } # 2 dollars'), "billing.toml")
    (fault,) = refused.value.faults
    assert fault in SECTION.splitlines()
