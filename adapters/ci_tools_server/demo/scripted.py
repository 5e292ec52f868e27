"""The model of `ci-tools demo --assistants`: a script, which no provider and no network is behind.

It is reached like any other, by its import path in `CI_TOOLS_MODELS`, and what it says of a result
it reads in what the code printed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from ci_tools_server.demo.analysis import DATA, PLOT

_CODE = (
    f"""\
import pandas as pd

data = pd.read_csv("/mnt/data/{DATA}")
weekly = data.set_index(pd.to_datetime(data.date.astype(str))).co2
yearly = weekly.resample("YS").mean()
for start, end in ((1960, 1970), (1990, 2000)):
    rise = yearly[f"{{end}}"].iloc[0] - yearly[f"{{start}}"].iloc[0]
    print(f"{{start}} to {{end}}: {{rise / 10:.2f}} ppm a year")
""",
    f"""\
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
axes.plot(weekly.index, weekly, linewidth=0.7)
axes.set(title="Carbon dioxide at Mauna Loa, 1958 to 2001", ylabel="ppm by volume")
figure.savefig("/mnt/data/{PLOT}", dpi=120)
""",
)
"""What it runs, one call after the other."""

_RISE = re.compile(r"(\d{4}) to (\d{4}): ([\d.]+) ppm a year")

_PIECE = 24
"""Characters of one piece of an answer."""


class ScriptedModel(BaseChatModel):
    """Says the next line of its script."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> "ScriptedModel":
        """Take note of no tools: the script has one."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        chunks = [chunk.message for chunk in self._stream(messages)]
        message = add_ai_message_chunks(*(c for c in chunks if isinstance(c, AIMessageChunk)))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> Iterator[ChatGenerationChunk]:
        results = [message for message in messages if isinstance(message, ToolMessage)]
        if len(results) < len(_CODE):
            yield from _call(len(results))
        else:
            for piece in _cut(_report(results)):
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def _call(number: int) -> Iterator[ChatGenerationChunk]:
    """Call the code interpreter, as a provider streams it."""
    name: str | None = "code_interpreter"
    id: str | None = f"call_{number}"
    for piece in _cut(json.dumps({"code": _CODE[number]})):
        part = ToolCallChunk(name=name, id=id, args=piece, index=0)
        name = id = None
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))


def _report(results: Sequence[ToolMessage]) -> str:
    found = _RISE.findall("".join(str(message.content) for message in results))
    if not found:
        return "The code did not print what I expected; please look at the steps of this run."
    rises = ", ".join(f"{rise} ppm a year from {start} to {end}" for start, end, rise in found)
    return (
        f"Carbon dioxide at Mauna Loa rose by {rises}. "
        f"Here is [the plot](sandbox:/mnt/data/{PLOT})."
    )


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
