"""`POST /v1/chat/completions`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from proxy.upstream.sandbox.draft import Draft, answer_to, call_of, forced_tool, last_user_text, prompt_tokens
from proxy.upstream.sandbox.fields import Json, Refusal, include_usage, integer, missing, model_of, objects, streaming
from proxy.upstream.sandbox.identity import new_id, now_s
from proxy.upstream.sandbox.models import dated
from proxy.upstream.sandbox.sse import DONE, data_event

CHOICES_MAX = 128  # OpenAI's own bound on `n`


def chat(body: Json) -> Json | Iterator[bytes]:
    """The completion, or the events of its stream."""
    model, messages = model_of(body), _messages(body)
    stream = streaming(body)
    choices = integer(body, "n", 1, CHOICES_MAX) or 1
    draft = _draft(body, messages)
    finish = _finish(draft, body.get("tool_choice"))
    usage = usage_of(prompt_tokens(messages, objects(body, "tools")), choices * len(draft.pieces))
    head = {"id": new_id("chatcmpl-"), "object": "chat.completion", "created": now_s(), "model": dated(model)}
    tail = {"service_tier": "default", "system_fingerprint": "fp_tollgate"}
    if stream:
        head = {**head, "object": "chat.completion.chunk", **tail}
        return _chunks(head, draft, finish, choices, usage if include_usage(body) else None)
    answers = [
        {"index": index, "message": _message(draft), "logprobs": None, "finish_reason": finish}
        for index in range(choices)
    ]
    return {**head, "choices": answers, "usage": usage, **tail}


def usage_of(prompt: int, completion: int) -> Json:
    """OpenAI's usage of a chat, in tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def stops_of(body: Json) -> list[str]:
    """The texts before which the answer ends: `stop` is a string or a list of them."""
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return [text for text in stops if isinstance(text, str) and text]


def _messages(body: Json) -> list[Json]:
    if body.get("messages") is None:
        raise missing("messages")
    messages = objects(body, "messages")
    if not messages:
        words = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise Refusal(words, param="messages", code="empty_array")
    return messages


def _draft(body: Json, messages: list[Json]) -> Draft:
    limit = integer(body, "max_completion_tokens", integer(body, "max_tokens", None))
    functions = [tool["function"] for tool in objects(body, "tools") if isinstance(tool.get("function"), dict)]
    choice = body.get("tool_choice")
    tool = forced_tool(functions, choice.get("function") if isinstance(choice, dict) else choice)
    # A client in a loop of calls keeps its tool_choice; once the tool has answered, the model sums up in words.
    if tool is not None and messages[-1].get("role") != "tool":
        return call_of(tool, limit)
    form = body.get("response_format")
    form = form if isinstance(form, dict) else {}
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return answer_to(last_user_text(messages), {"type": form.get("type"), "schema": schema}, limit, stops_of(body))


def _finish(draft: Draft, choice: Any) -> str:
    if draft.cut:
        return "length"
    # OpenAI says "stop" where the request named the function, "tool_calls" where the model picked it.
    return "tool_calls" if draft.tool and choice == "required" else "stop"


def _message(draft: Draft) -> Json:
    message: Json = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if draft.tool is None:
        return {**message, "content": draft.text}
    function = {"name": draft.tool, "arguments": draft.text}
    return {**message, "tool_calls": [{"id": new_id("call_"), "type": "function", "function": function}]}


def _chunks(head: Json, draft: Draft, finish: str, choices: int, usage: Json | None) -> Iterator[bytes]:
    """A role, the pieces and an end for each choice, piece by piece in turn; then the usage, if it was asked for."""
    tail: Json = {} if usage is None else {"usage": None}

    def chunk(index: int, delta: Json, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return data_event({**head, "choices": [choice], **tail})

    for index in range(choices):
        yield chunk(index, _first_delta(draft))
    for piece, index in itertools.product(draft.pieces, range(choices)):
        yield chunk(index, _delta(draft, piece))
    for index in range(choices):
        yield chunk(index, {}, finish)
    if usage is not None:
        yield data_event({**head, "choices": [], "usage": usage})
    yield DONE


def _first_delta(draft: Draft) -> Json:
    if draft.tool is None:
        return {"role": "assistant", "content": "", "refusal": None}
    function = {"name": draft.tool, "arguments": ""}
    call = {"index": 0, "id": new_id("call_"), "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}


def _delta(draft: Draft, piece: str) -> Json:
    if draft.tool is None:
        return {"content": piece}
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
