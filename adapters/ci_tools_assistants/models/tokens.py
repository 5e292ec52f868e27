"""Tokens, estimated: no vocabulary has to be fetched, and every model has another one anyway."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage

from ci_tools_assistants.objects import Object

BYTES_PER_TOKEN: Final = 4
"""UTF-8 bytes of one token; about right for English and code, and not too few for other scripts."""

MESSAGE_TOKENS: Final = 4
"""Tokens that a message has beside its content."""

IMAGE_TOKENS: Final = 800
"""Tokens of one image; 85 to 1600 with the usual providers."""


def count_text(text: str) -> int:
    """Return about how many tokens a text has."""
    return math.ceil(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)


def count_messages(messages: Iterable[BaseMessage]) -> int:
    """Return about how many tokens messages have together."""
    return sum(_count_message(message) for message in messages)


def count_tools(tools: Sequence[Object]) -> int:
    """Return about how many tokens the descriptions of tools have."""
    return count_text(json.dumps(list(tools))) if tools else 0


def _count_message(message: BaseMessage) -> int:
    count = MESSAGE_TOKENS
    if isinstance(message.content, str):
        count += count_text(message.content)
    else:
        count += sum(_count_block(block) for block in message.content)
    if isinstance(message, AIMessage):
        count += sum(count_text(json.dumps(call["args"])) + 8 for call in message.tool_calls)
    return count


def _count_block(block: str | dict[Any, Any]) -> int:
    if isinstance(block, str):
        return count_text(block)
    if block.get("type") in ("image", "image_url", "image_file"):
        return IMAGE_TOKENS
    return count_text(str(block.get("text") or block.get("thinking") or ""))
