"""Runs that nobody works on: what to do with them, from what is stored alone."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs.recovery import CELLS
from ci_tools_assistants.runs.states import (
    NO_USAGE,
    add_usage,
    end_message_with,
    end_step_with,
    move,
)
from ci_tools_assistants.storage.records import Records, Remove, Write


class FillStep(Protocol):
    """Gives an unfinished step what is known of its code."""

    async def __call__(self, step: Object, private: Object, *, principal: str) -> Object:
        """Return the step with it."""
        ...


PAGE = 100
"""Objects read at once."""

USAGE = "usage"
"""Where the private part of a step that waits for tool outputs keeps its tokens."""

ANSWER = "answer"
"""Where the private part of a step of tool calls keeps the provider's own message, if it must."""

Fate: TypeAlias = Literal["resume", "failed", "cancelled", "expired"]

RESUMPTIONS = "resumptions"
"""Where the private part of a run counts the processes that have ended while they worked on it."""

RELEASED = "released"
"""Where the private part of a run says that its process has left it in order."""

RESUMED_AT_MOST = 2
"""Times that a run is taken up after its process was killed or has crashed: it may be the cause."""

LOST_CODE: Object = {
    "code": "server_error",
    "message": "The service was stopped while the code of this run was running, and it is not "
    "known whether the code has ended. It may have had effects; start a new run.",
}
"""The error of a run whose code may still be running."""

TOO_OFTEN: Object = {
    "code": "server_error",
    "message": f"The service ended unexpectedly {RESUMED_AT_MOST + 1} times while it worked on "
    "this run. The run may be the cause, so it is not taken up again; start a new run.",
}
"""The error of a run that has taken its processes along."""


def find_fate(run: Object, *, ended: int) -> Fate:
    """Decide what becomes of an active run whose process has ended, the `ended`-th that did.

    Whatever the model said can be asked for again. Code that may have run is not run twice: what
    is known of it is told to the model.
    """
    if run["status"] == "cancelling":
        return "cancelled"
    if run["expires_at"] is not None and run["expires_at"] <= now():
        return "expired"
    return "failed" if ended > RESUMED_AT_MOST else "resume"


def count_ended(private: Object) -> int:
    """Return how many processes have ended unexpectedly with a run in hand, the last one too."""
    before = int(private.get(RESUMPTIONS, 0))
    return before if private.get(RELEASED) else before + 1


async def list_steps(records: Records, run_id: str, *, principal: str) -> list[Object]:
    """Return all steps of a run, oldest first."""
    steps: list[Object] = []
    after = None
    while True:
        page = await records.page(
            Kind.STEP,
            principal=principal,
            parent=run_id,
            limit=PAGE,
            order="asc",
            after=after,
        )
        steps += page.data
        if not page.has_more:
            return steps
        after = steps[-1]["id"]


async def sum_usage(records: Records, steps: Sequence[Object], *, principal: str) -> Object:
    """Return the tokens of all steps, also of one that waits for tool outputs."""
    total = NO_USAGE
    for step in steps:
        usage = step["usage"]
        if step["status"] == "in_progress":
            private = await records.get_private(Kind.STEP, step["id"], principal=principal)
            usage = private.get(USAGE)
        total = add_usage(total, usage or NO_USAGE)
    return total


async def end_stored(
    records: Records,
    run: Object,
    status: str,
    *,
    principal: str,
    error: Object | None = None,
    fill: FillStep,
) -> Object:
    """End a run, with all that is begun in it, that no process works on.

    `fill` gives an unfinished step what is known of its code.

    Raises:
        WrongMoveError: It has ended, or somebody works on it now.
        NoSuchObject: It was deleted.
    """
    steps = await list_steps(records, run["id"], principal=principal)
    usage = await sum_usage(records, steps, principal=principal)
    ending = {**run, "status": status, "last_error": error}
    writes: list[Write | Remove] = []
    for step in steps:
        if step["status"] != "in_progress":
            continue
        private = await records.get_private(Kind.STEP, step["id"], principal=principal)
        filled = await fill(step, private, principal=principal)
        ended = end_step_with(ending, filled, usage=private.get(USAGE), now=now())
        writes.append(Write(Kind.STEP, ended, run["id"]))
    for message in await _list_begun(records, run, principal=principal):
        ended = end_message_with(ending, message, now=now())
        writes.append(Write(Kind.MESSAGE, ended, run["thread_id"]))
    return await records.change_run(
        run["id"],
        lambda stored: move(stored, status, now=now(), usage=usage, error=error),
        principal=principal,
        also=writes,
    )


async def remove_begun(
    records: Records, run: Object, steps: Sequence[Object], *, principal: str
) -> None:
    """Remove what was begun and has no end, before it is begun anew; code that ran stays."""
    gone: list[Write | Remove] = []
    for step in steps:
        if step["status"] == "in_progress":
            private = await records.get_private(Kind.STEP, step["id"], principal=principal)
            if CELLS not in private:
                gone.append(Remove(Kind.STEP, step["id"]))
    for message in await _list_begun(records, run, principal=principal):
        gone.append(Remove(Kind.MESSAGE, message["id"]))
    if gone:
        await records.save(gone, principal=principal)


async def _list_begun(records: Records, run: Object, *, principal: str) -> list[Object]:
    # At most the last message of a run has no end.
    page = await records.page(
        Kind.MESSAGE, principal=principal, parent=run["thread_id"], limit=1, run_id=run["id"]
    )
    return [message for message in page.data if message["status"] == "in_progress"]
