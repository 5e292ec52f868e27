"""Code that was running when its process ended: what it had put out, from the core's records.

How this works: the core stores a step of its own for each cell, with all that the code has put out
until it was cut off, and settles it when the process is gone. The id of that step is made, and
stored with the call, before the code runs. So the call can be given what is known of it, whoever
looks after the run. Code is never run twice: what it has begun, it may have done.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ci_tools import CIToolsError, NotFoundError, RunStep, SessionService, StepStatus
from ci_tools.render import Image
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs.cells import Cell

logger = logging.getLogger(__name__)

CELLS = "cells"
"""Where the private part of a step whose calls are being made names the core's step of each."""

NOT_BEGUN = "The service was stopped before this code ran."
CUT_OFF = "The service was stopped while this code was running."


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What is known of the code of one call."""

    outputs: list[Object]
    """The outputs of the API's call."""

    step: RunStep | None
    """The core's record; None if the code was not run."""

    @property
    def is_cut(self) -> bool:
        """Whether the code was running when its process ended."""
        return self.step is not None and was_cut(self.step)


def was_cut(step: RunStep) -> bool:
    """Tell whether code did not come to an end of its own."""
    if step.error is not None and step.error.code in ("service_died", "cancelled"):
        return True
    return not step.status.is_final or step.status is StepStatus.CANCELLED


async def recover(files: FileRecords, step: RunStep | None, shown: Sequence[Object]) -> Recovered:
    """Return the outputs of a call, of which `shown` were stored with it already.

    Images that were shown keep their files, also those that the core's record has lost.
    """
    if step is None:
        return Recovered(outputs=[{"type": "logs", "logs": NOT_BEGUN}], step=None)
    known = [output["image"]["file_id"] for output in shown if output["type"] == "image"]
    left = list(known)

    async def publish(image: Image) -> str:
        return str(left.pop(0)) if left else await files.publish_image(image)

    cell = Cell(publish)
    cell.step = step
    for output in step.outputs:
        await cell.add(output)
    await cell.finish(step, ending=CUT_OFF if was_cut(step) else None)
    if was_cut(step) and _count_logs(shown) + len(CUT_OFF) >= _count_logs(cell.outputs):
        # What was stored with the call last is newer than what the core could keep.
        return Recovered(outputs=_add_logs(shown, CUT_OFF), step=step)
    lost = [{"type": "image", "image": {"file_id": file_id}} for file_id in left]
    return Recovered(outputs=[*cell.outputs, *lost], step=step)


def _count_logs(outputs: Sequence[Object]) -> int:
    return sum(len(output["logs"]) for output in outputs if output["type"] == "logs")


def _add_logs(outputs: Sequence[Object], text: str) -> list[Object]:
    if not outputs or outputs[-1]["type"] != "logs":
        return [*outputs, {"type": "logs", "logs": text}]
    *before, last = outputs
    return [*before, {"type": "logs", "logs": f"{last['logs']}\n{text}"}]


async def fill_step(
    service: SessionService, files: FileRecords, step: Object, private: Object
) -> Object:
    """Return a step of the API that is not to go on, with what the code of its calls put out."""
    cells = private.get(CELLS) or {}
    if not cells:
        return step
    calls = []
    for call in step["step_details"]["tool_calls"]:
        if call["id"] in cells:
            try:
                call = await _fill_call(service, files, call, cells[call["id"]])
            except CIToolsError as error:
                logger.warning("step %s: its outputs are not complete: %s", step["id"], error)
        calls.append(call)
    return {**step, "step_details": {"type": "tool_calls", "tool_calls": calls}}


async def _fill_call(
    service: SessionService, files: FileRecords, call: Object, step_id: str
) -> Object:
    step = None
    try:
        step = await service.get_run_step(step_id)
    except NotFoundError:
        logger.info("step %s: it was not begun", step_id)
    made = call["code_interpreter"]
    recovered = await recover(files, step, made["outputs"])
    return {**call, "code_interpreter": {**made, "outputs": recovered.outputs}}
