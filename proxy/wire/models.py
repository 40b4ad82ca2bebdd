"""Names of models: `gpt-4o-mini-2024-07-18` is a dated release of `gpt-4o-mini`."""

from __future__ import annotations

import re

#: -YYYY-MM-DD, -YYYYMMDD or @YYYYMMDD, which OpenMeter's price list cuts off as well; and OpenAI's old -MMDD.
_DATE = re.compile(r"(?:[-@](?:19|20)\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01]))$")
_OLD_OPENAI = re.compile(r"^(gpt-(?:3\.5-turbo|4)(?:-[a-z0-9]+)*?)-(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$")


def family(model: str) -> str:
    """The name without its date, which prices and meters can go by; other names as they are."""
    undated = _DATE.sub("", model)
    return _OLD_OPENAI.sub(r"\1", undated)
