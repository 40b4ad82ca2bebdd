"""`POST /v1/responses`. Nothing is stored, so a `previous_response_id` adds nothing to the prompt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from proxy.upstream.sandbox.draft import Draft, answer_to, call_of, forced_tool, last_user_text, prompt_tokens
from proxy.upstream.sandbox.fields import Json, Refusal, include_usage, integer, missing, model_of, objects, streaming
from proxy.upstream.sandbox.identity import new_id, now_s
from proxy.upstream.sandbox.models import dated
from proxy.upstream.sandbox.sse import named_event

# What a response repeats of its request, with OpenAI's defaults.
_ECHOED: Json = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def responses(body: Json) -> Json | Iterator[bytes]:
    """The response, or the events of its stream."""
    model, items = model_of(body), _items(body)
    stream = streaming(body)
    if include_usage(body):
        # Every stream of this endpoint ends with its usage; there is nothing to ask for.
        name = "stream_options.include_usage"
        raise Refusal(f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    draft = _draft(body, items)
    opening = {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": now_s(),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": dated(model),
        "output": [],
        "service_tier": "default",
        "usage": None,
        **{name: default if body.get(name) is None else body[name] for name, default in _ECHOED.items()},
    }
    item = _item(draft)
    prompt = prompt_tokens(items, objects(body, "tools"))
    closing = {**opening, "status": item["status"], "output": [item], "usage": _usage(prompt, len(draft.pieces))}
    if draft.cut:
        closing["incomplete_details"] = {"reason": "max_output_tokens"}
    return _events(opening, closing, item, draft) if stream else closing


def _items(body: Json) -> list[Json]:
    """The conversation as messages and other items, the instructions first."""
    said = body.get("input")
    if said is None:
        raise missing("input")
    items = [{"role": "user", "content": said}] if isinstance(said, str) else objects(body, "input")
    if not items:
        raise Refusal("Invalid 'input': empty array.", param="input", code="empty_array")
    instructions = body.get("instructions")
    return [{"role": "developer", "content": instructions}, *items] if instructions else items


def _draft(body: Json, items: list[Json]) -> Draft:
    limit = integer(body, "max_output_tokens", None)
    tools = [tool for tool in objects(body, "tools") if tool.get("type") == "function"]
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") != "function":
        choice = None  # a hosted tool, or a set of allowed ones: the sandbox has no part in those
    tool = forced_tool(tools, choice)
    if tool is not None and items[-1].get("type") != "function_call_output":
        return call_of(tool, limit)
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    return answer_to(last_user_text(items), form if isinstance(form, dict) else {}, limit, [])


def _usage(prompt: int, completion: int) -> Json:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _item(draft: Draft) -> Json:
    """The one output item: a message, or a call of a function."""
    status = "incomplete" if draft.cut else "completed"
    if draft.tool is not None:
        call = {"id": new_id("fc_"), "type": "function_call", "status": status, "call_id": new_id("call_")}
        return {**call, "name": draft.tool, "arguments": draft.text}
    message = {"id": new_id("msg_"), "type": "message", "status": status, "role": "assistant"}
    return {**message, "content": [_part(draft.text)]}


def _part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _events(opening: Json, closing: Json, item: Json, draft: Draft) -> Iterator[bytes]:
    """The events in OpenAI's order, numbered from 0."""
    number = itertools.count()

    def event(name: str, fields: Json) -> bytes:
        return named_event({"type": name, "sequence_number": next(number), **fields})

    is_call = draft.tool is not None
    blank: Json = {"arguments": ""} if is_call else {"content": []}
    place = {"item_id": item["id"], "output_index": 0}
    yield event("response.created", {"response": opening})
    yield event("response.in_progress", {"response": opening})
    yield event("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", **blank}})
    if is_call:
        for piece in draft.pieces:
            yield event("response.function_call_arguments.delta", {**place, "delta": piece})
        done = {**place, "name": draft.tool, "arguments": draft.text}
        yield event("response.function_call_arguments.done", done)
    else:
        place = {**place, "content_index": 0}
        yield event("response.content_part.added", {**place, "part": _part("")})
        for piece in draft.pieces:
            yield event("response.output_text.delta", {**place, "delta": piece, "logprobs": []})
        yield event("response.output_text.done", {**place, "text": draft.text, "logprobs": []})
        yield event("response.content_part.done", {**place, "part": _part(draft.text)})
    yield event("response.output_item.done", {"output_index": 0, "item": item})
    yield event(f"response.{closing['status']}", {"response": closing})
