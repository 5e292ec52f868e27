"""Turns as Ollama's chat: lines of JSON, whole calls, arguments as objects."""

import json
import time
from collections.abc import Iterator

from tests.adapters.assistants.scripted.script import (
    Body,
    Break,
    CallTool,
    Cut,
    Fail,
    Refuse,
    Request,
    Say,
    Think,
    Turn,
    Usage,
    Wait,
)

_CREATED = "2026-01-01T00:00:00Z"


def stream(request: Request, turn: Turn) -> Iterator[bytes | Wait | Cut]:
    """Yield the lines of a streamed answer."""
    for part in turn.parts:
        match part:
            case str() | Say() | Refuse():
                _mark(request)
                text = part if isinstance(part, str) else part.text
                yield _line(request, {"role": "assistant", "content": text})
            case Think():
                yield _line(request, {"role": "assistant", "content": "", "thinking": part.text})
            case CallTool():
                _mark(request)
                calls = [_to_call(part)]
                yield _line(request, {"role": "assistant", "content": "", "tool_calls": calls})
            case Break():
                yield json.dumps({"error": part.message}).encode() + b"\n"
                return
            case _:
                yield part
    yield _line(request, {"role": "assistant", "content": ""}, **_end(turn))


def to_body(request: Request, turn: Turn) -> Body:
    """Return the body of a plain answer."""
    message: Body = {"role": "assistant", "content": turn.text}
    if turn.calls:
        message["tool_calls"] = [_to_call(call) for call in turn.calls]
    return {"model": request.model, "created_at": _CREATED, "message": message, **_end(turn)}


def to_error(fail: Fail) -> Body:
    """Return the body of a failure."""
    return {"error": fail.message}


def _to_call(call: CallTool) -> Body:
    try:
        arguments = json.loads(call.text)
    except ValueError:
        arguments = call.text
    return {"function": {"name": call.name, "arguments": arguments}}


def _end(turn: Turn) -> Body:
    usage = turn.usage or Usage(prompt=0, completion=0)
    return {
        "done": True,
        "done_reason": "length" if turn.reason == "length" else "stop",
        "total_duration": 1,
        "prompt_eval_count": usage.prompt,
        "eval_count": usage.completion,
    }


def _mark(request: Request) -> None:
    if request.first_sent is None:
        request.first_sent = time.perf_counter()


def _line(request: Request, message: Body, **more: object) -> bytes:
    body = {
        "model": request.model,
        "created_at": _CREATED,
        "message": message,
        "done": False,
        **more,
    }
    return json.dumps(body).encode() + b"\n"
