"""A session as a notebook: its run steps, with their outputs, as cells.

The format is plain JSON and is written here without the `nbformat` library, which takes 0.8 s to
import; the tests validate the result with it.
https://nbformat.readthedocs.io/en/latest/format_description.html
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import assert_never

from ci_tools.folding import clean_text, fold_text
from ci_tools.models import (
    DisplayOutput,
    ErrorOutput,
    Json,
    Output,
    RunStep,
    Session,
    StepError,
    StreamOutput,
)

_JSON_TYPE = re.compile(r"application/(.*\+)?json\Z")
"""Media types whose values the format keeps as JSON; all others are text."""

_OVERWRITES = re.compile(r"[\r\x08]|\x1b\[[0-9;?]*[A-HJKf]")
"""Control codes that move the cursor or erase."""


def to_notebook(session: Session, steps: Iterable[RunStep]) -> dict[str, Json]:
    """Return a notebook (nbformat 4.5) of these steps, oldest first whatever their order.

    A progress bar is its last state; colours stay where nothing was overwritten.

    A step is a code cell with the step's id; where the kernel is another one than before, a
    Markdown cell says so. The same steps always give the same notebook.
    """
    cells: list[Json] = []
    epoch = 0
    for step in sorted(steps, key=lambda step: (step.created_at, step.id)):
        if epoch and step.epoch > epoch:
            cells.append(_restart_cell(step))
        epoch = max(epoch, step.epoch)
        cells.append(_code_cell(step))
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": _notebook_metadata(session),
        "cells": cells,
    }


def _notebook_metadata(session: Session) -> dict[str, Json]:
    kernelspec = (session.kernel.kernelspec if session.kernel else "") or session.kernelspec
    metadata: dict[str, Json] = {
        "ci_tools": {
            "session_id": session.id,
            "name": session.name,
            "created_at": session.created_at,
            "epoch": session.epoch,
        }
    }
    if kernelspec:
        spec: dict[str, Json] = {"name": kernelspec, "display_name": kernelspec}
        if session.kernel is not None and session.kernel.language:
            spec["language"] = session.kernel.language
            metadata["language_info"] = {"name": session.kernel.language}
        metadata["kernelspec"] = spec
    return metadata


def _restart_cell(step: RunStep) -> Json:
    return {
        "cell_type": "markdown",
        "id": f"restart-{step.id}"[:64],
        "metadata": {"ci_tools": {"epoch": step.epoch}},
        "source": "**Kernel restarted: variables lost, files kept.**",
    }


def _code_cell(step: RunStep) -> Json:
    outputs: list[Json] = [_to_output(output, step) for output in step.outputs]
    if step.error is not None and not any(isinstance(o, ErrorOutput) for o in step.outputs):
        outputs.append(_error_output(step.error))
    return {
        "cell_type": "code",
        "id": step.id,
        "metadata": {"ci_tools": _step_metadata(step)},
        "source": clean_text(step.code),
        "execution_count": step.execution_count,
        "outputs": outputs,
    }


def _step_metadata(step: RunStep) -> Json:
    return {
        "step_id": step.id,
        "status": step.status.value,
        "epoch": step.epoch,
        "created_at": step.created_at,
        "started_at": step.started_at,
        "finished_at": step.finished_at,
        "error": None if step.error is None else step.error.code,
        "notices": [clean_text(notice) for notice in step.notices],
        "files": [
            {
                "path": clean_text(file.path),
                "change": file.change,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in step.files
        ],
    }


def _to_output(output: Output, step: RunStep) -> Json:
    match output:
        case StreamOutput():
            return {"output_type": "stream", "name": output.name, "text": _to_text(output.text)}
        case DisplayOutput(kind="result"):
            count = output.execution_count
            return {
                "output_type": "execute_result",
                "execution_count": step.execution_count if count is None else count,
                "data": _to_bundle(output.data),
                "metadata": dict(output.metadata),
            }
        case DisplayOutput():
            return {
                "output_type": "display_data",
                "data": _to_bundle(output.data),
                "metadata": dict(output.metadata),
            }
        case ErrorOutput():
            return {
                "output_type": "error",
                "ename": clean_text(output.name),
                "evalue": clean_text(output.message),
                "traceback": list(clean_text(output.traceback).split("\n")),
            }
        case _:
            assert_never(output)


def _to_text(text: str) -> str:
    # Viewers know colours, but most do not know the cursor: there only the last state makes sense.
    text = clean_text(text).replace("\r\n", "\n")
    return fold_text(text) if _OVERWRITES.search(text) else text


def _error_output(error: StepError) -> Json:
    line = f"{error.code}: {error.message}"
    return {
        "output_type": "error",
        "ename": error.code,
        "evalue": error.message,
        "traceback": [line],
    }


def _to_bundle(data: Mapping[str, Json]) -> Json:
    return {media_type: _to_value(media_type, value) for media_type, value in data.items()}


def _to_value(media_type: str, value: Json) -> Json:
    if _JSON_TYPE.match(media_type):
        return value
    return clean_text(value if isinstance(value, str) else json.dumps(value))
