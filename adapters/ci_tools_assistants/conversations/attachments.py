"""What attaching files to messages does to their thread; pure."""

from collections.abc import Sequence

from ci_tools_assistants.errors import array_too_long
from ci_tools_assistants.objects import Object

FILES_PER_TOOL = 20
"""Files that an assistant or a thread may give to the code interpreter."""

ATTACHED = "attached_file_ids"
"""Where the private part of a thread lists the files of its messages, all of them: version 1 does
not bound them, and `tool_resources` shows no more than 20."""


def code_file_ids(owner: Object) -> list[str]:
    """Return the files that an assistant or a thread gives to the code interpreter."""
    resources = owner["tool_resources"] or {}
    return list((resources.get("code_interpreter") or {}).get("file_ids") or ())


def attached_file_ids(message: Object, *, tool: str = "code_interpreter") -> list[str]:
    """Return the files that a message gives to a tool."""
    return [
        attachment["file_id"]
        for attachment in message["attachments"] or ()
        if attachment.get("file_id")
        and any(given["type"] == tool for given in attachment.get("tools") or ())
    ]


def attach_files(
    thread: Object, private: Object, messages: Sequence[Object], *, limit: int | None
) -> tuple[Object, Object]:
    """Return a thread and its private part with the files of new messages.

    Both are the same objects as before if there are none. With `limit`, more files than that are
    refused; without it, those beyond 20 are in the private part only.
    """
    known = code_file_ids(thread)
    attached = list(private.get(ATTACHED, ()))
    wanted = [id for message in messages for id in attached_file_ids(message)]
    new = [id for id in dict.fromkeys(wanted) if id not in attached]
    if not new:
        return thread, private
    shown = list(dict.fromkeys([*known, *new]))
    if limit is not None and len(shown) > limit:
        raise array_too_long("tool_resources.code_interpreter.file_ids", limit, len(shown))
    resources = dict(thread["tool_resources"] or {})
    resources["code_interpreter"] = {
        **(resources.get("code_interpreter") or {}),
        "file_ids": shown[: max(FILES_PER_TOOL, len(known))],
    }
    return {**thread, "tool_resources": resources}, {**private, ATTACHED: attached + new}
