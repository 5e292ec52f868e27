"""The nouns and errors as JSON, for adapters that send them and clients that read them; pure.

What is read back equals what was sent. Unknown keys are ignored, so that a client and a service of
different releases understand each other; an unknown kind of event or output is a `ValueError`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar, assert_never

from ci_tools import errors
from ci_tools.errors import (
    BackendError,
    CIToolsError,
    FileTooLargeError,
    InvalidPathError,
    LimitError,
    NotFoundError,
)
from ci_tools.models import (
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandResult,
    File,
    Json,
    KernelSpec,
    Restarted,
    RunStep,
    Session,
    StepDisplayUpdated,
    StepEvent,
    StepFinished,
    StepOutput,
    StepOutputCleared,
    StepQueued,
    StepStarted,
    StepStatus,
    Variable,
)
from ci_tools.stores.codec import (
    error_from_json,
    error_to_json,
    file_from_json,
    file_to_json,
    full_text_from_json,
    full_text_to_json,
    kernel_from_json,
    kernel_to_json,
    output_from_json,
    output_to_json,
)
from ci_tools.stores.nouns import Ticket

Item: TypeAlias = dict[str, Any]
"""A JSON object."""

T = TypeVar("T")


def to_text(value: Json) -> str:
    """Return compact ASCII JSON, which has neither line breaks nor lone surrogates in it.

    Numbers that JSON does not have (NaN, infinity) become null.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Json:
    match value:
        case float():
            return value if value - value == 0 else None
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case _:
            return value  # type: ignore[no-any-return]


def _to_item(noun: Any) -> Item:
    """Return a noun whose fields are plain JSON values."""
    return {field.name: getattr(noun, field.name) for field in fields(noun)}


def _known(noun: type[Any], item: Item) -> Item:
    """Return the keys of an object that are fields of a noun."""
    names = {field.name for field in fields(noun)}
    return {name: value for name, value in item.items() if name in names}


def session_to_item(session: Session) -> Item:
    """Return a session as a JSON object."""
    return {
        **_to_item(session),
        "kernel": kernel_to_json(session.kernel),
        "environment": list(session.environment),
    }


def session_from_item(item: Item) -> Session:
    """Return the session that `session_to_item` wrote."""
    known = _known(Session, item)
    known["environment"] = tuple(item.get("environment", ()))
    return Session(**{**known, "kernel": kernel_from_json(item["kernel"])})


def restarted_to_item(restarted: Restarted) -> Item:
    """Return what a restart did as a JSON object."""
    return {
        "session": session_to_item(restarted.session),
        "replayed": [step_to_item(step) for step in restarted.replayed],
    }


def restarted_from_item(item: Item) -> Restarted:
    """Return what `restarted_to_item` wrote."""
    return Restarted(
        session=session_from_item(item["session"]),
        replayed=tuple(step_from_item(step) for step in item["replayed"]),
    )


def step_to_item(step: RunStep) -> Item:
    """Return a run step, with its outputs as MIME bundles, as a JSON object."""
    return {
        **_to_item(step),
        "status": step.status.value,
        "outputs": [output_to_json(output) for output in step.outputs],
        "files": [file_to_json(file) for file in step.files],
        "error": error_to_json(step.error),
        "notices": list(step.notices),
        "full_text": full_text_to_json(step.full_text),
    }


def step_from_item(item: Item) -> RunStep:
    """Return the run step that `step_to_item` wrote."""
    return RunStep(
        **{
            **_known(RunStep, item),
            "status": StepStatus(item["status"]),
            "outputs": tuple(output_from_json(output) for output in item["outputs"]),
            "files": tuple(file_from_json(file) for file in item["files"]),
            "error": error_from_json(item["error"]),
            "notices": tuple(item["notices"]),
            "full_text": full_text_from_json(item["full_text"]),
        }
    )


def event_to_item(event: StepEvent) -> Item:
    """Return an event of a running step as a JSON object; `type` tells which it is."""
    match event:
        case StepQueued():
            return {"type": "queued", "step": step_to_item(event.step)}
        case StepStarted():
            return {"type": "started", "step": step_to_item(event.step)}
        case StepOutput():
            return {"type": "output", "output": output_to_json(event.output)}
        case StepDisplayUpdated():
            return {"type": "display_updated", **_to_item(event)}
        case StepOutputCleared():
            return {"type": "output_cleared", "wait": event.wait}
        case StepFinished():
            return {"type": "finished", "step": step_to_item(event.step)}
        case _:
            assert_never(event)


