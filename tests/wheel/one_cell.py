"""A chat model without a network, named by `use = "one_cell:make"`: one cell, then its result."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

CALL = {"name": "code_interpreter", "args": {"code": "print(6 * 7)"}, "id": "call_1"}


class OneCell(BaseChatModel):
    """Calls the code interpreter, and then answers with what the code has printed."""

    @property
    def _llm_type(self) -> str:
        return "one-cell"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Take any tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        last = messages[-1]
        answer = AIMessage(content="", tool_calls=[CALL])
        if isinstance(last, ToolMessage):
            answer = AIMessage(content=f"The code says {last.text}")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def make(**options: Any) -> OneCell:
    """Return the model."""
    return OneCell()
