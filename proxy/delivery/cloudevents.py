"""The events of a settlement, in the profile that a user's meters expect.

Receivers validate with a closed schema (OpenMeter v3 `MeteringEvent`): an extension attribute, a null directly under
`data` or a time without an offset makes them refuse the whole batch.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from proxy.model import Settlement
from proxy.money import dollars
from proxy.wire.models import family

#: Sent without parameters: OpenMeter's v1 API compares the header's text and refuses `; charset=utf-8`.
MEDIA_TYPE_BATCH = "application/cloudevents-batch+json"

_EPOCH = datetime(1970, 1, 1)  # naive: the `Z` is written by hand


def events_of(settlement: Settlement, source: str, profile: str = "llm_token_usage") -> list[dict[str, Any]]:
    """The CloudEvents of a settlement; their `source` and `id` together are what receivers drop repeats by.

    `llm_token_usage` is one event. `kong.llm_request` (Kong's gateway plugin) and `prompt` (OpenMeter's sample) are
    one for each kind of token that was used, perhaps none, with the ids `<request id>:<kind>`.
    """
    if profile == "llm_token_usage":
        return [_event(settlement, source, profile, settlement.id, _data(settlement))]
    return [
        # Numbers as strings: both vendors advise it, because their queues put numbers through float64.
        _event(settlement, source, profile, f"{settlement.id}:{kind}", _kind_data(settlement, kind, tokens))
        for kind, tokens in _kinds(settlement)
        if tokens
    ]


def _event(settlement: Settlement, source: str, type_: str, event_id: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": type_,
        "subject": settlement.subject,
        "time": _rfc3339(settlement.time_ms),
        "datacontenttype": "application/json",
        "data": data,
    }


def _data(settlement: Settlement) -> dict[str, Any]:
    """Every key always there, never a null. Tokens are integers, times milliseconds."""
    usage, units = settlement.usage, settlement.units
    # A request that was never answered has no model of its own: it groups with what was asked for.
    model = settlement.model or settlement.requested_model
    return {
        "total_tokens": usage.total_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "model": model,
        "endpoint": settlement.endpoint,
        "requested_model": settlement.requested_model,
        "provider": settlement.provider,
        "cached_tokens": usage.cached_input,
        "reasoning_tokens": usage.reasoning,
        "streamed": settlement.streamed,
        "status": settlement.status,
        "outcome": settlement.outcome.value,
        "usage_source": settlement.usage_source.value,
        "duration_ms": settlement.duration_ms,
        "ttft_ms": settlement.ttft_ms,
        "request_id": settlement.id,
        "upstream": settlement.upstream,
        "model_family": family(model),
        "estimator": settlement.estimator,
        "on_disconnect": settlement.on_disconnect,
        "over_limit": settlement.over_limit,
        "images": units.images,
        "audio_ms": units.audio_ms,
        "characters": units.characters,
        # A number where nothing is known, too: receivers refuse an event whose value they cannot read.
        "cost_usd": dollars(settlement.cost.pico_usd),
        "cost_state": settlement.cost.state.value,
        "service_tier": settlement.service_tier,
    }


def _kinds(settlement: Settlement) -> tuple[tuple[str, int], ...]:
    """The token kinds that OpenMeter's cost engine has prices for. They are disjoint: a SUM over all is the total."""
    usage = settlement.usage
    return (
        ("input", usage.uncached_input + usage.audio_input),
        ("cache_read", usage.cached_input),
        ("cache_write", usage.cache_write),
        ("output", usage.text_output + usage.audio_output),
        ("reasoning", usage.reasoning),
    )


def _kind_data(settlement: Settlement, kind: str, tokens: int) -> dict[str, Any]:
    model = settlement.model or settlement.requested_model
    return {
        "tokens": str(tokens),
        "provider": settlement.provider,
        "model": model,
        "type": kind,
        "model_family": family(model),
        "request_id": settlement.id,
        "usage_source": settlement.usage_source.value,
    }


def _rfc3339(time_ms: int) -> str:
    # By integers: a float of seconds would round some milliseconds away.
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds") + "Z"