def event_from_item(item: Item) -> StepEvent:
    """Return the event that `event_to_item` wrote."""
    match item["type"]:
        case "queued":
            return StepQueued(step=step_from_item(item["step"]))
        case "started":
            return StepStarted(step=step_from_item(item["step"]))
        case "output":
            return StepOutput(output=output_from_json(item["output"]))
        case "display_updated":
            return StepDisplayUpdated(**_known(StepDisplayUpdated, item))
        case "output_cleared":
            return StepOutputCleared(wait=item["wait"])
        case "finished":
            return StepFinished(step=step_from_item(item["step"]))
        case other:
            raise ValueError(f"Unknown type of event: {other!r}.")


def command_event_to_item(event: CommandEvent) -> Item:
    """Return what a command wrote, or how it ended, as a JSON object."""
    kind = "output" if isinstance(event, CommandOutput) else "done"
    return {"type": kind, **_to_item(event)}


def command_event_from_item(item: Item) -> CommandEvent:
    """Return the event that `command_event_to_item` wrote."""
    match item["type"]:
        case "output":
            return CommandOutput(**_known(CommandOutput, item))
        case "done":
            return CommandDone(**_known(CommandDone, item))
        case other:
            raise ValueError(f"Unknown type of event: {other!r}.")


def command_result_to_item(result: CommandResult) -> Item:
    """Return all that a command wrote as a JSON object."""
    return _to_item(result)


def command_result_from_item(item: Item) -> CommandResult:
    """Return what `command_result_to_item` wrote."""
    return CommandResult(**_known(CommandResult, item))


def file_to_item(file: File) -> Item:
    """Return a file as a JSON object."""
    return _to_item(file)


def file_from_item(item: Item) -> File:
    """Return the file that `file_to_item` wrote."""
    return File(**_known(File, item))


def variable_to_item(variable: Variable) -> Item:
    """Return a variable as a JSON object."""
    return _to_item(variable)


def variable_from_item(item: Item) -> Variable:
    """Return the variable that `variable_to_item` wrote."""
    return Variable(**_known(Variable, item))


def ticket_to_item(ticket: Ticket) -> Item:
    """Return a ticket as a JSON object, without its secret."""
    return _to_item(ticket)


def ticket_from_item(item: Item) -> Ticket:
    """Return the ticket that `ticket_to_item` wrote."""
    return Ticket(**_known(Ticket, item))


def kernelspec_to_item(spec: KernelSpec) -> Item:
    """Return a kind of kernel as a JSON object."""
    return _to_item(spec)


def kernelspec_from_item(item: Item) -> KernelSpec:
    """Return the kind of kernel that `kernelspec_to_item` wrote."""
    return KernelSpec(**_known(KernelSpec, item))


def error_to_item(error: CIToolsError) -> Item:
    """Return an error as a JSON object: its code, its message and what programs read of it."""
    details: Sequence[str]
    match error:
        case NotFoundError():
            details = ("kind", "id")
        case FileTooLargeError():
            details = ("path", "limit")
        case LimitError():
            details = ("retry_after",)
        case InvalidPathError():
            details = ("path",)
        case _:
            details = ()
    return {
        "code": error.code,
        "message": str(error),
        "details": {name: getattr(error, name) for name in details},
    }


def error_from_item(item: Item) -> CIToolsError:
    """Return the error that `error_to_item` wrote; one of an unknown code is a `BackendError`."""
    message, details = item["message"], item.get("details") or {}
    kind = _ERRORS.get(item["code"], BackendError)
    # Not by its own arguments: the message is the one that was sent.
    error = kind.__new__(kind, message)
    error.args = (message,)
    for name, missing in _DETAILS.items():
        if issubclass(kind, missing[0]):
            setattr(error, name, details.get(name, missing[1]))
    return error


def _subclasses(kind: type[CIToolsError]) -> Iterable[type[CIToolsError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)


_ERRORS = {
    kind.code: kind for kind in _subclasses(CIToolsError) if kind.__module__ == errors.__name__
}
"""Every class of error by its code."""

_DETAILS: dict[str, tuple[tuple[type[CIToolsError], ...], str | float | None]] = {
    "kind": ((NotFoundError,), ""),
    "id": ((NotFoundError,), ""),
    "path": ((InvalidPathError, FileTooLargeError), ""),
    "limit": ((FileTooLargeError,), 0),
    "retry_after": ((LimitError,), None),
}
"""Attributes of errors, the classes that have them, and what stands for one that was not sent."""
