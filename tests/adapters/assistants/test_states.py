import pytest

from ci_tools_assistants.objects import ACTIVE, Object
from ci_tools_assistants.runs.states import (
    MOVES,
    NO_USAGE,
    WrongMoveError,
    add_usage,
    complete_message,
    cut_message,
    end_message_with,
    end_step,
    end_step_with,
    is_over,
    move,
    new_message,
    new_step,
)

STATES = (
    "queued",
    "in_progress",
    "requires_action",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
    "incomplete",
    "expired",
)

ALLOWED = {
    ("queued", "in_progress"),
    ("queued", "failed"),
    ("queued", "cancelling"),
    ("queued", "expired"),
    ("in_progress", "completed"),
    ("in_progress", "failed"),
    ("in_progress", "incomplete"),
    ("in_progress", "requires_action"),
    ("in_progress", "cancelling"),
    ("in_progress", "expired"),
    ("requires_action", "queued"),
    ("requires_action", "cancelling"),
    ("requires_action", "expired"),
    ("cancelling", "cancelled"),
    ("cancelling", "completed"),
    ("cancelling", "failed"),
    ("cancelling", "incomplete"),
    ("cancelling", "expired"),
}

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}

ERROR = {"code": "server_error", "message": "no"}


def run_in(status: str) -> Object:
    return {
        "id": "run_1",
        "thread_id": "thread_1",
        "assistant_id": "asst_1",
        "status": status,
        "required_action": {"type": "submit_tool_outputs"} if status == "requires_action" else None,
        "last_error": None,
        "expires_at": 700,
        "started_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "completed_at": None,
        "incomplete_details": None,
        "usage": None,
    }


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_every_move_is_either_allowed_or_refused(before: str, after: str) -> None:
    run = run_in(before)

    if (before, after) not in ALLOWED:
        with pytest.raises(WrongMoveError):
            move(run, after, now=200)
        return
    moved = move(run, after, now=200, usage=USAGE, error=ERROR)

    assert moved["status"] == after
    assert run["status"] == before
    assert is_over(moved) == (after not in ACTIVE)
    assert moved["usage"] == (USAGE if is_over(moved) else None)
    assert (moved["required_action"] is not None) == (after == "requires_action")


def test_the_table_names_all_nine_states() -> None:
    assert set(MOVES) == set(STATES)
    assert {state for ends in MOVES.values() for state in ends} == set(STATES)


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("queued", "in_progress", "started_at"),
        ("in_progress", "completed", "completed_at"),
        ("in_progress", "failed", "failed_at"),
        ("cancelling", "cancelled", "cancelled_at"),
    ],
)
def test_a_state_leaves_its_time(before: str, after: str, key: str) -> None:
    assert move(run_in(before), after, now=200, error=ERROR)[key] == 200


def test_a_second_start_keeps_the_time_of_the_first() -> None:
    run = {**run_in("queued"), "started_at": 150}

    assert move(run, "in_progress", now=200)["started_at"] == 150


def test_only_an_expired_run_keeps_the_time_of_its_expiry() -> None:
    assert move(run_in("in_progress"), "completed", now=200)["expires_at"] is None
    assert move(run_in("in_progress"), "expired", now=800)["expires_at"] == 700
    assert move(run_in("in_progress"), "requires_action", now=200)["expires_at"] == 700


def test_an_incomplete_run_says_why() -> None:
    moved = move(run_in("in_progress"), "incomplete", now=200, reason="max_prompt_tokens")

    assert moved["incomplete_details"] == {"reason": "max_prompt_tokens"}


def test_a_run_that_waits_names_its_calls() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    moved = move(run_in("in_progress"), "requires_action", now=200, calls=[call])

    assert moved["required_action"] == {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [call]},
    }


@pytest.mark.parametrize(
    ("status", "step_status", "message_status", "reason"),
    [
        ("completed", "completed", "completed", None),
        ("failed", "failed", "incomplete", "run_failed"),
        ("incomplete", "failed", "incomplete", "max_tokens"),
        ("cancelled", "cancelled", "incomplete", "run_cancelled"),
        ("expired", "expired", "incomplete", "run_expired"),
    ],
)
def test_what_is_begun_ends_as_its_run_does(
    status: str, step_status: str, message_status: str, reason: str | None
) -> None:
    run = {**run_in(status), "last_error": ERROR if status == "failed" else None}
    details = {"type": "tool_calls", "tool_calls": []}

    step = end_step_with(run, new_step(run, details, now=100), now=200, usage=USAGE)
    message = end_message_with(run, new_message(run, attachments=[], now=100), now=200)

    assert step["status"] == step_status
    assert step[f"{step_status}_at"] == 200
    assert step["usage"] == USAGE
    assert (step["last_error"] is not None) == (step_status == "failed")
    assert message["status"] == message_status
    assert message["incomplete_details"] == (None if reason is None else {"reason": reason})
    assert message["completed_at" if reason is None else "incomplete_at"] == 200


def test_a_step_has_no_error_code_of_prompts() -> None:
    run = run_in("failed")
    error = {"code": "invalid_prompt", "message": "too long"}

    step = end_step(new_step(run, {"type": "tool_calls"}, now=1), "failed", now=2, error=error)

    assert step["last_error"] == {"code": "server_error", "message": "too long"}


def test_ends_leave_what_they_are_given_as_it_is() -> None:
    message = new_message(run_in("in_progress"), attachments=[], now=1)

    complete_message(message, now=2)
    cut_message(message, "max_tokens", now=2)

    assert message["status"] == "in_progress"


def test_usage_adds_up() -> None:
    assert add_usage(NO_USAGE, USAGE) == USAGE
    assert add_usage(USAGE, {"prompt_tokens": 1, "total_tokens": 1}) == {
        "prompt_tokens": 4,
        "completion_tokens": 4,
        "total_tokens": 8,
    }
