"""`GET /v1/models`, and the dated names under which models answer."""

from __future__ import annotations

from proxy.upstream.sandbox.fields import Json, Refusal

# The names and the Unix times of creation are those of OpenAI's own list.
_CREATED_S = {
    "gpt-4o": 1715367049,
    "gpt-4o-mini": 1721172741,
    "gpt-4.1-mini": 1744318173,
    "o4-mini": 1744225351,
    "text-embedding-3-small": 1705948997,
    "text-embedding-3-large": 1705953180,
    "gpt-3.5-turbo-instruct": 1692901427,
}
_DATED = {"gpt-4o": "gpt-4o-2024-08-06", "gpt-4o-mini": "gpt-4o-mini-2024-07-18"}


def dated(model: str) -> str:
    """The name that stands in the answer. An unknown model keeps its name: people try any."""
    return _DATED.get(model, model)


def list_models() -> Json:
    return {"object": "list", "data": [retrieve_model(model) for model in _CREATED_S]}


def retrieve_model(model: str) -> Json:
    if model not in _CREATED_S:
        raise Refusal(f"The model '{model}' does not exist", param="model", code="model_not_found", status=404)
    return {"id": model, "object": "model", "created": _CREATED_S[model], "owned_by": "system"}
