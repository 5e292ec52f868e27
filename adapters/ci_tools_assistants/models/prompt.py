"""The messages that a model gets for one turn: the whole conversation, or what fits of it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.models.answer import LARGE
from ci_tools_assistants.models.capabilities import Capabilities, Family
from ci_tools_assistants.models.conversation import IMAGE_LIMIT, Conversation, Group, LoadImage
from ci_tools_assistants.models.history import to_groups, to_image_block
from ci_tools_assistants.models.surrogates import join_halves
from ci_tools_assistants.models.tokens import count_text, count_tools
from ci_tools_assistants.models.truncation import choose_groups
from ci_tools_assistants.objects import Object

UNKNOWN_WINDOW: Final = 128_000
"""Tokens that a model is taken to have room for if neither its entry nor its profile says it."""

_MARGIN: Final = 0.9
"""Share of the window that is used, for tokens are estimated."""

_ANSWER: Final = 4_096
"""Tokens kept free for the answer."""

_RETRY_SHARE: Final = 0.5
"""Share of the first prompt that a second one may have after the first was too long."""

_EMPTY = "(The thread has no messages yet.)"
_ASSISTANT_FIRST = "(The conversation begins with a message of the assistant.)"
_GO_ON = "(Go on.)"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The messages of one turn."""

    messages: Sequence[BaseMessage]
    tokens: int
    """About how many tokens they have, with the tools."""
    dropped: int
    """Messages of the thread that did not fit."""
    _groups: Sequence[Group]
    _conversation: Conversation
    _can: Capabilities

    def shorten(self, window: int | None) -> Sequence[BaseMessage]:
        """Return fewer messages, after these were too long for a model of `window` tokens."""
        budget = int(self.tokens * _RETRY_SHARE)
        if window is not None:
            budget = min(budget, int((window - min(_ANSWER, window // 4)) * _MARGIN))
        budget -= _fixed_tokens(self._conversation)
        kept = choose_groups(self._groups, budget=budget)
        return _to_messages(self._conversation, kept, self._can)


async def build_prompt(conversation: Conversation, can: Capabilities) -> Prompt:
    """Return the prompt of a turn, as the run's `truncation_strategy` and the model's window ask.

    The system's message and the last user's message are always in it, and no result without its
    call.
    """
    if conversation.size <= LARGE:
        groups, kept = _choose(conversation, can)
    else:
        groups, kept = await anyio.to_thread.run_sync(_choose, conversation, can)
    kept = await _load_images(kept, conversation.load_image, can)
    messages = _to_messages(conversation, kept, can)
    return Prompt(
        messages=messages,
        tokens=sum(group.tokens for group in kept) + _fixed_tokens(conversation),
        dropped=_count(groups) - _count(kept),
        _groups=kept,
        _conversation=conversation,
        _can=can,
    )


def _choose(conversation: Conversation, can: Capabilities) -> tuple[list[Group], list[Group]]:
    """Return all groups of the conversation, and those that fit."""
    groups = to_groups(conversation, can)
    kept = choose_groups(
        groups,
        budget=_budget(conversation, can) - _fixed_tokens(conversation),
        strategy=conversation.truncation,
    )
    return groups, kept


def _budget(conversation: Conversation, can: Capabilities) -> int:
    window = can.window or UNKNOWN_WINDOW
    budget = int((window - min(_ANSWER, window // 4)) * _MARGIN)
    if conversation.max_prompt_tokens is not None:
        budget = min(budget, conversation.max_prompt_tokens)
    return budget


def _fixed_tokens(conversation: Conversation) -> int:
    return count_text(conversation.system) + count_tools(conversation.tools)


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.message_ids) for group in groups)


def _to_messages(
    conversation: Conversation, groups: Sequence[Group], can: Capabilities
) -> list[BaseMessage]:
    messages = [message for group in groups for message in group.messages]
    # Most providers want a user's message first; some take an answer at the end for half an answer.
    if not messages:
        messages = [HumanMessage(_EMPTY)]
    elif isinstance(messages[0], AIMessage):
        messages.insert(0, HumanMessage(_ASSISTANT_FIRST))
    if isinstance(messages[-1], AIMessage) and can.family in (Family.ANTHROPIC, Family.GOOGLE):
        messages.append(HumanMessage(_GO_ON))
    if conversation.system:
        messages.insert(0, SystemMessage(join_halves(conversation.system)))
    return messages


async def _load_images(
    groups: Sequence[Group], load: LoadImage | None, can: Capabilities
) -> list[Group]:
    """Put the users' images in, the newest first as long as there may be more."""
    left = IMAGE_LIMIT
    loaded: list[Group] = []
    for group in reversed(groups):
        if group.is_user and isinstance(group.messages[0].content, list):
            content: list[str | dict[str, Any]] = []
            for block in group.messages[0].content:
                if isinstance(block, dict) and block.get("type") == "image_file":
                    image = await _load(block, load, can) if left > 0 else None
                    left -= 1 if image is not None else 0
                    content.append(image or _missing(block))
                else:
                    content.append(block)
            group = replace(group, messages=[HumanMessage(content)])
        loaded.insert(0, group)
    return loaded


async def _load(block: Object, load: LoadImage | None, can: Capabilities) -> Object | None:
    try:
        found = await load(block["file_id"]) if load is not None else None
    except (LookupError, ApiError):
        return None  # its file was deleted; the message stays
    if found is None:
        return None
    media_type, data = found
    encoded = base64.b64encode(data).decode("ascii")
    return to_image_block(can, media_type, encoded, detail=block.get("detail"))


def _missing(block: Object) -> Object:
    return {"type": "text", "text": f"[image {block['file_id']}]"}
