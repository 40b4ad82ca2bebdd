"""The event of a settlement, in the profile `llm_token_usage`: what a meter on tokens expects.

Receivers validate with a closed schema (OpenMeter v3 `MeteringEvent`): an extension attribute, a null directly under
`data` or a time without an offset makes them refuse the whole batch.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from proxy.model import Settlement

#: The events' `type`, which meters select by.
TYPE = "llm_token_usage"
#: Sent without parameters: OpenMeter's v1 API compares the header's text and refuses `; charset=utf-8`.
MEDIA_TYPE_BATCH = "application/cloudevents-batch+json"

_EPOCH = datetime(1970, 1, 1)  # naive: the `Z` is written by hand


def event_of(settlement: Settlement, source: str) -> dict[str, Any]:
    """The CloudEvent of a settlement: every key always there, never a null. Tokens are integers, times milliseconds.

    `source` and the settlement's id together are what receivers drop repeats by.
    """
    usage = settlement.usage
    return {
        "specversion": "1.0",
        "id": settlement.id,
        "source": source,
        "type": TYPE,
        "subject": settlement.subject,
        "time": _rfc3339(settlement.time_ms),
        "datacontenttype": "application/json",
        "data": {
            "total_tokens": usage.total_tokens,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            # A request that was never answered has no model of its own: it groups with what was asked for.
            "model": settlement.model or settlement.requested_model,
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
        },
    }


def _rfc3339(time_ms: int) -> str:
    # By integers: a float of seconds would round some milliseconds away.
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds") + "Z"
