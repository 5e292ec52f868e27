"""The schemas of answers, written short; the OpenAPI document is made with them.

A line is a list of keys: `key` is a text, `key:type` another type, `?` after it says that it may be
null, `=` gives the only value. Types are `int`, `num`, `bool`, `any`, `map` (an object of texts),
the name of another schema, and `[type]` for an array. A key in parentheses may be missing.
"""

import re
from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_LIST = "object=list data:[{}] first_id? last_id? has_more:bool"

_DELETED = "id object={} deleted:bool"

_LINES: Mapping[str, str] = {
    "AssistantObject": (
        "id object=assistant created_at:int name? description? model instructions? tools:[any] "
        "(tool_resources:any?) metadata:map temperature:num? top_p:num? response_format:any? "
        "(reasoning_effort?)"
    ),
    "ThreadObject": (
        "id object=thread created_at:int metadata:map (tool_resources:any?) (session_id?)"
    ),
    "MessageObject": (
        "id object=thread.message created_at:int thread_id status incomplete_details:any? "
        "completed_at:int? incomplete_at:int? role content:[any] assistant_id? run_id? "
        "attachments:[any] metadata:map"
    ),
    "RunObject": (
        "id object=thread.run created_at:int thread_id assistant_id status required_action:any? "
        "last_error:any? expires_at:int? started_at:int? cancelled_at:int? failed_at:int? "
        "completed_at:int? incomplete_details:any? model instructions tools:[any] metadata:map "
        "usage:Usage? temperature:num? top_p:num? max_prompt_tokens:int? "
        "max_completion_tokens:int? truncation_strategy:any tool_choice:any "
        "parallel_tool_calls:bool response_format:any (reasoning_effort?)"
    ),
    "RunStepObject": (
        "id object=thread.run.step created_at:int assistant_id thread_id run_id type status "
        "step_details:any last_error:any? expired_at:int? cancelled_at:int? failed_at:int? "
        "completed_at:int? metadata:map usage:Usage?"
    ),
    "Usage": "prompt_tokens:int completion_tokens:int total_tokens:int",
    "OpenAIFile": (
        "id object=file bytes:int created_at:int (expires_at:int) filename purpose status "
        "(status_details)"
    ),
    "Upload": (
        "id object=upload bytes:int created_at:int filename purpose status expires_at:int "
        "(file:OpenAIFile?)"
    ),
    "UploadPart": "id object=upload.part created_at:int upload_id",
    "Model": "id object=model created:int owned_by",
    "AssistantFileObject": "id object=assistant.file created_at:int assistant_id",
    "MessageFileObject": "id object=thread.message.file created_at:int message_id",
    "ContainerResource": "id object=container created_at:int status name",
    "ContainerFileResource": (
        "id object=container.file created_at:int container_id path bytes:int source"
    ),
    "ImportObject": (
        "object=import assistants:int threads:int messages:int runs:int run_steps:int skipped:int"
    ),
    "Error": "message type param? code?",
    "ErrorResponse": "error:Error",
    "ListAssistantsResponse": _LIST.format("AssistantObject"),
    "ListThreadsResponse": _LIST.format("ThreadObject"),
    "ListMessagesResponse": _LIST.format("MessageObject"),
    "ListRunsResponse": _LIST.format("RunObject"),
    "ListRunStepsResponse": _LIST.format("RunStepObject"),
    "ListFilesResponse": _LIST.format("OpenAIFile"),
    "ListAssistantFilesResponse": _LIST.format("AssistantFileObject"),
    "ListMessageFilesResponse": _LIST.format("MessageFileObject"),
    "ContainerListResource": _LIST.format("ContainerResource"),
    "ContainerFileListResource": _LIST.format("ContainerFileResource"),
    "ListModelsResponse": "object=list data:[Model]",
    "DeleteAssistantResponse": _DELETED.format("assistant.deleted"),
    "DeleteThreadResponse": _DELETED.format("thread.deleted"),
    "DeleteMessageResponse": _DELETED.format("thread.message.deleted"),
    "DeleteAssistantFileResponse": _DELETED.format("assistant.file.deleted"),
    "DeleteFileResponse": _DELETED.format("file"),
    "DeleteModelResponse": _DELETED.format("model"),
}

_KEY = re.compile(r"(\w+)(?:=([\w.]+)|:(\[?\w+\]?))?(\?)?")

_TYPES: Mapping[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "num": {"type": "number"},
    "bool": {"type": "boolean"},
    "any": {},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
}


def answer_schemas() -> dict[str, Schema]:
    """Return the schemas of all answers by name."""
    return {name: _to_schema(line) for name, line in _LINES.items()}


def ref_to(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _to_schema(line: str) -> Schema:
    properties: dict[str, Schema] = {}
    required: list[str] = []
    for word in line.split():
        found = _KEY.fullmatch(word.strip("()"))
        assert found is not None, word
        key, value, type, nullable = found.groups()
        schema = {"const": value} if value else _to_type(type or "str")
        properties[key] = {"anyOf": [schema, {"type": "null"}]} if nullable else schema
        if not word.startswith("("):
            required.append(key)
    return {"type": "object", "properties": properties, "required": required}


def _to_type(type: str) -> Schema:
    if type.startswith("["):
        return {"type": "array", "items": _to_type(type.strip("[]"))}
    return _TYPES[type] if type in _TYPES else ref_to(type)
