"""What the objects of a dump must have, and how they are completed; pure.

They may come from any server of this API: unknown keys are left out, and what is lacking is filled
in, so that every object that is stored is complete.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    Tag,
    model_serializer,
)

from ci_tools_assistants.conversations.assistants import (
    DESCRIPTION_LIMIT,
    INSTRUCTIONS_LIMIT,
    NAME_LIMIT,
)
from ci_tools_assistants.conversations.messages import ImageAddress
from ci_tools_assistants.http.requests import JsonObject, by
from ci_tools_assistants.http.shapes import (
    TOOLS_PER_ASSISTANT,
    Metadata,
    ReasoningEffort,
    ResponseFormat,
    to_plain,
)
from ci_tools_assistants.objects import ACTIVE, Object, now
from ci_tools_assistants.versions import RUN_FILE_IDS

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


class Saved(BaseModel):
    """What every object has."""

    model_config = ConfigDict(
        extra="ignore", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    created_at: Time
    metadata: Metadata | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = self.model_dump(by_alias=True)
        return {**item, "metadata": item["metadata"] or {}}


class _CodeFiles(BaseModel):
    file_ids: list[str] | None = Field(default=None, max_length=20)


class _Stores(BaseModel):
    vector_store_ids: list[str] | None = Field(default=None, max_length=1)


class _Resources(BaseModel):
    code_interpreter: _CodeFiles | None = None
    file_search: _Stores | None = None


class _Function(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class _PlainTool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["code_interpreter", "file_search"]


class _FunctionTool(BaseModel):
    type: Literal["function"]
    function: _Function


_Tool: TypeAlias = Annotated[
    Annotated[_PlainTool, Tag("|code_interpreter")]
    | Annotated[_PlainTool, Tag("|file_search")]
    | Annotated[_FunctionTool, Tag("|function")],
    by("type"),
]

_Format: TypeAlias = Annotated[ResponseFormat | None, AfterValidator(lambda given: given or "auto")]


class SavedAssistant(Saved):
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
    response_format: _Format = "auto"
    reasoning_effort: ReasoningEffort | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        item["tool_resources"] = _to_resources(self.tool_resources)
        item["response_format"] = to_plain(self.response_format)
        item["tools"] = [tool.model_dump(exclude_unset=True) for tool in self.tools]
        if item["reasoning_effort"] is None:
            del item["reasoning_effort"]
        return item


class SavedThread(Saved):
    """A thread."""

    id: ThreadId
    object: Literal["thread"]
    tool_resources: _Resources | None = None

    def complete(self) -> Object:
        """Return the whole object."""
        return {**super().complete(), "tool_resources": _to_resources(self.tool_resources)}


class _Quoted(BaseModel):
    model_config = ConfigDict(extra="allow")

    file_id: str = ""


class _Annotation(BaseModel):
    type: Literal["file_citation", "file_path"]
    text: Text
    start_index: int = Field(ge=0)
    end_index: int = Field(ge=0)
    file_citation: _Quoted | None = None
    file_path: _Quoted | None = None

    @model_serializer
    def _to_wire(self) -> Object:
        quoted = self.file_citation if self.type == "file_citation" else self.file_path
        return {
            "type": self.type,
            "text": self.text,
            "start_index": self.start_index,
            "end_index": self.end_index,
            self.type: {"file_id": ""} if quoted is None else quoted.model_dump(),
        }


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
    url: ImageAddress
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
    tools: list[_PlainTool] | None = None


class _Details(BaseModel):
    reason: str


class _Cut(BaseModel):
    reason: Literal["content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"]


class SavedMessage(Saved):
    """A message."""

    id: MessageId
    object: Literal["thread.message"]
    thread_id: ThreadId
    status: Literal["in_progress", "incomplete", "completed"] = "completed"
    incomplete_details: _Cut | None = None
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


class _NamedFunction(BaseModel):
    name: str


class _NamedTool(BaseModel):
    type: Literal["function", "code_interpreter", "file_search"]
    function: _NamedFunction | None = None

    @model_serializer
    def _to_wire(self) -> Object:
        named = {} if self.function is None else {"function": self.function.model_dump()}
        return {"type": self.type, **named}


_Choice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("|string")]
    | Annotated[_NamedTool, Tag("|object")],
    by(""),
]

_RUN_DEFAULTS: Object = {
    "instructions": "",
    "truncation_strategy": {"type": "auto", "last_messages": None},
    "tool_choice": "auto",
    "parallel_tool_calls": True,
}
"""What stands for null in a run."""

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


class SavedRun(Saved):
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
    instructions: str | None = None
    tools: list[_Tool] = Field(default=[], max_length=TOOLS_PER_ASSISTANT)
    file_ids: list[str] = []
    usage: _Usage | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_prompt_tokens: int | None = None
    max_completion_tokens: int | None = None
    truncation_strategy: _Truncation | None = None
    tool_choice: _Choice | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format = "auto"

    def complete(self) -> Object:
        """Return the whole object."""
        item = super().complete()
        item[RUN_FILE_IDS] = item.pop("file_ids")
        item["response_format"] = to_plain(self.response_format)
        item["tools"] = [tool.model_dump(exclude_unset=True) for tool in self.tools]
        for name, value in _RUN_DEFAULTS.items():
            item[name] = value if item[name] is None else item[name]
        if item["status"] in ACTIVE:
            item |= {"status": "failed", "failed_at": now(), "expires_at": None}
            item["last_error"] = {"code": "server_error", "message": _UNFINISHED}
        return item


class _Logs(BaseModel):
    type: Literal["logs"]
    logs: Text


class _OutputFile(BaseModel):
    file_id: str


class _Image(BaseModel):
    type: Literal["image"]
    image: _OutputFile


_Output: TypeAlias = Annotated[
    Annotated[_Logs, Tag("|logs")] | Annotated[_Image, Tag("|image")], by("type")
]


class _Code(BaseModel):
    input: Text
    outputs: list[_Output] = []


class _CodeCall(BaseModel):
    id: str
    type: Literal["code_interpreter"]
    code_interpreter: _Code


class _SearchCall(BaseModel):
    id: str
    type: Literal["file_search"]
    file_search: dict[str, Any]


class _Called(BaseModel):
    name: str
    arguments: Text
    output: Text | None = None


class _FunctionCall(BaseModel):
    id: str
    type: Literal["function"]
    function: _Called


_ToolCall: TypeAlias = Annotated[
    Annotated[_CodeCall, Tag("|code_interpreter")]
    | Annotated[_SearchCall, Tag("|file_search")]
    | Annotated[_FunctionCall, Tag("|function")],
    by("type"),
]


class _ToolCalls(BaseModel):
    type: Literal["tool_calls"]
    tool_calls: list[_ToolCall]


class _Created(BaseModel):
    message_id: MessageId


class _MessageCreation(BaseModel):
    type: Literal["message_creation"]
    message_creation: _Created


class SavedStep(Saved):
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
        item["type"] = item["step_details"]["type"]
        if item["status"] == "in_progress":
            item |= {"status": "failed", "failed_at": now()}
        return item


def _to_resources(resources: _Resources | None) -> Object:
    found: Object = {}
    if resources is not None and resources.code_interpreter is not None:
        found["code_interpreter"] = {"file_ids": resources.code_interpreter.file_ids or []}
    if resources is not None and resources.file_search is not None:
        found["file_search"] = {"vector_store_ids": resources.file_search.vector_store_ids or []}
    return found
