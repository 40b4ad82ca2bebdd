"""The recorded upstream traffic beside the checkout (`../shared/corpus`; its README says what it is)."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent / "shared" / "corpus"

#: For tests that need it.
needed = pytest.mark.skipif(not ROOT.is_dir(), reason=f"the recorded traffic is not here: {ROOT}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded exchange. `usage` is its expected usage, verbatim: spellings and gaps are the upstream's."""

    id: str
    endpoint: str
    fidelity: str
    status: int
    content_type: bytes | None
    streamed: bool
    body: bytes
    usage: dict[str, Any] | None


@cache
def exchanges() -> tuple[Exchange, ...]:
    """All of them, in the order of the files."""
    found = []
    for path in sorted(ROOT.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found += [_exchange(json.loads(line)) for line in lines]
    return tuple(found)


def _exchange(record: dict[str, Any]) -> Exchange:
    answer = record["response"]
    content_type = next((value for name, value in answer["headers"] if name.lower() == "content-type"), None)
    return Exchange(
        id=record["id"],
        endpoint=record["endpoint"],
        fidelity=record["fidelity"],
        status=answer["status"],
        content_type=None if content_type is None else content_type.encode(),
        streamed=record["streamed"],
        body=base64.b64decode(answer["body_b64"] or ""),
        usage=record["expected_usage"],
    )
