from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.prompt import input_tokens
from proxy.wire.tokens import ByBytes

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
COMPLETIONS, EMBEDDINGS, MODERATIONS = "/v1/completions", "/v1/embeddings", "/v1/moderations"
ENDPOINTS = (CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS, MODERATIONS)


class Words:
    """A token per word, so that a test can be counted by eye."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.replace(":", " ").split())


def words(endpoint: str, **body: Any) -> int:
    return input_tokens(endpoint, body, Words())


def one(message: dict[str, Any], **more: Any) -> int:
    """What a message counts without what stands around every prompt."""
    return words(CHAT, messages=[message], **more) - 3


def test_a_message_counts_three_its_role_and_its_words() -> None:
    assert words(CHAT, messages=[]) == 3
    assert one({"role": "user", "content": "one two three"}) == 3 + 1 + 3
    assert one({"role": "user", "name": "ann", "content": "one"}) == 3 + 1 + 2 + 1
    assert one({"role": "user", "content": [{"type": "text", "text": "one two"}, {"type": "text", "text": "x"}]}) == 7
    assert one({"role": "assistant", "content": None, "refusal": "no way"}) == 6


def test_an_example_with_known_count() -> None:
    # Recorded with gpt-4o: 15 tokens.
    class Known:
        name = "known"

        def count(self, text: str) -> int:
            return {"user": 1, "What is 2 + 2?": 8}[text]

    assert input_tokens(RESPONSES, {"model": "gpt-4o", "input": "What is 2 + 2?"}, Known()) == 15


def test_a_call_in_the_history_counts_its_name_and_arguments() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{ a }"}}
    assert one({"role": "assistant", "content": None, "tool_calls": [call, call]}) == 4 + 2 * (3 + 1 + 3)
    assert one({"role": "assistant", "function_call": {"name": "f", "arguments": "x y"}}) == 4 + 3 + 1 + 2
    custom = {"type": "custom", "custom": {"name": "f", "input": "x y"}}
    assert one({"role": "assistant", "tool_calls": [custom]}) == 4 + 3 + 1 + 2
    assert one({"role": "tool", "tool_call_id": "call_1", "content": "fine"}) == 5


FUNCTION = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Which city."},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
    },
}
#: 7 + "weather:Tells the weather", 3 for its properties, 3 + "city:string:Which city", 3 - 3 + 2 * (3 + 1) +
#: "unit:string:".
FUNCTION_TOKENS = 7 + 4 + 3 + 3 + 4 + 3 - 3 + 8 + 2


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, {"tools": [{"type": "function", "function": FUNCTION}]}),
        (CHAT, {"functions": [FUNCTION]}),
        (RESPONSES, {"tools": [{"type": "function", **FUNCTION}]}),
        (RESPONSES, {"tools": [{"type": "namespace", "name": "n", "tools": [FUNCTION]}]}),
        (RESPONSES, {"tools": [{"type": "web_search"}, {"type": "function", **FUNCTION}]}),
    ],
)
def test_a_tool_counts_as_published(endpoint: str, body: dict[str, Any]) -> None:
    assert words(endpoint, **body) == 3 + FUNCTION_TOKENS + 12


def test_nested_properties_count_by_the_same_rule() -> None:
    inner = {"type": "object", "properties": {"deep": {"type": "string"}}}
    nested = {"name": "f", "parameters": {"properties": {"list": {"type": "array", "items": inner}}}}
    assert words(CHAT, functions=[nested]) == 3 + 12 + (7 + 1) + 3 + (3 + 2) + 3 + (3 + 2)


def test_no_tools_count_nothing() -> None:
    assert words(CHAT, tools=[]) == words(CHAT, tools=[{"type": "web_search"}]) == 3


def test_a_schema_for_the_answer_counts_as_json() -> None:
    schema = {"type": "object", "title": "a b c"}
    chat = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    counted = len(b'{"type":"object","title":"a b c"}'.replace(b":", b" ").split())
    assert words(CHAT, response_format=chat) == 3 + counted
    assert words(RESPONSES, text={"format": {"type": "json_schema", "name": "x", "schema": schema}}) == 3 + counted
    assert words(CHAT, response_format={"type": "json_object"}) == 3


def test_an_image_is_never_counted_as_text() -> None:
    url = "data:image/png;base64," + "A " * 1000
    low = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    assert one({"role": "user", "content": [low]}, model="openai/gpt-4o") == 4 + 85
    high = {"type": "image_url", "image_url": {"url": url}}
    assert one({"role": "user", "content": [high]}, model="gpt-4o") == 4 + 765
    item = {"role": "user", "content": [{"type": "input_image", "image_url": url, "detail": "low"}]}
    assert words(RESPONSES, model="gpt-4o", input=[item]) == 3 + 4 + 85
    output = {"type": "function_call_output", "output": [{"type": "input_image", "image_url": url, "detail": "low"}]}
    assert words(RESPONSES, model="gpt-4o", input=[output]) == 3 + 3 + 85


def test_audio_and_files_count_by_their_rules() -> None:
    audio = {"type": "input_audio", "input_audio": {"data": "A" * 64_000, "format": "mp3"}}
    assert one({"role": "user", "content": [audio]}) == 4 + 30
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    assert one({"role": "user", "content": [pdf]}) == 4 + 765
    text = {"type": "input_file", "file_data": "data:text/plain;base64,b25lIHR3bw=="}
    assert words(RESPONSES, input=[{"role": "user", "content": [text]}]) == 3 + 4 + 2
    assert one({"role": "user", "content": [{"type": "file", "file": "one two three"}]}) == 4 + 3
    assert one({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}) == 4 + 765


def test_a_responses_input_counts_its_items_and_instructions() -> None:
    assert words(RESPONSES, input="one two") == words(RESPONSES, input=[{"role": "user", "content": "one two"}]) == 9
    assert words(RESPONSES, input="one", instructions="be kind") == 3 + 5 + 6
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{ }"}
    given_back = {"type": "function_call_output", "call_id": "c", "output": "it rains"}
    assert words(RESPONSES, input=[call, given_back]) == 3 + (3 + 1 + 2) + (3 + 2)


def test_reasoning_counts_within_its_turn_and_not_after_the_next_question() -> None:
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAA" + "x" * 2994}
    question = {"role": "user", "content": "why"}
    within = words(RESPONSES, input=[question, thought])
    assert within == 3 + 5 + round(2000 / 6.2)
    assert words(RESPONSES, input=[question, thought, question]) == 3 + 5 + 5


def test_the_thoughts_of_an_earlier_answer_are_left_out() -> None:
    assert one({"role": "assistant", "content": "<think>a b c</think>one two"}) == 6
    assert one({"role": "user", "content": "<think>a b c</think>one two"}) == 8


def test_gpt_oss_has_its_published_system_message() -> None:
    assert words(CHAT, model="openai/gpt-oss-120b", messages=[]) == 3 + 64


@pytest.mark.parametrize("endpoint", [COMPLETIONS, EMBEDDINGS, MODERATIONS])
def test_prompts_count_as_texts_or_token_ids(endpoint: str) -> None:
    name = "prompt" if endpoint == COMPLETIONS else "input"
    for value, count in [("one two", 2), (["one", "two three"], 3), ([5, 6, 7], 3), ([[5, 6], [7]], 3), (None, 0)]:
        assert words(endpoint, **{name: value}) == count


def test_the_rest() -> None:
    assert words(COMPLETIONS, prompt="one", suffix="two three") == 3
    parts = [{"type": "text", "text": "one two"}, {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}]
    assert words(MODERATIONS, input=parts) == 2 + 85
    assert words("/v1/models", input="one") == 0


NAMES = st.sampled_from(
    [
        *("messages", "input", "prompt", "tools", "functions", "content", "role", "type", "text", "image_url", "url"),
        *("function", "parameters", "properties", "items", "enum", "name", "description", "tool_calls", "arguments"),
        *("file", "file_data", "input_audio", "data", "output", "summary", "encrypted_content", "instructions"),
        *("response_format", "json_schema", "schema", "format", "detail", "model", "thinking", "suffix"),
    ]
)
TEXTS = st.text(max_size=5) | st.sampled_from(["user", "image_url", "input_audio", "file", "thinking", "json_schema"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just(2**70)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5))


@given(st.sampled_from(ENDPOINTS), st.dictionaries(NAMES, JSON, max_size=6))
def test_no_body_raises(endpoint: str, body: dict[str, Any]) -> None:
    assert input_tokens(endpoint, body, ByBytes()) >= 0


MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()}), max_size=4)


@given(MESSAGES, MESSAGES)
def test_messages_add_up(some: list[Any], more: list[Any]) -> None:
    assert words(CHAT, messages=some + more) == words(CHAT, messages=some) + words(CHAT, messages=more) - 3


class Counting:
    """Says how much text it was given in all."""

    name = "counting"

    def __init__(self) -> None:
        self.seen = 0

    def count(self, text: str) -> int:
        self.seen += len(text)
        return 0


def nested(kind: str, depth: int) -> dict[str, Any]:
    """A body that nests `depth` deep where the rules follow, with four letters at each level."""
    value: Any = {}
    for _ in range(depth):
        match kind:
            case "lists":
                value = ["text", value]
            case "thinking":
                value = {"type": "thinking", "thinking": [value, {"type": "text", "text": "text"}]}
            case "tools":
                value = {"name": "text", "tools": [value, {"name": "text"}]}
            case "properties":
                value = {"description": "text", "properties": {"text": value}}
            case "items":
                value = {"description": "text", "items": value, "enum": ["text"]}
            case _:
                value = {"text": value}
    message = {"role": "user", "content": [value], "tool_calls": [{"function": {"arguments": value}}]}
    tool = {"name": "text", "parameters": value}
    schema = {"type": "json_schema", "schema": value, "json_schema": {"schema": value}}
    return {
        "messages": [message],
        "input": [message, value],
        "prompt": value,
        "tools": [value, tool],
        "response_format": schema,
        "text": {"format": schema},
    }


@pytest.mark.parametrize("kind", ["lists", "thinking", "tools", "properties", "items", "objects"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_deep_nesting_neither_raises_nor_is_read_over_and_over(endpoint: str, kind: str) -> None:
    depth = 20_000
    tokenizer = Counting()
    input_tokens(endpoint, nested(kind, depth), tokenizer)
    assert tokenizer.seen < 5 * 20 * depth  # it stands in five places
