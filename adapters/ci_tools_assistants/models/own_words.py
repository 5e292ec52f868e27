"""A provider's own message with calls, kept for the turn after them.

Some providers want back what nobody sees, such as signed reasoning, or refuse the results of the
calls. Messages that are nothing but text and calls can be made again from the step they are in.
"""

import json
from typing import Any, Final

from langchain_core.messages import AIMessage, message_to_dict, messages_from_dict

from ci_tools_assistants.objects import Object

_MADE_AGAIN: Final = ("text", "tool_use", "function_call", "tool_call")
"""Types of blocks that are made again from a step."""


def to_stored(message: AIMessage | None) -> Object | None:
    """Return a message as JSON; None if there is nothing in it that a step does not have."""
    if message is None or not _has_more(message):
        return None
    stored: dict[str, Any] = message_to_dict(message)
    try:
        json.dumps(stored)
    except (TypeError, ValueError):  # of a package that keeps objects in it
        return None
    return stored


def from_stored(stored: Object) -> AIMessage | None:
    """Return the message that `to_stored` wrote; None if this release cannot read it."""
    try:
        [message] = messages_from_dict([stored])
    except (ValueError, TypeError, KeyError):
        return None
    return message if isinstance(message, AIMessage) else None


def _has_more(message: AIMessage) -> bool:
    if message.additional_kwargs:
        return True
    if isinstance(message.content, str):
        return False
    return any(
        not isinstance(block, str) and block.get("type") not in _MADE_AGAIN
        for block in message.content
    )
