"""What the sandbox says to a conversation, and how many tokens the conversation is.

`chat` and `responses` differ in their words for messages, tools and formats, not in this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from proxy.upstream.sandbox.fields import Json, Refusal
from proxy.upstream.sandbox.schema import instance
from proxy.upstream.sandbox.text import count, pieces

ANSWER = "This is the Tollgate sandbox: a deterministic answer, made without any model."
QUOTE_CHARACTERS_MAX = 2_000  # so that a long document does not come back as an equally long stream

MESSAGE_TOKENS = 4  # each message, besides its text
PRIMING_TOKENS = 3  # each prompt
PART_TOKENS = 85  # each part that is not text; it is OpenAI's price for an image in low detail


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer: one piece per completion token.

    With `tool`, the name of a function, the pieces are the JSON of its arguments. `cut` says that the token limit,
    not the model, ended the answer.
    """

    pieces: list[str]
    cut: bool = False
    tool: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def call_of(tool: Json, tokens_max: int | None) -> Draft:
    """A call of `tool` (`{name, parameters}`) with the smallest arguments that its schema allows."""
    arguments = instance(tool.get("parameters") or {"type": "object"})
    return _cut(orjson.dumps(arguments).decode(), tokens_max, str(tool["name"]))


def answer_to(said: str, form: Json, tokens_max: int | None, stops: list[str]) -> Draft:
    """Words, or JSON if `form` (`{type, schema}`) asks for it. A text ends before the first of `stops`."""
    quote = said if len(said) <= QUOTE_CHARACTERS_MAX else said[:QUOTE_CHARACTERS_MAX] + "…"
    text = f'You said: "{quote}". {ANSWER}' if said else f"Hello. {ANSWER}"
    if form.get("type") == "json_object":
        text = orjson.dumps({"answer": text}).decode()
    elif form.get("type") == "json_schema":
        text = orjson.dumps(instance(form.get("schema"))).decode()
    for stop in stops:
        text = text.partition(stop)[0]
    return _cut(text, tokens_max)


def _cut(text: str, tokens_max: int | None, tool: str | None = None) -> Draft:
    tokens = pieces(text)
    if tokens_max is None or len(tokens) <= tokens_max:
        return Draft(tokens, tool=tool)
    return Draft(tokens[:tokens_max], cut=True, tool=tool)


def forced_tool(tools: list[Json], choice: Any) -> Json | None:
    """The function (`{name, parameters}`) that the request obliges the model to call, if it does.

    `choice` is "required" or `{"name": …}`; all else leaves the model free, and then the sandbox answers in words.
    """
    if choice != "required" and not isinstance(choice, dict):
        return None
    if not tools:
        raise Refusal("Invalid value for 'tool_choice': only allowed when 'tools' are specified.", param="tool_choice")
    functions = [tool for tool in tools if isinstance(tool.get("name"), str)]
    if choice == "required":
        return functions[0] if functions else None
    name = choice.get("name")
    for function in functions:
        if function["name"] == name:
            return function
    if name is None:
        return None
    raise Refusal(f"Tool choice '{name}' not found in 'tools' parameter.", param="tool_choice")


def last_user_text(messages: list[Json]) -> str:
    """What the user said last, without the parts that are not text."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return " ".join(text for text in _texts(message.get("content")) if text)
    return ""


def prompt_tokens(messages: list[Json], tools: list[Json]) -> int:
    """The tokens of a conversation and of the JSON of its tools."""
    tokens = PRIMING_TOKENS + sum(_message_tokens(message) for message in messages)
    return tokens + (count(orjson.dumps(tools).decode()) if tools else 0)


def _message_tokens(message: Json) -> int:
    # Chat speaks of `content` and `tool_calls`; Responses has calls as items, with `arguments`, `input` and `output`.
    tokens = MESSAGE_TOKENS
    for name in ("content", "arguments", "input", "output"):
        tokens += sum(PART_TOKENS if text is None else count(text) for text in _texts(message.get(name)))
    if calls := message.get("tool_calls"):
        tokens += count(orjson.dumps(calls).decode())
    return tokens


def _texts(content: Any) -> list[str | None]:
    """The texts of a message's content; None stands for a part of another kind."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return []
    found = [part.get("text", part.get("refusal")) if isinstance(part, dict) else None for part in content]
    return [text if isinstance(text, str) else None for text in found]
