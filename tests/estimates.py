"""How far estimates are from what upstreams reported, on the recorded traffic: `python -m tests.estimates`."""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

from proxy.model import Usage
from proxy.wire import usage as usage_shapes
from proxy.wire.delivered import Delivered
from proxy.wire.prompt import input_tokens
from proxy.wire.sse import Splitter, data_of
from proxy.wire.tokens import ByBytes, Tokenizer, tokenizer_for
from tests import corpus

ENDPOINTS = ("chat/completions", "completions", "responses", "embeddings")
EVENT_BYTES_MAX = 1 << 24


@dataclass(frozen=True, slots=True)
class Estimated:
    """One exchange: what was estimated of it, and what was reported. `asked`: its request is the one that was sent."""

    id: str
    provider: str
    endpoint: str
    model: str
    estimate: Usage
    reported: Usage
    asked: bool

    def error(self, part: str) -> float | None:
        """Of `prompt_tokens`, `completion_tokens` or `total_tokens`, relative to the reported.

        None if that is 0, or if the request that it depends on was not recorded.
        """
        if not self.asked and part != "completion_tokens":
            return None
        reported: int = getattr(self.reported, part)
        estimate: int = getattr(self.estimate, part)
        return abs(estimate - reported) / reported if reported else None


@cache
def records() -> tuple[dict[str, Any], ...]:
    """The records whose request is kept, as JSON, and whose upstream reported tokens."""
    found = []
    for path in sorted(corpus.ROOT.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                if record["endpoint"] in ENDPOINTS and record["expected_usage"] and record["request"].get("body"):
                    record["request"]["body"] = json.loads(record["request"]["body"])
                    found.append(record)
    return tuple(found)


def documents(body: bytes) -> Iterator[dict[str, Any]]:
    """The answer, or each event of the stream."""
    try:
        texts = [json.loads(body)]
    except ValueError:
        splitter = Splitter(EVENT_BYTES_MAX)
        texts = []
        for raw, _ in [*splitter.feed(body), *splitter.flush()]:
            try:
                texts.append(json.loads(data_of(raw)))
            except ValueError:
                continue
    yield from (one for one in texts if isinstance(one, dict))


def estimated(record: dict[str, Any], choose: Callable[[str], Tokenizer]) -> Estimated | None:
    """Of a record, as if its upstream had reported nothing; None where what was reported are no tokens, or none."""
    request, delivered = record["request"]["body"], Delivered()
    for document in documents(base64.b64decode(record["response"]["body_b64"] or "")):
        delivered.add(document)
    reported = usage_shapes.normalise(record["expected_usage"])
    if reported is None or not reported.total_tokens:
        return None
    model = str(request.get("model") or "")
    tokenizer = choose(model)
    output = delivered.tokens(tokenizer, model)
    return Estimated(
        id=record["id"],
        provider=record["provider"],
        endpoint=record["endpoint"],
        model=model,
        estimate=Usage(
            uncached_input=input_tokens(f"/v1/{record['endpoint']}", request, tokenizer),
            text_output=output.text_output,
            reasoning=output.reasoning,
        ),
        reported=reported,
        asked=not record["request"].get("synthetic"),
    )


def all_estimated(choose: Callable[[str], Tokenizer]) -> list[Estimated]:
    return [one for record in records() if (one := estimated(record, choose)) is not None]


def by_bytes(model: str) -> Tokenizer:
    return ByBytes()


def errors(estimates: list[Estimated], part: str) -> list[float]:
    return [error for one in estimates if (error := one.error(part)) is not None]


def line(name: str, estimates: list[Estimated]) -> str:
    cells = [f"{name:34}", f"{len(estimates):4}"]
    for part in ("prompt_tokens", "completion_tokens", "total_tokens"):
        found = errors(estimates, part)
        cells += [f"{median(found):7.1%}", f"{max(found):8.0%}"] if found else ["      –", "       –"]
    return " | ".join(cells)


def table(choose: Callable[[str], Tokenizer]) -> Iterator[str]:
    """Median and worst relative error of input, output and total: per provider and endpoint, and overall."""
    found = all_estimated(choose)
    yield f"{'':34} |    n | input: median, worst | output: median, worst | total: median, worst"
    for provider in sorted({one.provider for one in found}):
        yield line(provider, [one for one in found if one.provider == provider])
    for endpoint in ENDPOINTS:
        yield line(f"all: {endpoint}", [one for one in found if one.endpoint == endpoint])
    yield line("all", found)
    visible = [one for one in found if not one.reported.reasoning]
    yield line("all that did not reason", visible)
    shown = [one for one in found if not one.reported.reasoning or one.estimate.reasoning]
    yield line("all but with hidden reasoning", shown)


def worst(choose: Callable[[str], Tokenizer], provider: str, part: str, count: int) -> Iterator[str]:
    found = [one for one in all_estimated(choose) if one.provider == provider or provider == "all"]
    for one in sorted(found, key=lambda one: -(one.error(part) or 0))[:count]:
        yield f"{one.error(part) or 0:7.1%} {one.id} {one.model} estimated {one.estimate} reported {one.reported}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.estimates", description=__doc__)
    parser.add_argument("--worst", metavar="PROVIDER", help="list the worst of a provider, or of all, instead")
    parser.add_argument(
        "--part", default="prompt_tokens", choices=["prompt_tokens", "completion_tokens", "total_tokens"]
    )
    parser.add_argument("--count", default=20, type=int)
    asked = parser.parse_args()
    for name, choose in (("vocabularies of bpe-openai", tokenizer_for), ("bytes/4", by_bytes)):
        print(f"\n{name}\n")
        lines = worst(choose, asked.worst, asked.part, asked.count) if asked.worst else table(choose)
        print("\n".join(lines))


if __name__ == "__main__":
    main()
