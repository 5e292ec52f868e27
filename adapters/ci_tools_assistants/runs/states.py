"""The states of runs, steps and messages. All of it is pure: an object in, its successor out.

    queued → in_progress → completed | failed | incomplete | requires_action | cancelling | expired
    requires_action → queued | cancelling | expired
    cancelling → cancelled, or whatever end the run came to before it could be stopped

A run that ends leaves nothing open: the helpers for steps and messages give each unfinished one
the end that goes with the run's.
"""

from typing import Literal, TypeAlias

from ci_tools.models import new_id
from ci_tools_assistants.objects import ACTIVE, Object

MOVES: dict[str, frozenset[str]] = {
    "queued": frozenset({"in_progress", "failed", "cancelling", "expired"}),
    "in_progress": frozenset(
        {
            "completed",
            "failed",
            "incomplete",
            "requires_action",
            "cancelling",
            "expired",
        }
    ),
    "requires_action": frozenset({"queued", "cancelling", "expired"}),
    "cancelling": frozenset({"cancelled", "completed", "failed", "incomplete", "expired"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "incomplete": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}
"""Where a run can go from each of its states."""

NO_USAGE: Object = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

StepEnd: TypeAlias = Literal["completed", "failed", "cancelled", "expired"]

MessageReason: TypeAlias = Literal[
    "content_filter", "max_tokens", "run_cancelled", "run_expired", "run_failed"
]

_STEP_ENDS: dict[str, StepEnd] = {
    "completed": "completed",
    "failed": "failed",
    "incomplete": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}

_MESSAGE_REASONS: dict[str, MessageReason] = {
    "failed": "run_failed",
    "incomplete": "max_tokens",
    "cancelled": "run_cancelled",
    "expired": "run_expired",
}


class WrongMoveError(Exception):
    """A run is in a state from which the wanted one cannot be reached."""

    def __init__(self, run: Object, status: str) -> None:
        super().__init__(f"Run {run['id']} is {run['status']} and cannot become {status}.")
        self.run = run
        self.status = status


def is_over(run: Object) -> bool:
    """Tell whether a run has ended."""
    return run["status"] not in ACTIVE


def move(
    run: Object,
    status: str,
    *,
    now: int,
    usage: Object | None = None,
    error: Object | None = None,
    reason: Literal["max_completion_tokens", "max_prompt_tokens"] | None = None,
    calls: list[Object] | None = None,
) -> Object:
    """Return the run in another state.

    `usage` goes with every end, `error` with `failed`, `reason` with `incomplete`, and `calls`
    (of functions) with `requires_action`.

    Raises:
        WrongMoveError: There is no such move.
    """
    if status not in MOVES[run["status"]]:
        raise WrongMoveError(run, status)
    moved = {**run, "status": status, "required_action": None}
    match status:
        case "in_progress":
            moved["started_at"] = run["started_at"] or now
        case "requires_action":
            moved["required_action"] = {
                "type": "submit_tool_outputs",
                "submit_tool_outputs": {"tool_calls": calls or []},
            }
        case "completed":
            moved["completed_at"] = now
        case "failed":
            moved["failed_at"] = now
            moved["last_error"] = error
        case "incomplete":
            moved["completed_at"] = now
            moved["incomplete_details"] = {"reason": reason}
        case "cancelled":
            moved["cancelled_at"] = now
    if is_over(moved):
        moved["usage"] = usage or NO_USAGE
        if status != "expired":
            moved["expires_at"] = None
    return moved


def new_step(run: Object, details: Object, *, now: int) -> Object:
    """Return a new step of a run: `message_creation` or `tool_calls`."""
    return {
        "id": new_id("step_"),
        "object": "thread.run.step",
        "created_at": now,
        "run_id": run["id"],
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "type": details["type"],
        "status": "in_progress",
        "step_details": details,
        "last_error": None,
        "expired_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "metadata": {},
        "usage": None,
    }


def end_step(
    step: Object,
    status: StepEnd,
    *,
    now: int,
    usage: Object | None = None,
    error: Object | None = None,
) -> Object:
    """Return a step in its last state; `error` goes with `failed`."""
    ended = {**step, "status": status, f"{status}_at": now, "usage": usage or NO_USAGE}
    if status == "failed":
        ended["last_error"] = _step_error(error)
    return ended


def _step_error(error: Object | None) -> Object:
    # A step's error has no code for prompts.
    if error is None:
        return {"code": "server_error", "message": "The run ended before this step was done."}
    known = error["code"] in ("server_error", "rate_limit_exceeded")
    return error if known else {**error, "code": "server_error"}


def end_step_with(run: Object, step: Object, *, now: int, usage: Object | None = None) -> Object:
    """Return an unfinished step with the end that goes with its run's."""
    return end_step(step, _STEP_ENDS[run["status"]], now=now, usage=usage, error=run["last_error"])


def new_message(run: Object, *, attachments: list[Object], now: int) -> Object:
    """Return the assistant's next message, which has no content yet."""
    return {
        "id": new_id("msg_"),
        "object": "thread.message",
        "created_at": now,
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "status": "in_progress",
        "incomplete_details": None,
        "incomplete_at": None,
        "completed_at": None,
        "role": "assistant",
        "content": [],
        "attachments": attachments,
        "metadata": {},
    }


def complete_message(message: Object, *, now: int) -> Object:
    """Return a message that is complete."""
    return {**message, "status": "completed", "completed_at": now}


def cut_message(message: Object, reason: MessageReason, *, now: int) -> Object:
    """Return a message that stays as it is, and why."""
    return {
        **message,
        "status": "incomplete",
        "incomplete_at": now,
        "incomplete_details": {"reason": reason},
    }


def end_message_with(run: Object, message: Object, *, now: int) -> Object:
    """Return an unfinished message with the end that goes with its run's."""
    reason = _MESSAGE_REASONS.get(run["status"])
    if reason is None:
        return complete_message(message, now=now)
    return cut_message(message, reason, now=now)


def add_usage(total: Object, usage: Object) -> Object:
    """Return the sum of two usages, as the API writes one."""
    return {key: total[key] + int(usage.get(key) or 0) for key in NO_USAGE}
