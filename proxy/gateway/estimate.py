"""Estimates, where the upstream reported nothing: the input from what was asked, the output from what was delivered."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson

from proxy.gateway.call import Call
from proxy.gateway.reading import Reading
from proxy.model import UsageSource
from proxy.wire.delivered import Delivered
from proxy.wire.prompt import input_tokens
from proxy.wire.tokens import tokenizer_for


async def estimate(call: Call, reading: Reading, delivered: Delivered) -> tuple[Reading, str]:
    """The reading with estimated usage, and the estimator's name. Counts in a thread: it may load a vocabulary."""
    return await asyncio.to_thread(_estimate, call, reading, delivered)


def _estimate(call: Call, reading: Reading, delivered: Delivered) -> tuple[Reading, str]:
    model = reading.model or call.model
    tokenizer = tokenizer_for(model)
    try:
        body = orjson.loads(call.body or b"{}")
    except orjson.JSONDecodeError:
        body = {}
    asked = input_tokens(call.rule.name, body, tokenizer) if isinstance(body, dict) else 0
    usage = replace(delivered.tokens(tokenizer, model), uncached_input=asked)
    return replace(reading, usage=usage, usage_source=UsageSource.ESTIMATED), tokenizer.name
