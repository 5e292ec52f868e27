"""The endpoints of assistants.

https://platform.openai.com/docs/api-reference/assistants
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ci_tools.models import new_id
from ci_tools_assistants.conversations import assistant_files
from ci_tools_assistants.conversations.attaching import check_resources, to_resources
from ci_tools_assistants.http.paging import PageQuery, to_list
from ci_tools_assistants.http.requests import Body
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.http.shapes import (
    TOOLS_PER_ASSISTANT,
    Metadata,
    ReasoningEffort,
    ResponseFormat,
    Tool,
    ToolResources,
    to_plain,
)
from ci_tools_assistants.objects import Kind, Object, now

NAME_LIMIT = 256
"""Characters."""

DESCRIPTION_LIMIT = 512
"""Characters."""

INSTRUCTIONS_LIMIT = 256_000
"""Characters."""

_DEFAULTS: Object = {
    "name": None,
    "description": None,
    "instructions": None,
    "tools": [],
    "metadata": {},
    "temperature": 1.0,
    "top_p": 1.0,
    "response_format": "auto",
}
"""What stands for null and for what is not given."""


class _AssistantFields(Body):
    name: str | None = Field(default=None, max_length=NAME_LIMIT)
    description: str | None = Field(default=None, max_length=DESCRIPTION_LIMIT)
    instructions: str | None = Field(default=None, max_length=INSTRUCTIONS_LIMIT)
    tools: list[Tool] | None = Field(default=None, max_length=TOOLS_PER_ASSISTANT)
    tool_resources: ToolResources | None = None
    metadata: Metadata | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None


class AssistantBody(_AssistantFields):
    """A new assistant."""

    model: str = Field(min_length=1, max_length=256)


class AssistantChanges(_AssistantFields):
    """What is to be different of an assistant; what is not named stays."""

    model: str = Field(default="", min_length=1, max_length=256)


def operations() -> Sequence[Operation]:
    """Return the operations on assistants."""
    one, tags = "/assistants/{assistant_id}", ("Assistants",)
    return [
        Operation(
            method="GET",
            path="/assistants",
            handler=list_assistants,
            query=PageQuery,
            response="ListAssistantsResponse",
            summary="List assistants",
            tags=tags,
        ),
        Operation(
            method="POST",
            path="/assistants",
            handler=create_assistant,
            body=AssistantBody,
            body_kind="assistant",
            response="AssistantObject",
            summary="Create an assistant",
            tags=tags,
        ),
        Operation(
            method="GET",
            path=one,
            handler=get_assistant,
            response="AssistantObject",
            summary="Return an assistant",
            tags=tags,
        ),
        Operation(
            method="POST",
            path=one,
            handler=modify_assistant,
            body=AssistantChanges,
            body_kind="assistant",
            response="AssistantObject",
            summary="Change an assistant",
            tags=tags,
        ),
        Operation(
            method="DELETE",
            path=one,
            handler=delete_assistant,
            response="DeleteAssistantResponse",
            summary="Delete an assistant",
            tags=tags,
        ),
        *assistant_files.operations(),
    ]


async def list_assistants(call: Call) -> Object:
    """List the principal's assistants."""
    query = call.query_as(PageQuery)
    page = await call.records.page(Kind.ASSISTANT, principal=call.principal, **query.model_dump())
    return to_list(page)


async def create_assistant(call: Call) -> Object:
    """Store a new assistant."""
    body = call.body_as(AssistantBody)
    await check_resources(call, body.tool_resources)
    assistant = {
        "id": new_id("asst_"),
        "object": "assistant",
        "created_at": now(),
        "name": None,
        "description": None,
        "model": body.model,
        "instructions": None,
        "tools": [],
        "tool_resources": to_resources(body.tool_resources),
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
        **_given(body),
    }
    return await call.records.add(Kind.ASSISTANT, assistant, principal=call.principal)


async def get_assistant(call: Call) -> Object:
    """Return an assistant."""
    return await call.records.get(
        Kind.ASSISTANT, call.params["assistant_id"], principal=call.principal
    )


async def modify_assistant(call: Call) -> Object:
    """Change what is given of an assistant."""
    body = call.body_as(AssistantChanges)
    await check_resources(call, body.tool_resources)

    def change(old: Object) -> Object:
        resources = old["tool_resources"]
        if "tool_resources" in body.model_fields_set:
            resources = to_resources(body.tool_resources, resources)
        return {**old, **_given(body), "tool_resources": resources}

    return await call.records.change(
        Kind.ASSISTANT, call.params["assistant_id"], change, principal=call.principal
    )


async def delete_assistant(call: Call) -> Object:
    """Delete an assistant; its runs, messages and files stay."""
    id = call.params["assistant_id"]
    await call.records.delete(Kind.ASSISTANT, id, principal=call.principal)
    return {"id": id, "object": "assistant.deleted", "deleted": True}


def _given(body: _AssistantFields) -> Object:
    """Return the fields that were sent, null replaced by what it stands for."""
    given: Object = {}
    for name in body.model_fields_set - {"tool_resources"}:
        value: Any = to_plain(getattr(body, name))
        given[name] = _DEFAULTS.get(name) if value is None else value
    return given
