"""Token usage in the many shapes that OpenAI-compatible upstreams write it, read into disjoint buckets."""

from __future__ import annotations

from typing import Any

from proxy.model import Usage

#: Above this a number is noise, not a count (and would not survive the receivers' float64).
_COUNT_MAX = 2**53

_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details")
_COMPLETION_DETAILS = (
    "completion_tokens_details",
    "output_tokens_details",
    "completion_token_details",
    "output_token_details",
)
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_input_tokens")
_TOTAL = ("total_tokens",)
_AUDIO = ("audio_tokens",)
_REASONING = ("reasoning_tokens",)
#: The members of a usage that has the three sums and nothing else.
_PLAIN = 3
_CACHE_WRITE = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")

#: In Anthropic's own shape, which has no total, the cache is counted beside `input_tokens`, not within.
_BESIDE_INPUT = ("cache_read_input_tokens", "cache_creation_input_tokens")


def read(answer: dict[str, Any]) -> tuple[Usage, str] | None:
    """The usage that an answer, or one event of a stream, reports in tokens; and where in it that stood."""
    found = find(answer)
    usage = normalise(found[0]) if found is not None else None
    return None if found is None or usage is None else (usage, found[1])


def find(answer: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """The usage object of an answer or of one event of a stream, and its path: upstreams put it in many places.

    Top level (OpenAI), inside `response` (the Responses API's last event), `x_groq` (Groq), or on a choice
    (Moonshot). Other objects with token counts (`usage_breakdown`, `tool_usage`) are not what was charged.
    """
    usage = answer.get("usage")
    if usage and isinstance(usage, dict):
        return usage, "usage"
    for name in ("response", "x_groq"):
        holder = answer.get(name)
        if isinstance(holder, dict) and isinstance(usage := holder.get("usage"), dict):
            return usage, f"{name}.usage"
    choices = answer.get("choices")
    for choice in reversed(choices if isinstance(choices, list) else []):
        if isinstance(choice, dict) and isinstance(usage := choice.get("usage"), dict):
            return usage, "choices[].usage"
    return None


def normalise(raw: dict[str, Any]) -> Usage | None:
    """The buckets of a usage object, or None where it counts something other than tokens (seconds, characters).

    The total is the larger of the reported total and the sum of the parts. What the parts do not explain goes where
    the details point (reasoning outside the completion: xAI; cache or audio outside the prompt: Anthropic's shape,
    Mistral), else to reasoning (Gemini counts thinking in the total alone).
    """
    prompt, completion, total = _count(raw, _PROMPT), _count(raw, _COMPLETION), _count(raw, _TOTAL)
    if prompt is None and completion is None and total is None:
        return None
    if len(raw) == _PLAIN and prompt is not None and completion is not None and prompt + completion == total:
        return Usage(prompt, text_output=completion)
    if prompt is None:
        prompt = max(0, (total or 0) - (completion or 0))
    if completion is None:
        completion = max(0, (total or 0) - prompt)

    inputs, outputs = _details(raw, _PROMPT_DETAILS), _details(raw, _COMPLETION_DETAILS)
    cached = _within(inputs, raw, _CACHED)
    written = _within(inputs, raw, _CACHE_WRITE)
    audio_in = _count(inputs, _AUDIO) or 0
    reasoning = _within(outputs, raw, _REASONING)
    audio_out = _count(outputs, _AUDIO) or 0

    unexplained = max(0, (total or 0) - prompt - completion)
    if total is None and not raw.keys().isdisjoint(_BESIDE_INPUT):
        unexplained = cached + written
    if unexplained and unexplained == cached + written:
        prompt += unexplained
    elif unexplained and unexplained != reasoning and (unexplained == audio_in or raw.get("prompt_audio_seconds")):
        prompt += unexplained
        audio_in = max(audio_in, unexplained)
    else:
        completion += unexplained
        reasoning = max(reasoning, unexplained)

    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    audio_in = min(audio_in, prompt - cached - written)
    reasoning = min(reasoning, completion)
    audio_out = min(audio_out, completion - reasoning)
    return Usage(
        uncached_input=prompt - cached - written - audio_in,
        cached_input=cached,
        cache_write=written,
        audio_input=audio_in,
        text_output=completion - reasoning - audio_out,
        reasoning=reasoning,
        audio_output=audio_out,
    )


def _count(holder: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these members that is a count. Upstreams write null, floats and worse."""
    for name in names:
        value = holder.get(name)
        if value.__class__ is float and value.is_integer():
            value = int(value)
        if value.__class__ is int and 0 <= value <= _COUNT_MAX:
            count: int = value
            return count
    return None


def _within(details: dict[str, Any], raw: dict[str, Any], names: tuple[str, ...]) -> int:
    """What the details count, or else the usage itself."""
    count = _count(details, names) if details else None
    return (_count(raw, names) or 0) if count is None else count


def _details(raw: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    for name in names:
        value = raw.get(name)
        if value and isinstance(value, dict):
            return value
    return {}
