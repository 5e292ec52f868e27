"""What a prompt is made of: a thread's messages, and what its runs did."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage

from ci_tools_assistants.models.tokens import count_messages
from ci_tools_assistants.objects import Object

LoadImage: TypeAlias = Callable[[str], Awaitable[tuple[str, bytes] | None]]
"""Return an image file's media type and bytes by the file's id; None if it is gone."""

IMAGE_LIMIT: Final = 20
"""Images of one prompt at most; the newest are shown, the others are named."""


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a call gave back, for the model's eyes."""

    text: str
    images: Sequence[tuple[str, str]] = ()
    """Media types and base64."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Everything that one turn's prompt is made of."""

    system: str
    """The instructions, and what the tools need to be said about them."""
    messages: Sequence[Object]
    """The messages of the thread, oldest first."""
    steps: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """The steps of runs, oldest first, by the run's id."""
    run_id: str = ""
    """The run that asks."""
    results: Mapping[str, ToolResult] = field(default_factory=dict)
    """Results of this run's calls by the call's id; others are taken from their steps."""
    answers: Sequence[AIMessage] = ()
    """`TurnDone.message` of this run's turns so far."""
    tools: Sequence[Object] = ()
    """The tools of the turn; without any, earlier calls are told as text."""
    truncation: Object | None = None
    """The run's `truncation_strategy`."""
    max_prompt_tokens: int | None = None
    """Tokens that the prompt may have, as far as the run still has them."""
    file_names: Mapping[str, str] = field(default_factory=dict)
    """Names of attached files by their ids."""
    load_image: LoadImage | None = None

    @property
    def size(self) -> int:
        """About how many characters there are to read, those of images not counted."""
        return sum(map(_size_of, (self.messages, [*self.steps.values()])))


@dataclass
class Group:
    """Messages that stay together: one of the thread, or calls with their results.

    Nothing of it is changed once it is made.
    """

    messages: list[BaseMessage]
    message_ids: list[str] = field(default_factory=list)
    """Messages of the thread in it."""
    run_id: str | None = None
    is_user: bool = False
    is_call: bool = False

    @cached_property
    def tokens(self) -> int:
        """About how many tokens it has; an image that is not loaded yet counts like one."""
        return count_messages(self.messages)

    @property
    def text(self) -> str:
        """The text of its only message."""
        return str(self.messages[0].text)


def _size_of(value: object) -> int:
    match value:
        case str():
            return len(value)
        case list():
            return sum(map(_size_of, value))
        case dict():
            return sum(map(_size_of, value.values()))
        case _:
            return 0
