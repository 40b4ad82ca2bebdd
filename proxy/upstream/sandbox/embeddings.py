"""`POST /v1/embeddings`: unit vectors drawn from a hash of the input."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

from proxy.upstream.sandbox.fields import Json, Refusal, inputs, integer, missing, model_of
from proxy.upstream.sandbox.text import count

INPUTS_MAX = 2_048  # OpenAI's own bound
DIMENSIONS_DEFAULT = 1_536
_DIMENSIONS = {"text-embedding-3-large": 3_072}


def embeddings(body: Json) -> Json:
    """One vector per input, as numbers or as base64 of little-endian float32."""
    model = model_of(body)
    if body.get("input") is None:
        raise missing("input")
    texts = inputs(body["input"], "input", INPUTS_MAX)
    if "" in texts:
        raise Refusal("Invalid 'input': input cannot be an empty string.", param="input")
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        words = f"Invalid value: '{form}'. Supported values are: 'float' and 'base64'."
        raise Refusal(words, param="encoding_format", code="invalid_value")
    most = _DIMENSIONS.get(model, DIMENSIONS_DEFAULT)
    dimensions = integer(body, "dimensions", most, most) or most
    data = []
    for index, text in enumerate(texts):
        packed = _vector(text, dimensions)
        values = base64.b64encode(packed).decode() if form == "base64" else struct.unpack(f"<{dimensions}f", packed)
        data.append({"object": "embedding", "index": index, "embedding": values})
    tokens = sum(count(text) if isinstance(text, str) else len(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _vector(text: str | list[int], dimensions: int) -> bytes:
    """`dimensions` float32 values of length 1 together. A shorter vector is the start of the longer one, scaled."""
    digest = hashlib.shake_128(repr(text).encode("utf-8", "surrogatepass")).digest(dimensions)
    odd = [2 * byte - 255 for byte in digest]  # never zero, so that the length is not either
    length = math.sqrt(sum(value * value for value in odd))
    return struct.pack(f"<{dimensions}f", *(value / length for value in odd))
