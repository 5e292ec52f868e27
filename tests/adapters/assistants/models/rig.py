"""Models of every shape against one scripted server, and how tests ask them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import (
    ChatModel,
    TurnDone,
    TurnEvent,
    TurnRequest,
    create_code_tool,
    open_registry,
)
from ci_tools_assistants.objects import Object
from tests.adapters.assistants.scripted.server import ScriptedServer

SHAPES = ("chat", "responses", "anthropic", "ollama")

WEATHER: Object = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TOOLS = (WEATHER, create_code_tool())
SCHEMA: Object = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}


def entry_for(shape: str, server: ScriptedServer, **more: Any) -> ModelEntry:
    """Return the entry of a model that the scripted server answers in one shape."""
    match shape:
        case "chat":
            return ModelEntry(use="openai:gpt-4o", base_url=server.url, **more)
        case "responses":
            options = {"use_responses_api": True, **more.pop("options", {})}
            return ModelEntry(use="openai:gpt-4o", base_url=server.url, options=options, **more)
        case "anthropic":
            return ModelEntry(use="anthropic:claude-opus-4-6", base_url=server.root, **more)
        case _:
            return ModelEntry(use="ollama:qwen3", base_url=server.root, **more)


@asynccontextmanager
async def open_model(entry: ModelEntry) -> AsyncIterator[ChatModel]:
    """Open the model of one entry."""
    async with open_registry({"m": entry}) as registry:
        yield registry.resolve("m")


def request(**fields: Any) -> TurnRequest:
    """Return a request with a system's and a user's message."""
    messages = (SystemMessage("Be brief."), HumanMessage("Hi"))
    return TurnRequest(**{"messages": messages, **fields})


async def ask(model: ChatModel, asked: TurnRequest | None = None) -> list[TurnEvent]:
    """Return all events of a turn."""
    async with model.turn(asked or request()) as events:
        return [event async for event in events]


async def finish(model: ChatModel, asked: TurnRequest | None = None) -> TurnDone:
    """Return the end of a turn."""
    return end_of(await ask(model, asked))


def end_of(events: Sequence[TurnEvent]) -> TurnDone:
    """Return the last event of a turn."""
    *_, done = events
    assert isinstance(done, TurnDone)
    return done
