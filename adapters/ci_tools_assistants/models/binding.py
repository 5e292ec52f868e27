"""One request in each provider's words.

The names of parameters are the only thing that LangChain leaves to its callers: `required` is a
tool's name for one provider and an error for another. What a model cannot take is left out, or
said in the instructions; only what a caller would notice is worth a failure.
"""

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable

from ci_tools_assistants.models.capabilities import Capabilities, Family
from ci_tools_assistants.models.code_argument import find_code_tool
from ci_tools_assistants.models.exchange import TurnRequest
from ci_tools_assistants.objects import Object

_ANY_OBJECT: Object = {"type": "object", "properties": {}}
"""The parameters of a function that names none."""

_JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no words around it, no code fences."
)


def bind(
    model: BaseChatModel, can: Capabilities, request: TurnRequest
) -> Runnable[LanguageModelInput, AIMessage]:
    """Return the model with everything of a request bound but its messages."""
    options = _sampling(can, request)
    format = find_format(request)
    if format is not None and not _must_tell_format(can, format):
        _add_format(options, can, format)
    tools = offered_tools(can, request)
    if can.family is Family.OLLAMA:
        model = _with_fields(model, options)
    if can.family is Family.OPENAI and "extra_body" in options:
        extra = getattr(model, "extra_body", None) or {}
        options["extra_body"] = {**extra, **options["extra_body"]}
    if tools:
        return model.bind_tools(
            [_to_tool(tool, can) for tool in tools], **_choice(can, request, tools), **options
        )
    return model.bind(**options) if options else model


def offered_tools(can: Capabilities, request: TurnRequest) -> Sequence[Object]:
    """Return the tools that the model is told of; none if it may not call any."""
    # "none" is a tool's name for some providers, so that forbidding is not offering.
    return request.tools if can.tools and request.tool_choice != "none" else ()


def find_format(request: TurnRequest) -> Object | None:
    """Return the format of the answer if it is not free text."""
    format = request.response_format
    if not isinstance(format, dict) or format.get("type") not in ("json_object", "json_schema"):
        return None
    return format


def add_instructions(
    messages: Sequence[BaseMessage], can: Capabilities, request: TurnRequest
) -> list[BaseMessage]:
    """Return the messages, with the format of the answer in words where it cannot be bound."""
    format = find_format(request)
    if format is None or not _must_tell_format(can, format):
        return list(messages)
    text = _JSON_ONLY
    if format["type"] == "json_schema":
        schema = format.get("json_schema", {}).get("schema", {})
        text += f" It must fit this JSON Schema:\n{json.dumps(schema)}"
    if messages and isinstance(messages[0], SystemMessage):
        first, *rest = messages
        return [SystemMessage(f"{first.text}\n\n{text}"), *rest]
    return [SystemMessage(text), *messages]


def _must_tell_format(can: Capabilities, format: Object) -> bool:
    return not can.response_format or (
        can.family is Family.ANTHROPIC and format["type"] == "json_object"
    )


def _add_format(options: dict[str, Any], can: Capabilities, format: Object) -> None:
    if can.family is not Family.OPENAI:
        options["response_format"] = format
    elif can.responses:
        named = format.get("json_schema", {}) if format["type"] == "json_schema" else {}
        options["text"] = {"format": {"type": format["type"], **named}}
    else:
        # As a parameter it would go through the SDK's parser, which takes strict tools only.
        options.setdefault("extra_body", {})["response_format"] = format


def _sampling(can: Capabilities, request: TurnRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in (("temperature", request.temperature), ("top_p", request.top_p)):
        # 1 is what every run has if nobody asked for anything: then the model's own default rules.
        if can.temperature and value is not None and value != 1:
            options[name] = value
    if can.family is Family.ANTHROPIC and "temperature" in options:
        options["temperature"] = min(options["temperature"], 1.0)  # its highest
        options.pop("top_p", None)  # its newer models refuse both at once
    if request.max_tokens is not None:
        limit = min(request.max_tokens, can.max_output or request.max_tokens)
        if can.foreign:
            # The older name, which every such server knows.
            options["extra_body"] = {"max_tokens": limit}
        else:
            options["max_output_tokens" if can.family is Family.GOOGLE else "max_tokens"] = limit
    effort = _find_effort(can, request.reasoning_effort)
    if effort is not None:
        options["reasoning" if can.family is Family.OLLAMA else "reasoning_effort"] = effort
    return options


def _find_effort(can: Capabilities, effort: str | None) -> str | bool | None:
    if effort is None or (can.efforts is not None and effort not in can.efforts):
        return None
    if can.family is Family.OLLAMA:
        return False if effort == "none" else effort
    return effort


def _with_fields(model: BaseChatModel, options: dict[str, Any]) -> BaseChatModel:
    """Return the model with what it takes only as its fields, and remove that from the options."""
    names = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "num_predict"}
    update = {field: options.pop(name) for name, field in names.items() if name in options}
    return model.model_copy(update=update) if update else model


def _choice(can: Capabilities, request: TurnRequest, tools: Sequence[Object]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    choice = _find_choice(request.tool_choice, tools)
    if choice is not None and can.tool_choice and can.family is not Family.OLLAMA:
        options["tool_choice"] = choice
    if not request.parallel and can.parallel_switch:
        options["parallel_tool_calls"] = False
    return options


def _find_choice(choice: str | Object | None, tools: Sequence[Object]) -> str | None:
    if choice == "required":
        return "any"  # the one word for it that every package knows
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "function":
        name = choice.get("function", {}).get("name")
        return name if any(tool["function"]["name"] == name for tool in tools) else None
    return find_code_tool(tools)


def _to_tool(tool: Object, can: Capabilities) -> Object:
    function = {"description": "", "parameters": _ANY_OBJECT, **tool["function"]}
    if function["parameters"] is None:
        function["parameters"] = _ANY_OBJECT
    if not can.strict or function.get("strict") is None:
        function.pop("strict", None)
    return {"type": "function", "function": function}
