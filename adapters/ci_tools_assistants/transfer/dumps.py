"""Dumps of objects: exports of ours, or what was saved from any server of this API; pure.

Objects of both versions are taken; `saved.py` says what each sort must have.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.requests import parse_json, validate
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.transfer.saved import (
    Saved,
    SavedAssistant,
    SavedMessage,
    SavedRun,
    SavedStep,
    SavedThread,
)
from ci_tools_assistants.versions import from_v1

_MARKED = "line {number}: {message}"

_MODELS: dict[str, tuple[Kind, type[Saved]]] = {
    "assistant": (Kind.ASSISTANT, SavedAssistant),
    "thread": (Kind.THREAD, SavedThread),
    "thread.message": (Kind.MESSAGE, SavedMessage),
    "thread.run": (Kind.RUN, SavedRun),
    "thread.run.step": (Kind.STEP, SavedStep),
}


def read_dump(content: bytes) -> Iterator[tuple[Kind, Object]]:
    """Yield the objects of a dump: one in each line, or one JSON text; lists are taken apart.

    Raises:
        ApiError: 400, naming the line and what is wrong in it.
    """
    for number, item in _split(content):
        try:
            yield read_object(item)
        except ApiError as error:
            message = _MARKED.format(number=number, message=error.message)
            raise ApiError(400, message, param=error.param, code=error.code) from error


def read_object(item: object) -> tuple[Kind, Object]:
    """Return what kind of object it is, and the object completed.

    Raises:
        ApiError: 400: it is none of those that can be imported.
    """
    name = item.get("object") if isinstance(item, dict) else None
    if not isinstance(name, str) or name not in _MODELS:
        raise ApiError(
            400,
            "Expected an object with 'object' one of " + ", ".join(map(repr, _MODELS)) + ".",
            param="object",
            code="invalid_value",
        )
    kind, model = _MODELS[name]
    return kind, validate(model, _to_v2(item, kind)).complete()


def in_order(items: Sequence[Object]) -> list[Object]:
    """Return objects in the order in which they were made, as far as a dump tells.

    Lists of the API show the newest first; what was made in one second stays in the dump's order,
    or in the reverse of it if that begins with the newest.
    """
    is_reversed = len(items) > 1 and items[0]["created_at"] > items[-1]["created_at"]
    return sorted(items[::-1] if is_reversed else items, key=lambda item: item["created_at"])


def _split(content: bytes) -> Iterator[tuple[int, object]]:
    lines = [line for line in enumerate(content.splitlines(), 1) if line[1].strip()]
    if lines and not _is_json(lines[0][1]):
        yield from _flatten(1, parse_json(content))  # one text over several lines
        return
    for number, line in lines:
        try:
            value = parse_json(line)
        except ApiError as error:
            raise ApiError(400, f"line {number}: not a JSON object.") from error
        yield from _flatten(number, value)


def _flatten(number: int, value: object) -> Iterator[tuple[int, object]]:
    if isinstance(value, dict) and value.get("object") == "list":
        value = value.get("data")
    items: Iterable[object] = value if isinstance(value, list) else [value]
    for item in items:
        yield number, item


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _to_v2(item: object, kind: Kind) -> object:
    """Return an object of either version as version 2 has it."""
    assert isinstance(item, dict)
    item = dict(item)
    if kind is Kind.ASSISTANT:
        return from_v1(item, "assistant")
    if kind is Kind.MESSAGE and "file_ids" in item:
        attached = from_v1({"file_ids": item.pop("file_ids")}, "message")
        assert isinstance(attached, dict)
        item |= attached
    if kind is Kind.RUN:
        converted = from_v1({key: value for key, value in item.items() if key != "file_ids"}, "run")
        assert isinstance(converted, dict)
        return {**converted, "required_action": None, "file_ids": item.get("file_ids") or []}
    if kind is Kind.STEP:
        return _step_to_v2(item)
    return item


def _step_to_v2(step: Object) -> Object:
    details = step.get("step_details")
    if not isinstance(details, dict) or not isinstance(details.get("tool_calls"), list):
        return step
    calls = [_call_to_v2(call) for call in details["tool_calls"]]
    return {**step, "step_details": {**details, "tool_calls": calls}}


def _call_to_v2(call: object) -> object:
    """Return a call under its name of version 2; `code` is what an old guide printed."""
    if not isinstance(call, dict):
        return call
    match call.get("type"):
        case "retrieval":
            rest = {key: value for key, value in call.items() if key != "retrieval"}
            return {**rest, "type": "file_search", "file_search": {}}
        case "code":
            rest = {key: value for key, value in call.items() if key != "code"}
            return {**rest, "type": "code_interpreter", "code_interpreter": call.get("code")}
        case _:
            return call
