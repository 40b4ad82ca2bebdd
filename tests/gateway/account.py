"""An upstream account that all share, and that has no manners: it hands out whatever it is asked for.

It keeps what its users make (responses, conversations, items) and what was there before (a file). Whatever id of these
it sees in a request, its content is in the answer; and where it is asked for anything else, all of it is.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any

import orjson

from tests.scripted import Peer, Request, answer
from tests.streams import SSE_HEAD, chunk, event

JSON = "content-type: application/json"


class Account:
    """The script of a `ScriptedUpstream`. `go_on` holds back the ends of streams, and of background responses."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.contents: dict[str, str] = {}
        self.go_on = threading.Event()
        self.go_on.set()
        self.file = self.make("file", "the file of somebody else")

    def make(self, kind: str, content: str) -> str:
        """Something new, and its id."""
        with self._lock:
            made = f"{kind}-{next(self._numbers):048x}" if kind == "file" else f"{kind}_{next(self._numbers):048x}"
            self.contents[made] = content
            return made

    def __call__(self, peer: Peer) -> None:
        while True:
            request = peer.request()
            body = _object(request.body)
            path = request.target.partition("?")[0]
            if (request.method, path) == ("POST", "/v1/responses"):
                self._respond(peer, request, body)
            else:
                status, document = self._answer(request, path, body)
                peer.send(answer(orjson.dumps(document), JSON, status=status))

    def _named_by(self, request: Request) -> str:
        """The content of all that a request names, wherever the id stands."""
        text = request.target + orjson.dumps(_object(request.body)).decode() + request.body.decode("latin-1")
        return " ".join(content for known, content in list(self.contents.items()) if known in text)

    def _respond(self, peer: Peer, request: Request, body: dict[str, Any]) -> None:
        text = f"{body.get('input')} {self._named_by(request)}"
        done: dict[str, Any] = {
            "id": self.make("resp", text),
            "object": "response",
            "status": "completed",
            "model": "gpt-4o",
            "background": bool(body.get("background")),
            "conversation": _conversation(body.get("conversation")),
            "output": [
                {"id": self.make("rs", text), "type": "reasoning", "summary": []},
                {"id": self.make("ci", text), "type": "code_interpreter_call", "container_id": self.make("cntr", text)},
                {"id": self.make("msg", text), "type": "message", "content": [{"type": "output_text", "text": text}]},
            ],
            "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
        }
        if not body.get("stream"):
            begun = done | {"status": "queued", "output": [], "usage": None}
            peer.send(answer(orjson.dumps(begun if body.get("background") else done), JSON))
            return
        peer.send(SSE_HEAD)
        begun = done | {"status": "in_progress", "output": []}
        peer.send(chunk(event({"type": "response.created", "response": begun})))
        for item in done["output"]:
            peer.send(chunk(event({"type": "response.output_item.added", "item": item})))
        peer.wait(self.go_on)
        peer.send(chunk(event({"type": "response.completed", "response": done})) + chunk(b""))

    def _answer(self, request: Request, path: str, body: dict[str, Any]) -> tuple[str, Any]:
        if (request.method, path) == ("POST", "/v1/conversations"):
            text = str(body.get("metadata"))
            return "200 OK", {"id": self.make("conv", text), "object": "conversation", "metadata": text}
        named = [part for part in path.split("/") if part in self.contents]
        if request.method == "DELETE" and named and path.endswith(named[-1]):
            content = self.contents.pop(named[-1])
            return "200 OK", {"id": named[0], "deleted": True, "content": content}
        if path.endswith("items"):
            item = {
                "id": self.make("msg", self._named_by(request)),
                "type": "message",
                "content": self._named_by(request),
            }
            return "200 OK", {"object": "list", "data": [item]}
        if path.startswith(("/v1/responses/resp_", "/v1/conversations/")):
            if not named:
                return "404 Not Found", {"error": {"message": "not found"}}
            ended = "completed" if self.go_on.is_set() else "in_progress"
            usage = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8} if self.go_on.is_set() else None
            return "200 OK", {"id": named[0], "status": ended, "usage": usage, "content": self._named_by(request)}
        if path.startswith("/v1/models"):
            return "200 OK", {"object": "list", "data": [{"id": "gpt-4o"}]}
        if path in _GENERATING:
            return "200 OK", {"id": "made_1", "object": "made", "content": self._named_by(request)}
        return "200 OK", {
            "object": "list",
            "data": [{"id": known, "content": text} for known, text in self.contents.items()],
        }


_GENERATING = {
    f"/v1/{path}"
    for path in (
        *(
            "chat/completions",
            "completions",
            "responses/compact",
            "responses/input_tokens",
            "embeddings",
            "moderations",
        ),
        *("images/generations", "images/edits", "images/variations"),
        *("audio/speech", "audio/transcriptions", "audio/translations"),
    )
}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _conversation(named: Any) -> dict[str, Any] | None:
    return {"id": named["id"] if isinstance(named, dict) else named} if named else None
