"""The endpoints of run steps."""

from collections.abc import Sequence

from ci_tools_assistants.http.paging import PageQuery, to_list
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.runs.requests import IncludeQuery


class StepsQuery(PageQuery, IncludeQuery):
    """The parameters of a list of steps."""


async def list_steps(call: Call) -> Object:
    """List the steps of a run."""
    query = call.query_as(StepsQuery)
    await _check_run(call)
    page = await call.records.page(
        Kind.STEP,
        principal=call.principal,
        parent=call.params["run_id"],
        **query.model_dump(exclude={"include"}),
    )
    return to_list(page)


async def get_step(call: Call) -> Object:
    """Return a step."""
    call.query_as(IncludeQuery)
    await _check_run(call)
    return await call.records.get(
        Kind.STEP,
        call.params["step_id"],
        principal=call.principal,
        parent=call.params["run_id"],
    )


def operations() -> Sequence[Operation]:
    """Return the operations of run steps."""
    steps = "/threads/{thread_id}/runs/{run_id}/steps"
    return (
        Operation(
            method="GET",
            path=steps,
            handler=list_steps,
            query=StepsQuery,
            response="ListRunStepsResponse",
            summary="Returns a list of run steps belonging to a run.",
            tags=("Assistants",),
        ),
        Operation(
            method="GET",
            path=steps + "/{step_id}",
            handler=get_step,
            query=IncludeQuery,
            response="RunStepObject",
            summary="Retrieves a run step.",
            tags=("Assistants",),
        ),
    )


async def _check_run(call: Call) -> None:
    await call.records.get(
        Kind.RUN,
        call.params["run_id"],
        principal=call.principal,
        parent=call.params["thread_id"],
    )
