"""Objects as they come home: from an export of ours, or saved from any server of this API.

Both versions are taken, unknown keys are left out, and what a dump lacks is filled in, so that
every object that is stored is complete. Pure.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, Tag

from ci_tools_assistants.assistants import (
    DESCRIPTION_LIMIT,
    INSTRUCTIONS_LIMIT,
    NAME_LIMIT,
)
from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.objects import ACTIVE, Kind, Object, now
from ci_tools_assistants.requests import by, parse_json, validate
from ci_tools_assistants.shapes import TOOLS_PER_ASSISTANT, Metadata
from ci_tools_assistants.versions import RUN_FILE_IDS, from_v1

_MARKED = "line {number}: {message}"

_UNFINISHED = "The run had not ended when it was exported."


def _id(prefix: str) -> Any:
    return StringConstraints(pattern=rf"^{prefix}_[A-Za-z0-9]{{1,100}}$")


AssistantId: TypeAlias = Annotated[str, _id("asst")]
ThreadId: TypeAlias = Annotated[str, _id("thread")]
MessageId: TypeAlias = Annotated[str, _id("msg")]
RunId: TypeAlias = Annotated[str, _id("run")]
StepId: TypeAlias = Annotated[str, _id("step")]

Time: TypeAlias = Annotated[int, Field(ge=0, le=1 << 53)]
"""Whole Unix seconds."""

Text: TypeAlias = Annotated[str, Field(max_length=10_000_000)]


class _Saved(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    created_at: Time
    metadata: Metadata | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = self.model_dump()
        return {**item, "metadata": item["metadata"] or {}}


class _CodeFiles(BaseModel):
    file_ids: list[str] | None = Field(default=None, max_length=20)


class _Stores(BaseModel):
    vector_store_ids: list[str] | None = Field(default=None, max_length=1)


class _Resources(BaseModel):
    code_interpreter: _CodeFiles | None = None
    file_search: _Stores | None = None


class _Tool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["code_interpreter", "file_search", "function"]


class SavedAssistant(_Saved):
    """An assistant."""

    id: AssistantId
    object: Literal["assistant"]
    name: str | None = Field(default=None, max_length=NAME_LIMIT)
    description: str | None = Field(default=None, max_length=DESCRIPTION_LIMIT)
    model: str = Field(min_length=1, max_length=256)
    instructions: str | None = Field(default=None, max_length=INSTRUCTIONS_LIMIT)
    tools: list[_Tool] = Field(default=[], max_length=TOOLS_PER_ASSISTANT)
    tool_resources: _Resources | None = None
    temperature: float | None = Field(default=1.0, ge=0, le=2)
    top_p: float | None = Field(default=1.0, ge=0, le=1)
    response_format: str | dict[str, Any] | None = "auto"
    reasoning_effort: str | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        item["tool_resources"] = _to_resources(self.tool_resources)
        if item["reasoning_effort"] is None:
            del item["reasoning_effort"]
        return item


class SavedThread(_Saved):
    """A thread."""

    id: ThreadId
    object: Literal["thread"]
    tool_resources: _Resources | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        return {**super().complete(), "tool_resources": _to_resources(self.tool_resources)}


class _Annotation(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["file_citation", "file_path"]
    text: Text
    start_index: int = Field(ge=0)
    end_index: int = Field(ge=0)


class _Value(BaseModel):
    value: Text
    annotations: list[_Annotation] = []


class _Text(BaseModel):
    type: Literal["text"]
    text: _Value


class _File(BaseModel):
    file_id: str
    detail: Literal["auto", "low", "high"] = "auto"


class _ImageFile(BaseModel):
    type: Literal["image_file"]
    image_file: _File


class _Url(BaseModel):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class _ImageUrl(BaseModel):
    type: Literal["image_url"]
    image_url: _Url


class _Refusal(BaseModel):
    type: Literal["refusal"]
    refusal: Text


_Part: TypeAlias = Annotated[
    Annotated[_Text, Tag("|text")]
    | Annotated[_ImageFile, Tag("|image_file")]
    | Annotated[_ImageUrl, Tag("|image_url")]
    | Annotated[_Refusal, Tag("|refusal")],
    by("type"),
]


class _Attachment(BaseModel):
    file_id: str | None = None
    tools: list[_Tool] | None = None


class _Details(BaseModel):
    reason: str


class SavedMessage(_Saved):
    """A message."""

    id: MessageId
    object: Literal["thread.message"]
    thread_id: ThreadId
    status: Literal["in_progress", "incomplete", "completed"] = "completed"
    incomplete_details: _Details | None = None
    completed_at: Time | None = None
    incomplete_at: Time | None = None
    role: Literal["user", "assistant"]
    content: list[_Part]
    assistant_id: AssistantId | None = None
    run_id: RunId | None = None
    attachments: list[_Attachment] | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        item["attachments"] = [
            {"file_id": one["file_id"], "tools": one["tools"] or []}
            for one in item["attachments"] or ()
        ]
        if item["status"] == "in_progress":
            item |= {"status": "incomplete", "incomplete_at": now()}
            item["incomplete_details"] = {"reason": "run_failed"}
        return item


class _Error(BaseModel):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: Text


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class _Truncation(BaseModel):
    type: Literal["auto", "last_messages"]
    last_messages: int | None = None


RunStatus: TypeAlias = Literal[
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
]


class SavedRun(_Saved):
    """A run; one that had not ended has failed."""

    id: RunId
    object: Literal["thread.run"]
    thread_id: ThreadId
    assistant_id: AssistantId
    status: RunStatus
    required_action: None = None
    last_error: _Error | None = None
    expires_at: Time | None = None
    started_at: Time | None = None
    cancelled_at: Time | None = None
    failed_at: Time | None = None
    completed_at: Time | None = None
    incomplete_details: _Details | None = None
    model: str
    instructions: str = ""
    tools: list[_Tool] = Field(default=[], max_length=TOOLS_PER_ASSISTANT)
    file_ids: list[str] = []
    usage: _Usage | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncation_strategy: _Truncation = _Truncation(type="auto")
    tool_choice: str | dict[str, Any] | None = "auto"
    parallel_tool_calls: bool = True
    response_format: str | dict[str, Any] | None = "auto"

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        item[RUN_FILE_IDS] = item.pop("file_ids")
        if item["status"] in ACTIVE:
            item |= {"status": "failed", "failed_at": now(), "expires_at": None}
            item["last_error"] = {"code": "server_error", "message": _UNFINISHED}
        return item


class _ToolCall(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["code_interpreter", "file_search", "function"]


class _ToolCalls(BaseModel):
    type: Literal["tool_calls"]
    tool_calls: list[_ToolCall]


class _Created(BaseModel):
    message_id: MessageId


class _MessageCreation(BaseModel):
    type: Literal["message_creation"]
    message_creation: _Created


class SavedStep(_Saved):
    """A step of a run."""

    id: StepId
    object: Literal["thread.run.step"]
    thread_id: ThreadId
    run_id: RunId
    assistant_id: AssistantId
    type: Literal["message_creation", "tool_calls"]
    status: Literal["in_progress", "cancelled", "failed", "completed", "expired"]
    step_details: Annotated[
        Annotated[_ToolCalls, Tag("|tool_calls")]
        | Annotated[_MessageCreation, Tag("|message_creation")],
        by("type"),
    ]
    last_error: _Error | None = None
    expired_at: Time | None = None
    cancelled_at: Time | None = None
    failed_at: Time | None = None
    completed_at: Time | None = None
    usage: _Usage | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        if item["status"] == "in_progress":
            item |= {"status": "failed", "failed_at": now()}
        return item


_MODELS: dict[str, tuple[Kind, type[_Saved]]] = {
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


def _to_resources(resources: _Resources | None) -> Object:
    found: Object = {}
    if resources is not None and resources.code_interpreter is not None:
        found["code_interpreter"] = {"file_ids": resources.code_interpreter.file_ids or []}
    if resources is not None and resources.file_search is not None:
        found["file_search"] = {"vector_store_ids": resources.file_search.vector_store_ids or []}
    return found
