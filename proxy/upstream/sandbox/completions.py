"""`POST /v1/completions`, the endpoint before chat."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.upstream.sandbox.chat import CHOICES_MAX, stops_of
from proxy.upstream.sandbox.draft import Draft, answer_to
from proxy.upstream.sandbox.fields import Json, include_usage, inputs, integer, model_of, streaming
from proxy.upstream.sandbox.identity import new_id, now_s
from proxy.upstream.sandbox.models import dated
from proxy.upstream.sandbox.sse import DONE, data_event
from proxy.upstream.sandbox.text import count

PROMPTS_MAX = 2_048
TOKENS_MAX_DEFAULT = 16  # OpenAI's own: an old completion is short unless the client asks for more


def completions(body: Json) -> Json | Iterator[bytes]:
    """`n` choices for each prompt, in order, or the events of their stream."""
    model, stream = model_of(body), streaming(body)
    # OpenAI's document is the end-of-text token when there is no prompt: one token, and nothing said.
    prompts = inputs([[50_256]] if body.get("prompt") is None else body["prompt"], "prompt", PROMPTS_MAX)
    choices = integer(body, "n", 1, CHOICES_MAX) or 1
    limit = integer(body, "max_tokens", TOKENS_MAX_DEFAULT)
    drafts: list[tuple[str, Draft]] = []  # with the prompt's echo; an array of tokens has no text to echo
    for prompt in prompts:
        said = prompt if isinstance(prompt, str) else ""
        drafts += [(said if body.get("echo") is True else "", answer_to(said, {}, limit, stops_of(body)))] * choices
    usage = _usage(prompts, drafts)
    head = {"id": new_id("cmpl-"), "object": "text_completion", "created": now_s(), "model": dated(model)}
    if stream:
        return _chunks(head, drafts, usage if include_usage(body) else None)
    answers = [_choice(index, echo + draft.text, _finish(draft)) for index, (echo, draft) in enumerate(drafts)]
    return {**head, "choices": answers, "usage": usage}


def _usage(prompts: list[str | list[int]], drafts: list[tuple[str, Draft]]) -> Json:
    """In tokens. A prompt counts once however many choices it has, and its echo is free."""
    prompt = sum(count(prompt) if isinstance(prompt, str) else len(prompt) for prompt in prompts)
    completion = sum(len(draft.pieces) for _, draft in drafts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _finish(draft: Draft) -> str:
    return "length" if draft.cut else "stop"


def _choice(index: int, text: str, finish: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _chunks(head: Json, drafts: list[tuple[str, Draft]], usage: Json | None) -> Iterator[bytes]:
    tail: Json = {} if usage is None else {"usage": None}
    for index, (echo, draft) in enumerate(drafts):
        for piece in [echo, *draft.pieces] if echo else draft.pieces:
            yield data_event({**head, "choices": [_choice(index, piece, None)], **tail})
        yield data_event({**head, "choices": [_choice(index, "", _finish(draft))], **tail})
    if usage is not None:
        yield data_event({**head, "choices": [], "usage": usage})
    yield DONE
