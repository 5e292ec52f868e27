"""What one turn sends to a model, and the events that come back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage

from ci_tools_assistants.objects import Object

Finish: TypeAlias = Literal["stop", "tool_calls", "length", "content_filter", "refusal"]
"""Why a turn ended, whatever words the provider has for it."""

Shorten: TypeAlias = Callable[[int | None], Sequence[BaseMessage]]
"""Return shorter messages, given the model's window in tokens if it is known."""


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """One request to a model, in the words of the Assistants API."""

    messages: Sequence[BaseMessage]
    tools: Sequence[Object] = ()
    """Functions as `{"type": "function", "function": {…}}`, the code interpreter's among them."""
    tool_choice: str | Object | None = None
    """`none`, `auto`, `required`, `{"type": "function", …}` or `{"type": "code_interpreter"}`."""
    parallel: bool = True
    response_format: str | Object | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    max_tokens: int | None = None
    """The most tokens that the answer may have."""
    shorten: Shorten | None = None
    """Called once if the messages do not fit into the model's window; None fails then."""


@dataclass(frozen=True)
class TextDelta:
    """A piece of the answer's text; never empty."""

    text: str


@dataclass(frozen=True)
class RefusalDelta:
    """A piece of a refusal; never empty."""

    text: str


@dataclass(frozen=True)
class CallStarted:
    """The model begins to call a tool; `index` counts the calls of the turn from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ArgumentsDelta:
    """A piece of the JSON text of a call's arguments; never empty."""

    index: int
    fragment: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a tool with the whole JSON text of its arguments."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The tokens of one turn."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Those of the prompt that came from a cache."""
    reasoning_tokens: int = 0
    """Those of the completion that nobody sees."""
    is_estimated: bool = False
    """Whether the provider said nothing, and the numbers are guesses."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def to_object(self) -> Object:
        """Return the usage as runs and steps show it."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class TurnDone:
    """The end of a turn, and all of it once more."""

    text: str
    calls: Sequence[Call]
    """Calls whose arguments are a JSON object; only these may be executed."""
    broken: Sequence[Call] = ()
    """Calls that were cut off or whose arguments are no JSON object; never execute them."""
    finish: Finish
    usage: Usage
    refusal: str = ""
    message: AIMessage | None = None
    """With calls: the provider's own message, for `Conversation.answers`; it can hold what the
    provider wants back in the next turn, such as signed reasoning."""


TurnEvent: TypeAlias = TextDelta | RefusalDelta | CallStarted | ArgumentsDelta | TurnDone
