"""What OpenMeter v3 checks a batch against before it takes any of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

EXCERPT = Path(__file__).with_name("openmeter-v3-events.yaml")

_BATCH = "/paths/~1openmeter~1events/post/requestBody/content/application~1cloudevents-batch+json/schema"
_ROOT = "urn:openmeter-v3"


def load(path: Path) -> dict[str, Any]:
    # The C loader: the whole document is half a megabyte.
    document: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return document


def faults(batch: object) -> list[str]:
    """What the receiver would refuse a batch for; empty for one that it takes."""
    found = [f"{fault.json_path}: {fault.message}" for fault in _validator().iter_errors(batch)]
    if found or not isinstance(batch, list):
        return found
    # OpenAPI 3.0 knows null only where `nullable` says so, and under `data` nothing does.
    return [
        f"$[{index}].data.{key}: Value is not nullable"
        for index, event in enumerate(batch)
        for key, value in (event.get("data") or {}).items()
        if value is None
    ]


@cache
def _validator() -> Draft202012Validator:
    document = DRAFT202012.create_resource(load(EXCERPT))
    registry: Registry[Any] = Registry().with_resource(_ROOT, document)
    return Draft202012Validator({"$ref": f"{_ROOT}#{_BATCH}"}, registry=registry, format_checker=FormatChecker())
