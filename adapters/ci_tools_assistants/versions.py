"""Version 1 of the API, which is made of version 2 here and nowhere else; pure.

What is stored and what all other modules know is version 2. Version 1 has `file_ids` where version
2 has `tool_resources` and `attachments`, `retrieval` where it has `file_search`, and knows neither
images by URL nor the state `incomplete`. A file that version 1 attaches is for both tools.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from ci_tools_assistants.conversations.attachments import code_file_ids
from ci_tools_assistants.errors import array_too_long, invalid_value
from ci_tools_assistants.objects import Object

Version: TypeAlias = Literal["v1", "v2"]

BodyKind: TypeAlias = Literal["assistant", "thread", "message", "run", "thread_run"]
"""What a request is about."""

RUN_FILE_IDS = "file_ids"
"""The key of a stored run that only version 1 shows: the files that its assistant had."""

_FILES_PER_ASSISTANT = 20
_FILES_PER_MESSAGE = 10

_PURPOSES = frozenset({"fine-tune", "fine-tune-results", "assistants", "assistants_output"})
"""The purposes of files that version 1 knows."""

_CODE = "code_interpreter"


def to_wire(item: Object, version: Version, *, step_call_name: str = _CODE) -> Object:
    """Return an object as a client of that version sees it; lists and deltas too.

    `step_call_name` is what a step calls a call of the code interpreter.
    """
    kind = item.get("object")
    if kind == "list":
        return {
            **item,
            "data": [to_wire(one, version, step_call_name=step_call_name) for one in item["data"]],
        }
    if step_call_name != _CODE and kind in _STEPS:
        item = _map_calls(item, lambda call: _rename_call(call, step_call_name))
    if version == "v1":
        view = _VIEWS.get(str(kind))
        return item if view is None else view(item)
    if kind == "thread.run" and RUN_FILE_IDS in item:
        return _without(item, RUN_FILE_IDS)
    return item


def to_wire_event(name: str, version: Version) -> str:
    """Return the name of an event as that version has it."""
    if version == "v1" and name == "thread.run.incomplete":
        return "thread.run.completed"
    return name


def from_v1(body: object, kind: BodyKind) -> object:
    """Return a body of version 1 as version 2 writes it; what is no object stays as it is.

    Raises:
        ApiError: `file_ids` is not a list of ids, or too long.
    """
    if not isinstance(body, dict):
        return body
    body = dict(body)
    match kind:
        case "assistant":
            _resource_files(body)
        case "message":
            _attach_files(body, "file_ids")
        case "thread":
            _convert_messages(body, "messages")
        case "run":
            _convert_messages(body, "additional_messages")
        case "thread_run":
            if isinstance(body.get("thread"), dict):
                body["thread"] = from_v1(body["thread"], "thread")
    if isinstance(body.get("tools"), list):
        body["tools"] = [_tool_from_v1(tool) for tool in body["tools"]]
    if "tool_choice" in body:
        body["tool_choice"] = _tool_from_v1(body["tool_choice"])
    if body.get("response_format") == "none":
        body["response_format"] = "auto"
    return body


def _resource_files(body: Object) -> None:
    file_ids = _take_file_ids(body, "file_ids", _FILES_PER_ASSISTANT)
    if file_ids is not None:
        resources = body.get("tool_resources")
        resources = dict(resources) if isinstance(resources, dict) else {}
        resources[_CODE] = {"file_ids": file_ids}
        body["tool_resources"] = resources


def _attach_files(message: Object, param: str) -> None:
    file_ids = _take_file_ids(message, param, _FILES_PER_MESSAGE)
    if file_ids:
        tools = [{"type": _CODE}, {"type": "file_search"}]
        message["attachments"] = [{"file_id": id, "tools": tools} for id in file_ids]


def _convert_messages(body: Object, name: str) -> None:
    if not isinstance(messages := body.get(name), list):
        return
    converted: list[object] = []
    for number, message in enumerate(messages):
        if isinstance(message, dict):
            message = dict(message)
            _attach_files(message, f"{name}[{number}].file_ids")
        converted.append(message)
    body[name] = converted


def _take_file_ids(body: Object, param: str, limit: int) -> list[str] | None:
    file_ids = body.pop("file_ids", None)
    if file_ids is None:
        return None
    if not isinstance(file_ids, list) or not all(isinstance(id, str) for id in file_ids):
        raise invalid_value(
            param, f"Invalid type for '{param}': expected an array of strings.", code="invalid_type"
        )
    if len(file_ids) > limit:
        raise array_too_long(param, limit, len(file_ids))
    return list(dict.fromkeys(file_ids))


def _tool_from_v1(tool: object) -> object:
    if isinstance(tool, dict) and tool.get("type") == "retrieval":
        return {**tool, "type": "file_search"}
    return tool


def _tool_to_v1(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "file_search":
        return {"type": "retrieval"}
    return "auto" if tool == "required" else tool


def _view_assistant(item: Object) -> Object:
    return {
        **_without(item, "tool_resources", "reasoning_effort"),
        "tools": [_tool_to_v1(tool) for tool in item["tools"]],
        "file_ids": code_file_ids(item),
        **_view_format(item),
    }


def _view_thread(item: Object) -> Object:
    return _without(item, "tool_resources")


def _view_message(item: Object) -> Object:
    attached = [
        attachment["file_id"]
        for attachment in item["attachments"] or ()
        if attachment.get("file_id")
    ]
    return {
        **_without(item, "attachments"),
        "content": [_view_part(part) for part in item["content"]],
        "file_ids": list(dict.fromkeys(attached)),
    }


def _view_message_delta(item: Object) -> Object:
    delta = item["delta"]
    content = [_view_part(part) for part in delta.get("content", ())]
    return {**item, "delta": {**delta, "content": content}}


def _view_part(part: Object) -> Object:
    index = {"index": part["index"]} if "index" in part else {}
    match part["type"]:
        case "image_file":
            return {**part, "image_file": _without(part.get("image_file", {}), "detail")}
        case "image_url":
            url = part.get("image_url", {}).get("url", "")
            return {**index, "type": "text", "text": {"value": url, "annotations": []}}
        case "refusal":
            text = {"value": part.get("refusal", ""), "annotations": []}
            return {**index, "type": "text", "text": text}
        case "text" if part.get("text", {}).get("annotations"):
            annotations = [_view_annotation(one) for one in part["text"]["annotations"]]
            return {**part, "text": {**part["text"], "annotations": annotations}}
        case _:
            return part


def _view_annotation(annotation: Object) -> Object:
    if annotation["type"] != "file_citation":
        return annotation
    return {**annotation, "file_citation": {"quote": "", **annotation.get("file_citation", {})}}


def _view_run(item: Object) -> Object:
    return {
        **_without(item, "parallel_tool_calls", "reasoning_effort"),
        # "the run will end with status `complete`. See `incomplete_details` for more info."
        "status": "completed" if item["status"] == "incomplete" else item["status"],
        "tools": [_tool_to_v1(tool) for tool in item["tools"]],
        "tool_choice": _tool_to_v1(item["tool_choice"]),
        RUN_FILE_IDS: item.get(RUN_FILE_IDS, []),
        **_view_format(item),
    }


def _view_format(item: Object) -> Object:
    given = item.get("response_format")
    if isinstance(given, dict) and given.get("type") == "json_schema":
        return {"response_format": {"type": "json_object"}}
    return {}


def _view_step(item: Object) -> Object:
    return _map_calls(item, _view_call)


def _view_call(call: Object) -> Object:
    if call["type"] != "file_search":
        return call
    return {**_without(call, "file_search"), "type": "retrieval", "retrieval": {}}


def _view_file(item: Object) -> Object:
    if "purpose" not in item:
        return item  # that it was deleted
    purpose = item["purpose"] if item["purpose"] in _PURPOSES else "assistants"
    return {**_without(item, "expires_at"), "purpose": purpose}


_STEPS = frozenset({"thread.run.step", "thread.run.step.delta"})

_VIEWS: Mapping[str, Callable[[Object], Object]] = {
    "assistant": _view_assistant,
    "thread": _view_thread,
    "thread.message": _view_message,
    "thread.message.delta": _view_message_delta,
    "thread.run": _view_run,
    "thread.run.step": _view_step,
    "thread.run.step.delta": _view_step,
    "file": _view_file,
}


def _map_calls(item: Object, change: Callable[[Object], Object]) -> Object:
    """Return a step or its delta with every tool call changed."""
    if "delta" in item:
        details = item["delta"].get("step_details")
        if not details or details["type"] != "tool_calls":
            return item
        calls = [change(call) for call in details.get("tool_calls", ())]
        return {**item, "delta": {"step_details": {**details, "tool_calls": calls}}}
    details = item["step_details"]
    if details["type"] != "tool_calls":
        return item
    calls = [change(call) for call in details["tool_calls"]]
    return {**item, "step_details": {**details, "tool_calls": calls}}


def _rename_call(call: Object, name: str) -> Object:
    if call["type"] != _CODE:
        return call
    return {(name if key == _CODE else key): value for key, value in call.items()} | {"type": name}


def _without(item: Object, *keys: str) -> Object:
    return {key: value for key, value in item.items() if key not in keys}
