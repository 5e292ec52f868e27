"""Output while code runs: on LangGraph's stream of tool output, and as custom events.

A piece of output is a standard content block. It goes to `stream_mode="tools"` and, in an envelope,
to `stream_mode="custom"` and to `astream_events` (`on_custom_event`, name `ci_tools_output`).
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.callbacks.base import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig

from ci_tools.models import (
    CommandEvent,
    CommandOutput,
    DisplayOutput,
    StepEvent,
    StepOutput,
    StreamOutput,
)
from langchain_ci_tools.content import IMAGE_TYPES

EVENT = "ci_tools_output"
"""The name of the custom event, and the type of the envelope."""


class Listeners:
    """Whoever wants to see the output of one call while it runs."""

    def __init__(
        self, runtime: Any, run_manager: Any, *, tool_call_id: str | None, tool: str
    ) -> None:
        self._runtime = runtime
        self._envelope = {"type": EVENT, "tool": tool, "tool_call_id": tool_call_id}
        handlers: Sequence[BaseCallbackHandler] = getattr(run_manager, "handlers", ())
        self._config: RunnableConfig | None = None
        if handlers:
            callbacks: BaseCallbackManager = run_manager.get_child()
            self._config = {"callbacks": callbacks}

    def __bool__(self) -> bool:
        return self._runtime is not None or self._config is not None

    def emit(self, block: object) -> None:
        """Hand on a piece of output."""
        self._to_graph(block)
        if self._config is not None:
            dispatch_custom_event(EVENT, {**self._envelope, "output": block}, config=self._config)

    async def aemit(self, block: object) -> None:
        """Hand on a piece of output."""
        self._to_graph(block)
        if self._config is not None:
            await adispatch_custom_event(
                EVENT, {**self._envelope, "output": block}, config=self._config
            )

    def _to_graph(self, block: object) -> None:
        if self._runtime is None:
            return
        # A runtime of an old LangGraph, or one made by hand, may lack either.
        if (emit_output_delta := getattr(self._runtime, "emit_output_delta", None)) is not None:
            emit_output_delta(block)
        if (write := getattr(self._runtime, "stream_writer", None)) is not None:
            write({**self._envelope, "output": block})


def to_block(event: StepEvent | CommandEvent) -> dict[str, Any] | None:
    """Return what an event shows, as a content block; None if that is nothing."""
    match event:
        case StepOutput(output=StreamOutput() as output):
            return {"type": "text", "text": output.text, "extras": {"stream": output.name}}
        case CommandOutput():
            return {"type": "text", "text": event.text, "extras": {"stream": event.name}}
        case StepOutput(output=DisplayOutput() as display):
            for media_type in IMAGE_TYPES:
                if isinstance(data := display.data.get(media_type), str):
                    return {"type": "image", "base64": data, "mime_type": media_type}
            text = display.data.get("text/plain")
            return {"type": "text", "text": text} if isinstance(text, str) else None
        case _:
            return None
