"""Others that do the same job in part: measured where their commands are on the PATH."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.client import Target
from tests.bench.systems import System, running
from tests.crash.world import free_port

_MASTER_KEY = "sk-bench-master"
_LITELLM = """
model_list:
  - model_name: openai/*
    litellm_params: {{model: openai/*, api_base: "http://127.0.0.1:{upstream}/v1", api_key: sk-upstream}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""


@contextmanager
def litellm(directory: Path, upstream_port: int) -> Iterator[System]:
    """LiteLLM's proxy with one worker and a master key; no database, so no budgets and no record of spending."""
    port = free_port()
    file = directory / "litellm.yaml"
    file.write_text(_LITELLM.format(upstream=upstream_port, key=_MASTER_KEY))
    system = System(
        "litellm",
        _version("litellm"),
        "tenants, limits, durable events (no database)",
        Target(port, _MASTER_KEY, "openai/{}"),
        streams=(20, 50),
        holds=(200,),
    )
    arguments = ["litellm", "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running(system, arguments, directory, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR"):
        yield system


@contextmanager
def vllm_router(directory: Path, upstream_port: int) -> Iterator[System]:
    """A compiled Rust router for LLM servers: load balancing alone."""
    port = free_port()
    system = System("vllm-router", _version("vllm-router"), "authentication, limits, metering, events", Target(port))
    arguments = ["vllm-router", "--worker-urls", f"http://127.0.0.1:{upstream_port}"]
    arguments += ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port)]
    with running(system, arguments, directory):
        yield system


def _version(name: str) -> str:
    """As its distribution says, beside the command."""
    command = Path(shutil.which(name) or name).resolve()
    script = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run([command.with_name("python"), "-c", script], capture_output=True, text=True)
    return done.stdout.strip()
