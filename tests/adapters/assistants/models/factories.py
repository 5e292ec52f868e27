"""Chat models that entries of the settings name by import path."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


def create_model(answer: str = "Hello from a factory") -> BaseChatModel:
    """Return a model that always answers the same."""
    return GenericFakeChatModel(messages=iter([AIMessage(answer)]))


MODEL = create_model("Hello from an object")


def create_nothing() -> None:
    """Return no model."""


def fail() -> BaseChatModel:
    """Fail with something secret."""
    raise RuntimeError("the secret is 42")


class WholeAnswers(BaseChatModel):
    """A model that has no way to stream, and always calls one function."""

    @property
    def _llm_type(self) -> str:
        return "whole-answers"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Take any tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        call = {"name": "get_weather", "args": {"city": "Bern"}, "id": "call_1"}
        answer = AIMessage(content="", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def create_whole() -> BaseChatModel:
    """Return it."""
    return WholeAnswers()
