"""What differs between two answers to the same request: their ids and their times."""

from __future__ import annotations

import time
import uuid


def new_id(prefix: str) -> str:
    """A unique id as OpenAI's look: `chatcmpl-…`, `resp_…`."""
    return prefix + uuid.uuid4().hex


def now_s() -> int:
    """Unix time in whole seconds."""
    return int(time.time())
