"""The tools, resources and prompts that the conformance suite asks every server for.

They are added to our own server, so the suite tests our app, our transport and our subclass.
"""

import base64
import json
import struct
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    ContentBlock,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

from ci_tools_mcp.access import Access, Call


def add_fixtures(server: MCPServer[Access]) -> None:
    """Add everything that the suite calls by name."""
    for tool in (
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_error_handling,
        test_tool_with_progress,
        test_tool_with_logging,
        test_logging_tool,
        test_sampling,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
        test_missing_capability,
        test_streaming_elicitation,
        test_trigger_tool_change,
        test_trigger_prompt_change,
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_capabilities,
    ):
        server.add_tool(tool, description=f"Conformance: {tool.__name__}.")
    for prompt in (
        test_simple_prompt,
        test_prompt_with_arguments,
        test_prompt_with_embedded_resource,
        test_prompt_with_image,
        test_input_required_result_prompt,
    ):
        server.prompt(description=f"Conformance: {prompt.__name__}.")(prompt)
    server.resource("test://static-text", mime_type="text/plain")(static_text)
    server.resource("test://static-binary", mime_type="image/png")(static_binary)
    server.resource("test://template/{id}/data", mime_type="application/json")(template_data)
    server.resource("test://watched-resource", mime_type="text/plain")(watched_resource)
    _add_removed_methods(server)


def _add_removed_methods(server: MCPServer[Access]) -> None:
    """Serve methods that 2026-07-28 removed and that our product does not offer."""
    lowlevel = server._lowlevel_server  # MCPServer has no public way to serve them.
    subscriptions: set[str] = set()

    async def subscribe(
        context: ServerRequestContext[Access], params: SubscribeRequestParams
    ) -> EmptyResult:
        subscriptions.add(params.uri)
        return EmptyResult()

    async def unsubscribe(
        context: ServerRequestContext[Access], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        subscriptions.discard(params.uri)
        return EmptyResult()

    async def set_level(
        context: ServerRequestContext[Access], params: SetLevelRequestParams
    ) -> EmptyResult:
        return EmptyResult()

    lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe)
    lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)


# Tools: content


def test_simple_text() -> str:
    return "This is a simple text response for testing."


def test_image_content() -> CallToolResult:
    return CallToolResult(content=[_image()])


def test_audio_content() -> CallToolResult:
    sound = (
        b"RIFF"
        + struct.pack("<I", 36)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8)
        + b"data"
        + struct.pack("<I", 0)
    )
    data = base64.b64encode(sound).decode()
    return CallToolResult(content=[AudioContent(type="audio", data=data, mime_type="audio/wav")])


def test_embedded_resource() -> CallToolResult:
    text = "This is an embedded resource content."
    return CallToolResult(content=[_resource("test://embedded-resource", "text/plain", text)])


def test_multiple_content_types() -> CallToolResult:
    data = json.dumps({"test": "data", "value": 123})
    content: list[ContentBlock] = [
        TextContent(type="text", text="Multiple content types test:"),
        _image(),
        _resource("test://mixed-content-resource", "application/json", data),
    ]
    return CallToolResult(content=content)


def test_error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


# Tools: notifications and requests to the client


async def test_tool_with_progress(context: Call) -> str:
    for progress in (0, 50, 100):
        await context.report_progress(progress, 100)
        await anyio.sleep(0.05)
    return "Progress was reported."


async def test_tool_with_logging(context: Call) -> str:
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await _log(context, text)
        await anyio.sleep(0.05)
    return "Messages were logged."


async def test_logging_tool(context: Call) -> str:
    await _log(context, "Only for those who asked for it.")
    return "A message was logged, if it was asked for."


async def test_sampling(context: Call, prompt: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        message = await context.session.create_message(
            [SamplingMessage(role="user", content=TextContent(type="text", text=prompt))],
            max_tokens=100,
            related_request_id=context.request_id,
        )
    return f"LLM response: {message.content}"


async def test_elicitation(context: Call, message: str) -> str:
    properties = {
        "username": {"type": "string", "description": "User's response"},
        "email": {"type": "string", "description": "User's email address"},
    }
    result = await _elicit(context, message, properties, required=["username", "email"])
    return f"User response: {result.action}, {result.content}"


async def test_elicitation_sep1034_defaults(context: Call) -> str:
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {
            "type": "string",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "default": True},
    }
    result = await _elicit(context, "Check the defaults.", properties)
    return f"Elicitation completed: action={result.action}, content={result.content}"


async def test_elicitation_sep1330_enums(context: Call) -> str:
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]
    properties = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    result = await _elicit(context, "Choose.", properties)
    return f"Elicitation completed: action={result.action}, content={result.content}"


async def test_missing_capability(context: Call) -> str:
    capabilities = context.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            code=MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="The client must be able to sample.",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return "The client can sample."


async def test_streaming_elicitation(context: Call) -> InputRequiredResult | str:
    await context.report_progress(1)
    if context.input_responses:
        return "Answered."
    return InputRequiredResult(input_requests={"answer": _ask("Well?", "answer")})


