"""Run steps as artifacts of tool messages, which checkpointers store and load as plain JSON."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from pydantic_core import SchemaSerializer, core_schema

from ci_tools.models import (
    ChangedFile,
    DisplayOutput,
    ErrorOutput,
    FullText,
    Output,
    RunStep,
    StepError,
    StepStatus,
    StreamOutput,
)


class StepArtifact(RunStep):
    """A run step that is JSON in a checkpoint; `to_step` reads it from there."""

    # A checkpoint keeps messages by pydantic's `model_dump`, which leaves the enumeration of a
    # step's status as it is, and loading types that LangGraph does not know is to be forbidden.
    __pydantic_serializer__ = SchemaSerializer(
        core_schema.any_schema(
            serialization=core_schema.plain_serializer_function_ser_schema(lambda step: dump(step))
        )
    )


def to_artifact(step: RunStep) -> StepArtifact:
    """Return a step as an artifact."""
    return StepArtifact(**{item.name: getattr(step, item.name) for item in fields(RunStep)})


def dump(step: RunStep) -> dict[str, Any]:
    """Return a step as JSON values."""
    return {**asdict(step), "status": step.status.value}


def to_step(artifact: object) -> RunStep:
    """Return the step in a tool message's `artifact`, be it fresh or out of a checkpoint.

    Raises:
        TypeError: There is none.
    """
    if isinstance(artifact, RunStep):
        return artifact
    if not isinstance(artifact, Mapping) or "session_id" not in artifact or "code" not in artifact:
        raise TypeError("This artifact is no run step.")
    values = dict(artifact)
    values["status"] = StepStatus(values["status"])
    values["outputs"] = tuple(_to_output(item) for item in values["outputs"])
    values["files"] = tuple(ChangedFile(**item) for item in values["files"])
    values["notices"] = tuple(values["notices"])
    values["error"] = StepError(**values["error"]) if values["error"] else None
    values["full_text"] = FullText(**values["full_text"]) if values["full_text"] else None
    return RunStep(**values)


def _to_output(item: Mapping[str, Any]) -> Output:
    if "traceback" in item:
        return ErrorOutput(**item)
    return DisplayOutput(**item) if "data" in item else StreamOutput(**item)
