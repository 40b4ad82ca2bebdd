"""How much output a request allows its upstream to make: what may be reserved for it before it is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.model import frozen

#: What /v1/completions makes where nobody says more (its reference).
_COMPLETION_TOKENS = 16
_CHOICES_MAX = 2_048  # prompts in one request, and choices of one, as OpenAI bounds them at most


@frozen
class Output:
    """Output tokens of each choice at most, None where the request sets no maximum, and how many choices."""

    each: int | None
    choices: int = 1


NO_OUTPUT = Output(0)


def output_of(endpoint: str, body: Mapping[str, Any]) -> Output:
    """What the body of a request to `endpoint` allows. Takes any JSON without raising."""
    match endpoint:
        case "/v1/chat/completions":
            given = [_count(body.get(name)) for name in ("max_completion_tokens", "max_tokens")]
            return Output(max((one for one in given if one is not None), default=None), _choices(body.get("n")))
        case "/v1/completions":
            each = _count(body.get("max_tokens"))
            choices = max(_choices(body.get("n")), _choices(body.get("best_of"))) * _prompts(body.get("prompt"))
            return Output(_COMPLETION_TOKENS if each is None else each, choices)
        case "/v1/responses" | "/v1/responses/compact":
            return Output(_count(body.get("max_output_tokens")))
    return NO_OUTPUT


def limit_field(endpoint: str, of_chat: str) -> str:
    """The member that sets a maximum; upstreams differ in what they call it for chat completions (`of_chat`)."""
    return of_chat if endpoint == "/v1/chat/completions" else "max_output_tokens"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _choices(value: Any) -> int:
    return min(_CHOICES_MAX, max(1, _count(value) or 1))


def _prompts(value: Any) -> int:
    """A list of texts, or of lists of token ids, is so many prompts; one list of token ids is one."""
    return max(1, len(value)) if isinstance(value, list) and value and not isinstance(value[0], int) else 1
