"""OpenAI's chat model, as langchain-openai has it, with what its streams leave out.

Imported only when an entry needs it: the package takes two seconds.
"""

from typing import Any

import openai
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import AzureChatOpenAI, ChatOpenAI


class _KeepsAll:
    """Keeps the refusal of a streamed answer, and does not try to understand parts of arguments.

    Chat completions have a refusal beside the text. Fragments of arguments are passed by the
    package's message, which parses each as JSON, in time that grows with the square of its length:
    a server that sends twenty kilobytes at once would stop the event loop for seconds.
    """

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *rest: Any
    ) -> ChatGenerationChunk | None:
        choices = chunk.get("choices") or ()
        delta = (choices[0].get("delta") if choices else None) or {}
        fragments = [_take_arguments(call) for call in delta.get("tool_calls") or ()]
        convert = super()._convert_chunk_to_generation_chunk  # type: ignore[misc] # a mixin's
        made: ChatGenerationChunk | None = convert(chunk, *rest)
        if made is None:
            return None
        if refusal := delta.get("refusal"):
            made.message.additional_kwargs["refusal"] = refusal
        if isinstance(made.message, AIMessageChunk):
            for call, fragment in zip(made.message.tool_call_chunks, fragments, strict=False):
                call["args"] = fragment
        return made


def _take_arguments(call: dict[str, Any]) -> str | None:
    """Take the fragment out of a call's delta; nothing is left there to be parsed."""
    function = call.get("function") or {}
    fragment: str | None = function.get("arguments")
    if fragment:
        function["arguments"] = ""
    return fragment


class OpenAIModel(_KeepsAll, ChatOpenAI):
    """A model of OpenAI, or of a server that imitates it."""


class AzureModel(_KeepsAll, AzureChatOpenAI):
    """A model of Azure OpenAI."""


def create_http_client(timeout: float) -> Any:
    """Return an HTTP client that the model's owner closes; the package's own are for ever."""
    return openai.DefaultAsyncHttpxClient(timeout=timeout)
