"""A chat model without a model: it answers in the service's own process, at once or at a beat.

What the last message of the user says is what it does; every text it sends is the time of sending.
"""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import anyio
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

TEXTS = 20
"""Pieces of an answer that comes at a beat."""

BEAT = 0.05
"""Seconds from one of them to the next."""

CODE = "1 + 1"
"""What it runs when it is asked to compute."""


class InstantModel(BaseChatModel):
    """Says one piece of text; asked to `compute` it runs code first, to `talk` it says more."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        """Take tools without looking at them."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = list(self._stream(messages))
        message = chunks[0].message
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield _say(_now())

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = next(str(one.content) for one in reversed(messages) if one.type == "human")
        if "compute" in asked and not isinstance(messages[-1], ToolMessage):
            yield _call()
            return
        texts = TEXTS if "talk" in asked else 1
        started = anyio.current_time()
        for number in range(texts):
            if number:
                await anyio.sleep_until(started + number * BEAT)
            yield _say(_now())


def create_model(**options: Any) -> InstantModel:
    """Return the model; the service calls this by its import path."""
    return InstantModel()


def _now() -> str:
    # This clock is one for all processes of a machine.
    return f" {time.monotonic_ns()}"


def _say(text: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=text))


def _call() -> ChatGenerationChunk:
    call = tool_call_chunk(
        name="code_interpreter", args=f'{{"code": "{CODE}"}}', id="call_1", index=0
    )
    return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[call]))
