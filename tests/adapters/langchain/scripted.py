"""A chat model that follows a script: real tool calling without a real model.

A turn of the script is what the model does next: a text, one or several tool calls, or a function
of the messages so far that returns such a thing. What it was sent is kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

Turn: TypeAlias = "str | ToolCall | list[ToolCall] | Callable[[list[BaseMessage]], Turn]"

VISION: ModelProfile = {"image_inputs": True, "image_tool_message": True, "tool_calling": True}
"""The profile of a model that looks at images wherever they are."""


def call(name: str, call_id: str = "call_1", **arguments: object) -> ToolCall:
    """Return a call of a tool."""
    return ToolCall(name=name, args=dict(arguments), id=call_id, type="tool_call")


class ScriptedModel(BaseChatModel):
    """A model that does what its script says, and the last turn again and again."""

    script: list[Any] = Field(default_factory=list)
    sent: list[list[BaseMessage]] = Field(default_factory=list)
    """The messages of each call."""

    offered: list[dict[str, Any]] = Field(default_factory=list)
    """The tools of the last call, as providers get them."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        self.offered[:] = [convert_to_openai_tool(tool) for tool in tools]
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.sent.append(messages)
        turn: Any = self.script.pop(0) if self.script else "Done."
        while callable(turn):
            turn = turn(messages)
        if isinstance(turn, str):
            message = AIMessage(content=turn)
        else:
            message = AIMessage(content="", tool_calls=turn if isinstance(turn, list) else [turn])
        return ChatResult(generations=[ChatGeneration(message=message)])
