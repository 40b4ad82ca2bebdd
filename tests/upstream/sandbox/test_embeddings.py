from __future__ import annotations

import math
from typing import Any

import openai
import pytest

from proxy.upstream.sandbox.embeddings import embeddings
from proxy.upstream.sandbox.fields import Refusal
from proxy.upstream.sandbox.text import count

SMALL = "text-embedding-3-small"


def test_base64_which_the_sdk_prefers_gives_the_same_numbers_as_float(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model=SMALL, input="Hello there")
    plain = client.embeddings.create(model=SMALL, input="Hello there", encoding_format="float")
    assert list(packed.data[0].embedding) == plain.data[0].embedding
    assert packed.usage == plain.usage
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == count("Hello there")


@pytest.mark.parametrize(
    ("model", "asked", "dimensions"),
    [(SMALL, None, 1536), ("text-embedding-3-large", None, 3072), (SMALL, 256, 256), ("other", 1, 1)],
)
async def test_a_vector_has_length_one_and_the_dimensions_that_were_asked_for(
    async_client: openai.AsyncOpenAI, model: str, asked: int | None, dimensions: int
) -> None:
    answer = await async_client.embeddings.create(model=model, input="x", dimensions=asked or openai.omit)
    vector = answer.data[0].embedding
    assert len(vector) == dimensions
    assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-4)
    assert answer.model == model


def test_inputs_keep_their_order_and_only_equal_ones_share_a_vector(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=SMALL, input=["a", "b", "a"])
    assert [item.index for item in answer.data] == [0, 1, 2]
    one, two, three = (list(item.embedding) for item in answer.data)
    assert one == three != two
    assert answer.usage.total_tokens == 3


@pytest.mark.parametrize(("tokens", "vectors", "total"), [([1, 2, 3], 1, 3), ([[1], [2, 3]], 2, 3)])
def test_arrays_of_tokens_are_counted_as_they_are(client: openai.OpenAI, tokens: Any, vectors: int, total: int) -> None:
    answer = client.embeddings.create(model=SMALL, input=tokens)
    assert (len(answer.data), answer.usage.total_tokens) == (vectors, total)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 1537}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_field_that_is_missing_or_wrong_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        embeddings({"model": SMALL, "input": "x", **change})
    assert caught.value.param == param
