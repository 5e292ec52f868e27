"""Which groups of a conversation fit into a prompt."""

from collections.abc import Sequence
from typing import Final

from langchain_core.messages import ToolMessage

from ci_tools_assistants.models.conversation import Group
from ci_tools_assistants.models.history import shorten
from ci_tools_assistants.objects import Object

_FIRST_SHARE: Final = 0.25
"""Share of the room that the first message of a thread may take when those after it are dropped."""

_LIMITS: Final = (16_000, 8_000, 4_000, 2_000, 1_000, 500)
"""Characters of a tool's result, one after the other, until this run's own calls fit."""


def choose_groups(
    groups: Sequence[Group], *, budget: int, strategy: Object | None = None
) -> list[Group]:
    """Return the groups for a prompt of so many tokens.

    The last user's message and all that this run did after it stay, with shorter results if they
    must. Of what is older, `last_messages` keeps so many messages of the thread; what does not
    fit then is dropped from the middle, so that the thread's first message stays if it is short.
    """
    start = _start_of_last_turn(groups)
    older, turn = list(groups[:start]), list(groups[start:])
    if strategy is not None and strategy.get("type") == "last_messages":
        older = _last_messages(older, turn, strategy.get("last_messages") or 1)
    room = budget - sum(group.tokens for group in turn)
    if room < 0:
        return _fit_results(turn, budget)
    if sum(group.tokens for group in older) <= room:
        return [*older, *turn]
    first = older[:1]
    if not first[0].is_user or first[0].tokens > room * _FIRST_SHARE:
        first = []
    room -= sum(group.tokens for group in first)
    kept: list[Group] = []
    for group in reversed(older[len(first) :]):
        room -= group.tokens
        if room < 0:
            break
        kept.insert(0, group)
    while kept and not kept[0].is_user:
        kept.pop(0)  # an answer without its question says the wrong thing
    return [*first, *kept, *turn]


def _start_of_last_turn(groups: Sequence[Group]) -> int:
    for number in range(len(groups) - 1, -1, -1):
        if groups[number].is_user:
            # Several messages in a row are one turn's question, but only the last one must stay.
            return number
    return max(0, len(groups) - 1)


def _last_messages(older: list[Group], turn: Sequence[Group], number: int) -> list[Group]:
    left = number - sum(len(group.message_ids) for group in turn)
    kept: list[Group] = []
    for group in reversed(older):
        if left <= 0:
            break
        left -= len(group.message_ids)
        kept.insert(0, group)
    return kept


def _fit_results(turn: Sequence[Group], budget: int) -> list[Group]:
    groups = list(turn)
    for limit in _LIMITS:
        for number, group in enumerate(groups):
            groups[number] = _with_results(group, limit)
            if sum(group.tokens for group in groups) <= budget:
                return groups
    return groups


def _with_results(group: Group, limit: int) -> Group:
    messages = [
        message.model_copy(update={"content": shorten(message.content, limit)})
        if isinstance(message, ToolMessage) and isinstance(message.content, str)
        else message
        for message in group.messages
    ]
    return Group(messages, group.message_ids, group.run_id, group.is_user, group.is_call)
