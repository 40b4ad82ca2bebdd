from __future__ import annotations

from typing import Any

import pytest

from proxy.upstream.sandbox.draft import ANSWER, answer_to, call_of, forced_tool, last_user_text, prompt_tokens
from proxy.upstream.sandbox.fields import Refusal


def test_the_answer_quotes_what_was_said() -> None:
    draft = answer_to("hi", {}, None, [])
    assert draft.text == f'You said: "hi". {ANSWER}'
    assert not draft.cut
    assert answer_to("", {}, None, []).text == f"Hello. {ANSWER}"


def test_a_long_message_is_quoted_in_part() -> None:
    assert len(answer_to("x" * 100_000, {}, None, []).text) < 2_200


def test_the_limit_cuts_only_an_answer_that_passes_it() -> None:
    length = len(answer_to("hi", {}, None, []).pieces)
    assert not answer_to("hi", {}, length, []).cut
    assert answer_to("hi", {}, length - 1, []).cut


def test_the_answer_ends_before_a_stop() -> None:
    assert answer_to("hi", {}, None, ["never", " This"]).text == 'You said: "hi".'


def test_a_call_has_the_smallest_arguments() -> None:
    assert call_of({"name": "f"}, None).text == "{}"
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    assert call_of({"name": "f", "parameters": schema}, None).text == '{"city":"sandbox"}'


@pytest.mark.parametrize(
    ("choice", "name"),
    [("auto", None), ("none", None), (None, None), ("required", "f"), ({"name": "g"}, "g"), ({}, None)],
)
def test_only_a_required_or_named_function_is_called(choice: Any, name: str | None) -> None:
    tool = forced_tool([{"name": "f"}, {"name": "g"}], choice)
    assert (tool and tool["name"]) == name


@pytest.mark.parametrize(("tools", "choice"), [([], "required"), ([{"name": "f"}], {"name": "g"})])
def test_a_choice_of_a_function_that_is_not_there_is_refused(tools: list[dict[str, Any]], choice: Any) -> None:
    with pytest.raises(Refusal) as caught:
        forced_tool(tools, choice)
    assert caught.value.param == "tool_choice"


def test_the_last_user_message_is_found_among_others_and_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert last_user_text(messages) == "a b"
    assert last_user_text([{"role": "system", "content": "x"}]) == ""


def test_a_prompt_counts_its_messages_texts_images_calls_and_tools() -> None:
    assert prompt_tokens([{"role": "user", "content": "hi"}], []) == 3 + 4 + 1
    assert prompt_tokens([{"role": "user", "content": [{"type": "image_url"}]}], []) == 3 + 4 + 85
    assert prompt_tokens([{"role": "assistant", "content": None}], []) == 3 + 4
    assert prompt_tokens([{"role": "assistant", "tool_calls": [{"id": "x"}]}], []) > 3 + 4
    assert prompt_tokens([{"type": "function_call_output", "output": "hi"}], []) == 3 + 4 + 1
    assert prompt_tokens([], [{"type": "function"}]) > 3
