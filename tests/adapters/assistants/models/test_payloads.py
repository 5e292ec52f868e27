"""What a run asks for, in each provider's words: the requests as they leave the machine."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import binding
from ci_tools_assistants.models.capabilities import Capabilities, Family, find_capabilities
from tests.adapters.assistants.models.rig import (
    SCHEMA,
    SHAPES,
    TOOLS,
    WEATHER,
    entry_for,
    finish,
    open_model,
    request,
)
from tests.adapters.assistants.scripted.script import turn
from tests.adapters.assistants.scripted.server import ScriptedServer

NAMED = {"type": "function", "function": {"name": "get_weather"}}
CODE = {"type": "code_interpreter"}


async def payload(shape: str, server: ScriptedServer, /, **fields: Any) -> Mapping[str, Any]:
    """Return the body that a request becomes."""
    server.follow([turn("{}")])
    more = fields.pop("entry", {})
    async with open_model(entry_for(shape, server, **more)) as model:
        await finish(model, request(**fields))
    return server.requests[0].body


@pytest.mark.parametrize(
    ("shape", "choice", "expected"),
    [
        ("chat", "required", "required"),
        ("chat", NAMED, {"type": "function", "function": {"name": "get_weather"}}),
        ("chat", CODE, {"type": "function", "function": {"name": "code_interpreter"}}),
        ("chat", "auto", None),
        ("responses", "required", "required"),
        ("responses", NAMED, {"type": "function", "name": "get_weather"}),
        ("responses", CODE, {"type": "function", "name": "code_interpreter"}),
        ("anthropic", "required", {"type": "any"}),
        ("anthropic", NAMED, {"type": "tool", "name": "get_weather"}),
        ("anthropic", CODE, {"type": "tool", "name": "code_interpreter"}),
        ("ollama", "required", None),
        ("ollama", NAMED, None),
    ],
)
async def test_choice_of_tools_has_the_providers_words(
    shape: str, choice: Any, expected: Any, server: ScriptedServer
) -> None:
    body = await payload(shape, server, tools=TOOLS, tool_choice=choice)

    assert body.get("tool_choice") == expected
    assert len(body["tools"]) == 2


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_tools_are_offered_if_none_may_be_called(
    shape: str, server: ScriptedServer
) -> None:
    body = await payload(shape, server, tools=TOOLS, tool_choice="none")

    assert "tools" not in body or not body["tools"]
    assert "tool_choice" not in body


async def test_choice_that_is_no_tool_is_left_out(server: ScriptedServer) -> None:
    body = await payload("chat", server, tools=[WEATHER], tool_choice=CODE)

    assert "tool_choice" not in body


@pytest.mark.parametrize("shape", SHAPES)
async def test_function_without_parameters_can_be_offered(
    shape: str, server: ScriptedServer
) -> None:
    tool = {"type": "function", "function": {"name": "now"}}

    body = await payload(shape, server, tools=[tool])

    assert '"name": "now"' in json.dumps(body["tools"])


async def test_strict_is_each_tools_own(server: ScriptedServer) -> None:
    tools = [
        {"type": "function", "function": {**WEATHER["function"], "strict": strict}}
        for strict in (True, None)
    ]

    known = await payload("chat", server, tools=tools, response_format=SCHEMA)
    unknown = await payload("chat", server, tools=tools, entry={"strict": False})

    assert [tool["function"].get("strict") for tool in known["tools"]] == [True, None]
    assert [tool["function"].get("strict") for tool in unknown["tools"]] == [None, None]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("chat", {"parallel_tool_calls": False}),
        ("responses", {"parallel_tool_calls": False}),
        ("anthropic", {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}),
        ("ollama", {}),
    ],
)
async def test_parallel_calls_are_forbidden_where_that_is_possible(
    shape: str, expected: Mapping[str, Any], server: ScriptedServer
) -> None:
    body = await payload(shape, server, tools=TOOLS, parallel=False)

    keys = ("parallel_tool_calls", "tool_choice")
    assert {key: body[key] for key in keys if key in body} == expected


@pytest.mark.parametrize(
    ("shape", "key", "expected"),
    [
        ("chat", "response_format", SCHEMA),
        ("responses", "text", {"format": {"type": "json_schema", **SCHEMA["json_schema"]}}),
        ("ollama", "format", SCHEMA["json_schema"]["schema"]),
    ],
)
async def test_schema_of_the_answer_is_bound(
    shape: str, key: str, expected: Any, server: ScriptedServer
) -> None:
    body = await payload(shape, server, response_format=SCHEMA, tools=TOOLS)

    assert body[key] == expected


async def test_schema_of_the_answer_is_bound_for_anthropic(server: ScriptedServer) -> None:
    body = await payload("anthropic", server, response_format=SCHEMA)

    assert body["output_config"]["format"]["type"] == "json_schema"
    assert body["output_config"]["format"]["schema"]["properties"] == {"a": {"type": "string"}}


@pytest.mark.parametrize(
    ("shape", "key", "expected"),
    [
        ("chat", "response_format", {"type": "json_object"}),
        ("responses", "text", {"format": {"type": "json_object"}}),
        ("ollama", "format", "json"),
    ],
)
async def test_json_mode_is_bound(
    shape: str, key: str, expected: Any, server: ScriptedServer
) -> None:
    body = await payload(shape, server, response_format={"type": "json_object"})

    assert body[key] == expected


async def test_json_mode_is_said_in_words_where_it_does_not_exist(server: ScriptedServer) -> None:
    body = await payload("anthropic", server, response_format={"type": "json_object"})

    assert body["system"].startswith("Be brief.\n\nAnswer with one valid JSON object")


async def test_schema_is_said_in_words_if_the_entry_asks_for_that(server: ScriptedServer) -> None:
    body = await payload("chat", server, response_format=SCHEMA, entry={"response_format": False})

    assert "response_format" not in body
    assert '"properties": {"a"' in server.requests[0].system


@pytest.mark.parametrize("format", ["auto", "none", None, {"type": "text"}])
async def test_free_text_needs_no_format(format: Any, server: ScriptedServer) -> None:
    body = await payload("chat", server, response_format=format)

    assert "response_format" not in body


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("chat", {"temperature": 0.5, "top_p": 0.9}),
        ("responses", {"temperature": 0.5, "top_p": 0.9}),
        ("anthropic", {"temperature": 0.5}),  # its newer models take one of them only
    ],
)
async def test_sampling_is_passed_on(
    shape: str, expected: Mapping[str, float], server: ScriptedServer
) -> None:
    body = await payload(shape, server, temperature=0.5, top_p=0.9)

    assert {key: body[key] for key in ("temperature", "top_p") if key in body} == expected


async def test_sampling_of_ollama_is_among_its_options(server: ScriptedServer) -> None:
    entry = {"options": {"num_ctx": 8192}}

    body = await payload("ollama", server, temperature=0.5, top_p=0.9, max_tokens=300, entry=entry)

    assert body["options"] == {
        "temperature": 0.5,
        "top_p": 0.9,
        "num_predict": 300,
        "num_ctx": 8192,
    }


@pytest.mark.parametrize("shape", SHAPES)
async def test_defaults_of_a_run_leave_the_models_own(shape: str, server: ScriptedServer) -> None:
    body = await payload(shape, server, temperature=1.0, top_p=1.0)

    assert "temperature" not in json.dumps(body)
    assert "top_p" not in json.dumps(body)


async def test_model_that_takes_no_temperature_gets_none(server: ScriptedServer) -> None:
    body = await payload("chat", server, temperature=0.5, entry={"temperature": False})

    assert "temperature" not in body


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("chat", {"max_tokens": 300}),
        ("responses", {"max_output_tokens": 300}),
        ("anthropic", {"max_tokens": 300}),
    ],
)
async def test_length_of_the_answer_is_bounded(
    shape: str, expected: Mapping[str, int], server: ScriptedServer
) -> None:
    body = await payload(shape, server, max_tokens=300)

    keys = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    assert {key: body[key] for key in keys if key in body} == expected


async def test_extra_body_of_an_entry_stays(server: ScriptedServer) -> None:
    entry = {"options": {"extra_body": {"top_k": 20}}}

    body = await payload("chat", server, max_tokens=300, entry=entry)

    assert (body["top_k"], body["max_tokens"]) == (20, 300)


@pytest.mark.parametrize(
    ("shape", "key", "expected"),
    [
        ("chat", "reasoning_effort", "high"),
        ("responses", "reasoning", {"effort": "high"}),
        ("anthropic", "output_config", {"effort": "high"}),
        ("ollama", "think", "high"),
    ],
)
async def test_effort_is_passed_on_if_the_model_has_it(
    shape: str, key: str, expected: Any, server: ScriptedServer
) -> None:
    body = await payload(shape, server, reasoning_effort="high", entry={"reasoning": True})
    without = await payload(shape, server, reasoning_effort="high", entry={"reasoning": False})

    assert body[key] == expected
    assert without.get(key) is None


async def test_effort_that_the_profile_does_not_know_is_left_out(server: ScriptedServer) -> None:
    body = await payload("anthropic", server, reasoning_effort="minimal")

    assert "output_config" not in body


async def test_usage_is_asked_for_at_any_address(server: ScriptedServer) -> None:
    body = await payload("chat", server)

    assert body["stream_options"] == {"include_usage": True}


async def test_key_of_a_provider_is_not_sent_to_another_address(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")

    sent = []
    for shape in SHAPES:
        await payload(shape, server)
        sent.append(json.dumps(dict(server.requests[0].headers)))

    assert "sk-secret" not in "".join(sent)


async def test_key_is_taken_from_the_variable_that_the_entry_names(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEY", "sk-lab")

    await payload("chat", server, entry={"api_key_env": "LAB_KEY"})

    assert server.requests[0].headers["authorization"] == "Bearer sk-lab"


def google(**more: Any) -> tuple[BaseChatModel, Capabilities]:
    """Return a model of Google; nothing is sent to it."""
    google_genai = pytest.importorskip("langchain_google_genai")
    model = google_genai.ChatGoogleGenerativeAI(model="gemini-2.5-flash", api_key="x")
    return model, find_capabilities(model, ModelEntry(use="google_genai:m", **more))


def test_google_has_its_own_names() -> None:
    model, can = google()
    asked = request(
        tools=TOOLS, tool_choice="required", parallel=False, max_tokens=300, temperature=0.5
    )

    bound = binding.bind(model, can, asked)

    assert can.family is Family.GOOGLE
    options = bound.kwargs  # type: ignore[attr-defined] # of a RunnableBinding
    assert "parallel_tool_calls" not in options
    assert options["max_output_tokens"] == 300
    assert options["temperature"] == 0.5
    assert "max_tokens" not in options


def test_openai_itself_gets_its_newer_names() -> None:
    model = ChatOpenAI(model="gpt-5", api_key=SecretStr("x"))
    can = find_capabilities(model, ModelEntry(use="openai:gpt-5"))
    asked = request(max_tokens=300, temperature=0.5, top_p=0.5, reasoning_effort="low")

    bound = binding.bind(model, can, asked)

    assert not can.foreign
    assert bound.kwargs == {  # type: ignore[attr-defined] # of a RunnableBinding
        "max_tokens": 300,
        "reasoning_effort": "low",
    }
