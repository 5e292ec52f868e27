"""Turns as Anthropic's messages."""

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

_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
    "refusal": "refusal",
}

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


def stream(request: Request, turn: Turn) -> Iterator[bytes | Wait | Cut]:
    """Yield the events of a streamed answer."""
    usage = turn.usage or Usage(prompt=0, completion=0)
    start = {**to_body(request, turn), "content": [], "stop_reason": None}
    yield _event("message_start", message={**start, "usage": _usage(usage, completion=1)})
    index = -1
    is_open = ""
    for part in turn.parts:
        match part:
            case str() | Say() | Refuse() | Think():
                text = part if isinstance(part, str) else part.text
                kind = "thinking" if isinstance(part, Think) else "text"
                if is_open != kind:
                    if is_open:
                        yield _event("content_block_stop", index=index)
                    index += 1
                    is_open = kind
                    yield _event(
                        "content_block_start", index=index, content_block={"type": kind, kind: ""}
                    )
                _mark(request)
                delta = {"type": f"{kind}_delta", kind: text}
                yield _event("content_block_delta", index=index, delta=delta)
            case CallTool():
                if is_open:
                    yield _event("content_block_stop", index=index)
                is_open = ""
                index += 1
                _mark(request)
                block = {"type": "tool_use", "id": _id(request, part, index), "name": part.name}
                yield _event(
                    "content_block_start", index=index, content_block={**block, "input": {}}
                )
                for fragment in part.fragments:
                    delta = {"type": "input_json_delta", "partial_json": fragment}
                    yield _event("content_block_delta", index=index, delta=delta)
                yield _event("content_block_stop", index=index)
            case Break():
                error = {"type": "overloaded_error", "message": part.message}
                yield _event("error", error=error)
                return
            case _:
                yield part
    if is_open:
        yield _event("content_block_stop", index=index)
    delta = {"stop_reason": _REASONS[turn.reason], "stop_sequence": ""}
    yield _event("message_delta", delta=delta, usage=_usage(usage))
    yield _event("message_stop")


def to_body(request: Request, turn: Turn) -> Body:
    """Return the body of a plain answer."""
    blocks: list[Body] = [{"type": "text", "text": turn.text}] if turn.text else []
    for index, call in enumerate(turn.calls):
        try:
            arguments = json.loads(call.text)
        except ValueError:
            arguments = {}
        block = {"type": "tool_use", "id": _id(request, call, index), "name": call.name}
        blocks.append({**block, "input": arguments})
    return {
        "id": f"msg_{request.number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": blocks,
        "stop_reason": _REASONS[turn.reason],
        "stop_sequence": None,
        "usage": _usage(turn.usage or Usage(prompt=0, completion=0)),
    }


def to_error(fail: Fail) -> Body:
    """Return the body of a failure."""
    kind = fail.type or _ERRORS.get(fail.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": fail.message}}


def _usage(usage: Usage, *, completion: int | None = None) -> Body:
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion if completion is None else completion,
    }


def _mark(request: Request) -> None:
    if request.first_sent is None:
        request.first_sent = time.perf_counter()


def _id(request: Request, call: CallTool, index: int) -> str:
    return call.id or f"toolu_{request.number}x{index}"


def _event(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()
