"""What settings may be, where that takes more than a type. Each raises `ValueError`, worded for the user."""

from __future__ import annotations

import base64
from collections.abc import Iterable

#: What Standard Webhooks demands of a secret.
_SECRET_BYTES_MIN = 24
_SECRET_BYTES_MAX = 64
#: Of a soft limit more than all of it may be used.
_PERCENT_MAX = 1000


def check_webhook_secrets(secrets: str) -> None:
    """As Standard Webhooks has it: `whsec_`, and 24 to 64 bytes in base64. Of several, with spaces, each."""
    for secret in secrets.split() or [""]:
        kind, _, encoded = secret.partition("_")
        try:
            size = len(base64.b64decode(encoded, validate=True)) if kind == "whsec" else 0
        except ValueError:
            size = 0  # its words may quote the secret
        if not _SECRET_BYTES_MIN <= size <= _SECRET_BYTES_MAX:
            raise ValueError(
                'must be whsec_ and 24 to 64 bytes in base64; make one with: echo "whsec_$(openssl rand -base64 32)"'
            )


def percentages(listed: object) -> tuple[int, ...]:
    """Whole percentages, in order, each once."""
    try:
        numbers = {int(str(one)) for one in listed} if isinstance(listed, Iterable) else {0}
    except ValueError:
        numbers = {0}
    if not all(1 <= number <= _PERCENT_MAX for number in numbers):
        raise ValueError(f"must be whole percentages from 1 to {_PERCENT_MAX}, such as 80,100")
    return tuple(sorted(numbers))