async def test_trigger_tool_change(context: Call) -> str:
    await context.notify_tools_changed()
    return "Told."


async def test_trigger_prompt_change(context: Call) -> str:
    await context.notify_prompts_changed()
    return "Told."


# Tools and a prompt that ask back (SEP-2322)


async def test_input_required_result_elicitation(context: Call) -> InputRequiredResult | str:
    answer = _answers(context).get("user_name")
    if isinstance(answer, ElicitResult) and answer.content and "name" in answer.content:
        return f"Hello, {answer.content['name']}!"
    return InputRequiredResult(input_requests={"user_name": _ask("What is your name?", "name")})


async def test_input_required_result_sampling(context: Call) -> InputRequiredResult | str:
    answer = _answers(context).get("capital_question")
    if answer is not None:
        return f"The client says: {answer}"
    return InputRequiredResult(
        input_requests={"capital_question": _sample("What is the capital of France?")}
    )


async def test_input_required_result_list_roots(context: Call) -> InputRequiredResult | str:
    answer = _answers(context).get("client_roots")
    if answer is not None:
        return f"The client has these roots: {answer}"
    return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})


async def test_input_required_result_request_state(context: Call) -> InputRequiredResult | str:
    if context.request_state == "confirming" and "confirm" in _answers(context):
        return "state-ok"
    return InputRequiredResult(
        input_requests={"confirm": _ask("Please confirm", "ok", type_="boolean")},
        request_state="confirming",
    )


async def test_input_required_result_tampered_state(context: Call) -> InputRequiredResult | str:
    return await test_input_required_result_request_state(context)


async def test_input_required_result_multiple_inputs(context: Call) -> InputRequiredResult | str:
    answers = _answers(context)
    if context.request_state == "several" and len(answers) >= 3:
        return f"Answered: {', '.join(sorted(answers))}"
    requests: dict[str, InputRequest] = {
        "user_name": _ask("What is your name?", "name"),
        "greeting": _sample("Generate a greeting"),
        "client_roots": ListRootsRequest(),
    }
    return InputRequiredResult(input_requests=requests, request_state="several")


async def test_input_required_result_multi_round(context: Call) -> InputRequiredResult | str:
    answers = _answers(context)
    if context.request_state == "second" and "step2" in answers:
        return "Both rounds are done."
    if context.request_state == "first" and "step1" in answers:
        return InputRequiredResult(
            input_requests={"step2": _ask("Step 2: What is your favorite color?", "color")},
            request_state="second",
        )
    return InputRequiredResult(
        input_requests={"step1": _ask("Step 1: What is your name?", "name")},
        request_state="first",
    )


async def test_input_required_result_capabilities(context: Call) -> InputRequiredResult | str:
    capabilities = context.client_capabilities
    requests: dict[str, InputRequest] = {}
    if capabilities is not None and capabilities.elicitation is not None:
        requests["name"] = _ask("What is your name?", "name")
    if capabilities is not None and capabilities.sampling is not None:
        requests["greeting"] = _sample("Generate a greeting")
    return InputRequiredResult(input_requests=requests) if requests else "Nothing to ask with."


async def test_input_required_result_prompt(context: Call) -> InputRequiredResult | str:
    answer = _answers(context).get("user_context")
    if isinstance(answer, ElicitResult):
        return f"Use this context: {answer.content}"
    return InputRequiredResult(
        input_requests={"user_context": _ask("What context should the prompt use?", "context")}
    )


# Prompts


def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    text = "Embedded resource content for testing."
    return [
        UserMessage(_resource(resourceUri, "text/plain", text)),
        UserMessage("Please process the embedded resource above."),
    ]


def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


# Resources


def static_text() -> str:
    """A text that never changes."""
    return "This is the content of the static text resource."


def static_binary() -> bytes:
    """An image that never changes."""
    return _png()


def template_data(id: str) -> str:
    """JSON made from the address."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def watched_resource() -> str:
    """Something to subscribe to."""
    return "Watched."


# Parts


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\xff\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    )


def _image() -> ImageContent:
    data = base64.b64encode(_png()).decode()
    return ImageContent(type="image", data=data, mime_type="image/png")


def _resource(uri: str, media_type: str, text: str) -> EmbeddedResource:
    contents = TextResourceContents(uri=uri, mime_type=media_type, text=text)
    return EmbeddedResource(type="resource", resource=contents)


def _ask(message: str, name: str, *, type_: str = "string") -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": type_}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(
        params=CreateMessageRequestParams(messages=[message], max_tokens=100)
    )


def _answers(context: Call) -> Mapping[str, Any]:
    return context.input_responses or {}


async def _elicit(
    context: Call, message: str, properties: dict[str, Any], *, required: list[str] | None = None
) -> ElicitResult:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    result: ElicitResult = await context.session.elicit_form(message, schema, context.request_id)
    return result


async def _log(context: Call, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        await context.session.send_log_message(
            level="info", data=text, related_request_id=context.request_id
        )
