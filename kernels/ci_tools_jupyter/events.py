"""Jupyter messages as events of the core; pure, without I/O."""

from collections.abc import Sequence
from typing import Any, Literal

from ci_tools.kernel import (
    ClearOutput,
    DisplayUpdate,
    ExecutionDone,
    FileStat,
    KernelEvent,
    OutputLost,
)
from ci_tools.models import DisplayOutput, ErrorOutput, Json, StreamOutput
from ci_tools_jupyter.wire import JsonObject, Message

FILES_EXPRESSION = "files"
"""The name under which a reply carries the listing of the working folder."""

FILES_MEDIA_TYPE = "application/vnd.ci-tools.files+json"

_RATE_NOTICES = ("IOPub data rate exceeded", "IOPub message rate exceeded")

_RATE_NOTICE_MARK = "The Jupyter server will temporarily stop sending output"


def to_event(message: Message) -> KernelEvent | None:
    """Return what an iopub message means for its execution; None if nothing."""
    content = message.content
    match message.type:
        case "stream":
            return _to_stream(content)
        case "display_data":
            return _to_display(content, "display")
        case "execute_result":
            return _to_display(content, "result")
        case "update_display_data":
            display_id = _display_id(content)
            if display_id is None:
                return None
            return DisplayUpdate(
                display_id=display_id,
                data=_to_json_object(content.get("data")),
                metadata=_to_json_object(content.get("metadata")),
            )
        case "clear_output":
            return ClearOutput(wait=bool(content.get("wait")))
        case "error":
            return to_error(content)
        case _:
            return None


def to_reply_events(content: JsonObject, *, failed: bool) -> Sequence[KernelEvent]:
    """Return the outputs that only the reply carries: help pages, an error not shown before.

    `failed` tells whether an `ErrorOutput` has come for this execution.
    """
    events: list[KernelEvent] = []
    pages = content.get("payload")
    for page in pages if isinstance(pages, list) else ():
        if isinstance(page, dict) and page.get("source") == "page":
            events.append(DisplayOutput(kind="display", data=_to_json_object(page.get("data"))))
    if content.get("status") == "error" and not failed and content.get("ename"):
        events.append(to_error(content))
    return events


def to_done(content: JsonObject) -> ExecutionDone:
    """Return how an execution ended, from its reply."""
    count = content.get("execution_count")
    return ExecutionDone(
        status=_to_status(content.get("status")),
        execution_count=count if isinstance(count, int) else None,
        files=_to_files(content.get("user_expressions")),
    )


def to_error(content: JsonObject) -> ErrorOutput:
    """Return an exception that code did not catch."""
    traceback = content.get("traceback")
    lines = traceback if isinstance(traceback, list) else []
    return ErrorOutput(
        name=str(content.get("ename", "")),
        message=str(content.get("evalue", "")),
        traceback="\n".join(str(line) for line in lines),
    )


def _to_stream(content: JsonObject) -> KernelEvent | None:
    text = str(content.get("text", ""))
    if content.get("name") == "stderr" and _is_rate_notice(text):
        reason = text.partition(".")[0]
        return OutputLost(
            message=f"The Jupyter Server dropped output of this step ({reason}). Print less, write"
            " to a file, or raise the limit on the server."
        )
    if not text:
        return None
    return StreamOutput(name="stderr" if content.get("name") == "stderr" else "stdout", text=text)


def _is_rate_notice(text: str) -> bool:
    """Recognise the text that a Jupyter Server itself sends as if the code had printed it."""
    return text.startswith(_RATE_NOTICES) and _RATE_NOTICE_MARK in text


def _to_display(content: JsonObject, kind: Literal["result", "display"]) -> DisplayOutput:
    count = content.get("execution_count")
    return DisplayOutput(
        kind=kind,
        data=_to_json_object(content.get("data")),
        metadata=_to_json_object(content.get("metadata")),
        display_id=_display_id(content),
        execution_count=count if isinstance(count, int) else None,
    )


def _display_id(content: JsonObject) -> str | None:
    transient = content.get("transient")
    found = transient.get("display_id") if isinstance(transient, dict) else None
    return found if isinstance(found, str) else None


def _to_status(status: Any) -> Literal["ok", "error", "aborted"]:
    match status:
        case "ok":
            return "ok"
        case "abort" | "aborted":
            return "aborted"
        case _:
            return "error"


def _to_files(expressions: Any) -> tuple[FileStat, ...] | None:
    """Read the listing of the working folder that the kernel made after the code."""
    match _to_listing(expressions):
        case {"files": list(rows)}:
            return to_file_stats(rows)
        case _:
            return None


def to_digests(reply: JsonObject) -> dict[FileStat, str]:
    """Read the SHA-256 of each changed file that a reply tells, by its absolute path."""
    match _to_listing(reply.get("user_expressions")):
        case {"root": str(root), "digests": dict(digests)}:
            found = {}
            for path, digest in digests.items():
                match digest:
                    case [int(size), int() | float() as modified_at, str(sha256)]:
                        place = f"{root}/{path}"
                        stat = FileStat(path=place, size=size, modified_at=float(modified_at))
                        found[stat] = sha256
            return found
        case _:
            return {}


def _to_listing(expressions: Any) -> Any:
    match expressions:
        case {"files": {"status": "ok", "data": dict(data)}}:
            return data.get(FILES_MEDIA_TYPE)
        case _:
            return None


def to_file_stats(rows: Any) -> tuple[FileStat, ...] | None:
    """Read `[path, size, modified_at]` rows; None if they are anything else."""
    if not isinstance(rows, list):
        return None
    files = []
    for row in rows:
        match row:
            case [str(path), int(size), int() | float() as modified_at]:
                files.append(FileStat(path=path, size=size, modified_at=float(modified_at)))
            case _:
                return None
    return tuple(files)


def _to_json_object(value: Any) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}
