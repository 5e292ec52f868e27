"""Where images go: into the tool's message, into a user's message after it, or nowhere.

Some providers take images in tool messages, some only from the user, some models see none. What a
model can is in its `profile`; the Chat Completions API of OpenAI refuses images in tool messages
whatever the model, and so do the servers that copy it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, ToolMessage

Images: TypeAlias = Literal["auto", "tool", "user", "none"]
"""`auto` goes by the model; what is known of no model is `none`."""

_NOT_SHOWN = "[This model cannot look at images: {count} left out.]"


def find_placement(images: Images, model: object) -> Literal["tool", "user", "none"]:
    """Return where images go for a model; `model` may be None."""
    if images != "auto":
        return images
    profile = getattr(model, "profile", None)
    if not isinstance(profile, Mapping):
        return "none"
    if not profile.get("image_inputs"):
        return "none"
    speaks_completions = getattr(model, "use_responses_api", True) is not True
    return "tool" if profile.get("image_tool_message") and not speaks_completions else "user"


def takes_pdf(model: object) -> bool:
    """Tell whether a model takes PDF files in tool messages."""
    profile = getattr(model, "profile", None)
    speaks_completions = getattr(model, "use_responses_api", True) is not True
    return (
        isinstance(profile, Mapping)
        and bool(profile.get("pdf_tool_message"))
        and not speaks_completions
    )


def place_images(
    messages: Sequence[AnyMessage], images: Images = "auto", *, model: object = None
) -> list[AnyMessage]:
    """Return the messages with the images of tool messages where the model can take them.

    For graphs of your own: call it on what you are about to send to the model. Messages are
    copied, not changed. Images for the user's place follow the last of the tool messages that
    answer one turn, because nothing may stand between these.
    """
    placement = find_placement(images, model)
    if placement == "tool":
        return list(messages)
    placed: list[AnyMessage] = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, ToolMessage):
            _flush(placed, waiting)
            placed.append(message)
            continue
        rest, found = _split(message)
        if not found:
            placed.append(message)
            continue
        if placement == "user":
            label = f"The output of {message.name or 'the tool'} ({message.tool_call_id}):"
            waiting += [{"type": "text", "text": label}, *found]
        else:
            rest.append({"type": "text", "text": _NOT_SHOWN.format(count=len(found))})
        placed.append(message.model_copy(update={"content": rest}))
    _flush(placed, waiting)
    return placed


def _split(message: BaseMessage) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return a message's blocks without the images, and these."""
    if isinstance(message.content, str):
        return [message.content], []
    rest: list[Any] = []
    found: list[dict[str, Any]] = []
    for item in message.content:
        if isinstance(item, dict) and item.get("type") in ("image", "image_url"):
            found.append(item)
        else:
            rest.append(item)
    return rest, found


def _flush(placed: list[AnyMessage], waiting: list[dict[str, Any]]) -> None:
    if waiting:
        placed.append(HumanMessage(content=[*waiting]))
        waiting.clear()
