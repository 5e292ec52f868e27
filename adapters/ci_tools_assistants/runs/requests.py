"""What clients send about runs, and the run that comes of it."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Tag, model_validator

from ci_tools.models import new_id
from ci_tools_assistants.conversations.attachments import code_file_ids
from ci_tools_assistants.conversations.messages import MessageBody
from ci_tools_assistants.conversations.threads import ThreadBody
from ci_tools_assistants.errors import ApiError, invalid_value
from ci_tools_assistants.http.requests import Body, Query, by, refuse
from ci_tools_assistants.http.shapes import (
    TOOLS_PER_RUN,
    Metadata,
    ReasoningEffort,
    ResponseFormat,
    Tool,
    ToolResources,
    to_plain,
)
from ci_tools_assistants.objects import Object
from ci_tools_assistants.versions import RUN_FILE_IDS

INSTRUCTIONS = 256_000
"""Characters."""

LEAST_TOKENS = 256
"""The smallest bound that a run's tokens can have."""


class TruncationStrategy(Body):
    """Which messages of the thread the model is shown."""

    type: Literal["auto", "last_messages"]
    last_messages: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_number(self) -> "TruncationStrategy":
        if self.type == "last_messages" and self.last_messages is None:
            raise refuse(
                "Missing required parameter: 'PARAM.last_messages'.", "missing_required_parameter"
            )
        return self


class ChosenFunction(Body):
    """A function by its name."""

    name: str


class FunctionChoice(Body):
    """The function that the model must call first."""

    type: Literal["function"]
    function: ChosenFunction


class ToolTypeChoice(Body):
    """The tool that the model must call first."""

    type: Literal["code_interpreter", "file_search"]
    function: ChosenFunction | None = None


ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("|string")]
    | Annotated[FunctionChoice, Tag("|function")]
    | Annotated[ToolTypeChoice, Tag("|code_interpreter")]
    | Annotated[ToolTypeChoice, Tag("|file_search")],
    by("type"),
]


class RunFields(Body):
    """What both ways to start a run take; null is as good as not sent."""

    assistant_id: str
    model: str | None = Field(default=None, min_length=1, max_length=256)
    reasoning_effort: ReasoningEffort | None = None
    instructions: str | None = Field(default=None, max_length=INSTRUCTIONS)
    tools: list[Tool] | None = Field(default=None, max_length=TOOLS_PER_RUN)
    metadata: Metadata | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stream: bool | None = None
    max_prompt_tokens: int | None = Field(default=None, ge=LEAST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=LEAST_TOKENS)
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


class RunBody(RunFields):
    """POST /threads/{thread_id}/runs"""

    additional_instructions: str | None = Field(default=None, max_length=INSTRUCTIONS)
    additional_messages: list[MessageBody] | None = None


class ThreadRunBody(RunFields):
    """POST /threads/runs"""

    thread: ThreadBody | None = None
    tool_resources: ToolResources | None = None


class RunChange(Body):
    """POST /threads/{thread_id}/runs/{run_id}"""

    metadata: Metadata | None = None


class ToolOutput(Body):
    """The output of one call; none is an empty one."""

    tool_call_id: str
    output: str | None = None


class OutputsBody(Body):
    """POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs"""

    tool_outputs: list[ToolOutput]
    stream: bool | None = None


class IncludeQuery(Query):
    """What else a step shows; the only thing there is comes with the search of files."""

    include: list[Literal["step_details.tool_calls[*].file_search.results[*].content"]] = []


def to_run(
    body: RunFields,
    assistant: Object,
    *,
    thread_id: str,
    lifetime: float,
    additional_instructions: str | None = None,
    now: int,
) -> Object:
    """Return a new run of an assistant, with what the request overrides.

    Raises:
        ApiError: The tool that must be called is none of the run's.
    """
    tools = assistant["tools"] if body.tools is None else to_plain(body.tools)
    choice = to_plain(body.tool_choice) if body.tool_choice is not None else "auto"
    _check_choice(choice, tools)
    instructions = assistant["instructions"] if body.instructions is None else body.instructions
    parts = [part for part in (instructions, additional_instructions) if part]
    truncation: Object = {"type": "auto", "last_messages": None}
    if body.truncation_strategy is not None:
        truncation |= to_plain(body.truncation_strategy)
    run: Object = {
        "id": new_id("run_"),
        "object": "thread.run",
        "created_at": now,
        "assistant_id": assistant["id"],
        "thread_id": thread_id,
        "status": "queued",
        "started_at": None,
        "expires_at": now + max(1, round(lifetime)),
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "required_action": None,
        "last_error": None,
        "model": body.model or assistant["model"],
        "instructions": "\n\n".join(parts),
        "tools": tools,
        RUN_FILE_IDS: code_file_ids(assistant),
        "metadata": body.metadata or {},
        "temperature": _first(body.temperature, assistant.get("temperature"), 1.0),
        "top_p": _first(body.top_p, assistant.get("top_p"), 1.0),
        "max_completion_tokens": body.max_completion_tokens,
        "max_prompt_tokens": body.max_prompt_tokens,
        "truncation_strategy": truncation,
        "incomplete_details": None,
        "usage": None,
        "response_format": (
            to_plain(body.response_format)
            if body.response_format is not None
            else assistant.get("response_format") or "auto"
        ),
        "tool_choice": choice,
        "parallel_tool_calls": _first(body.parallel_tool_calls, True),
    }
    effort = body.reasoning_effort or assistant.get("reasoning_effort")
    return run if effort is None else {**run, "reasoning_effort": effort}


def to_outputs(body: OutputsBody) -> list[tuple[str, str]]:
    """Return the outputs as pairs of call id and text."""
    return [(output.tool_call_id, output.output or "") for output in body.tool_outputs]


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _check_choice(choice: str | Object, tools: list[Object]) -> None:
    types = {tool["type"] for tool in tools}
    if choice == "required" and not types & {"function", "code_interpreter"}:
        raise invalid_value(
            "tool_choice", "'tool_choice' can only be 'required' if there are tools to call."
        )
    if isinstance(choice, str):
        return
    if choice["type"] == "file_search":
        raise ApiError(
            400,
            "'tool_choice' cannot be file_search: searching files is not available in this release "
            "of ci-tools.",
            param="tool_choice",
        )
    if choice["type"] == "function":
        name = choice["function"]["name"]
        if not any(_name_of(tool) == name for tool in tools):
            raise invalid_value(
                "tool_choice",
                f"'tool_choice' names the function '{name}', which is not in 'tools'.",
            )
    elif choice["type"] not in types:
        raise invalid_value(
            "tool_choice", f"'tool_choice' is {choice['type']}, which is not in 'tools'."
        )


def _name_of(tool: Object) -> str | None:
    return tool["function"]["name"] if tool["type"] == "function" else None
