"""OpenAI's chat model, as langchain-openai has it, with what its streams leave out.

Imported only when an entry needs it: the package takes two seconds.
"""

from typing import Any

import openai
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import AzureChatOpenAI, ChatOpenAI


class _KeepsRefusals:
    """Keeps the refusal of a streamed answer: chat completions have it beside the text."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], *rest: Any
    ) -> ChatGenerationChunk | None:
        convert = super()._convert_chunk_to_generation_chunk  # type: ignore[misc] # a mixin's
        made: ChatGenerationChunk | None = convert(chunk, *rest)
        choices = chunk.get("choices") or ()
        refusal = choices and (choices[0].get("delta") or {}).get("refusal")
        if made is not None and refusal:
            made.message.additional_kwargs["refusal"] = refusal
        return made


class OpenAIModel(_KeepsRefusals, ChatOpenAI):
    """A model of OpenAI, or of a server that imitates it."""


class AzureModel(_KeepsRefusals, AzureChatOpenAI):
    """A model of Azure OpenAI."""


def create_http_client(timeout: float) -> Any:
    """Return an HTTP client that the model's owner closes; the package's own are for ever."""
    return openai.DefaultAsyncHttpxClient(timeout=timeout)
