from __future__ import annotations

import openai
import pytest


def test_the_models_are_listed_and_can_be_retrieved(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    assert "gpt-4o-mini" in [model.id for model in models]
    for model in models:
        assert client.models.retrieve(model.id) == model


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/none")
    assert caught.value.code == "model_not_found"
