"""Chat models that entries of the settings name by import path."""

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage


def create_model(answer: str = "Hello from a factory") -> BaseChatModel:
    """Return a model that always answers the same."""
    return GenericFakeChatModel(messages=iter([AIMessage(answer)]))


MODEL = create_model("Hello from an object")


def create_nothing() -> None:
    """Return no model."""


def fail() -> BaseChatModel:
    """Fail with something secret."""
    raise RuntimeError("the secret is 42")
