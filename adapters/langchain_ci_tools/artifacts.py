"""Run steps as artifacts of tool messages, which checkpointers store and load as plain JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic_core import SchemaSerializer, core_schema

from ci_tools.models import RunStep


def dump(step: RunStep) -> dict[str, Any]:
    """Return a step as a JSON object."""
    from ci_tools.wire import step_to_item  # only who stores messages needs it

    return step_to_item(step)


class StepArtifact(RunStep):
    """A run step that is JSON in a checkpoint; `to_step` reads it from there."""

    # A checkpoint keeps messages by pydantic's `model_dump`, which leaves the enumeration of a
    # step's status as it is, and loading types that LangGraph does not know is to be forbidden.
    __pydantic_serializer__ = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(dump))
    )

    def __eq__(self, other: object) -> bool:
        # A step is the same, whoever has got it.
        return isinstance(other, RunStep) and _to_values(self) == _to_values(other)

    __hash__ = RunStep.__hash__


def to_artifact(step: RunStep) -> StepArtifact:
    """Return a step as an artifact."""
    return StepArtifact(**_to_values(step))


def _to_values(step: RunStep) -> dict[str, Any]:
    return {item.name: getattr(step, item.name) for item in fields(RunStep)}


def to_step(artifact: object) -> RunStep:
    """Return the step in a tool message's `artifact`, be it fresh or out of a checkpoint.

    Raises:
        TypeError: There is none.
    """
    if isinstance(artifact, RunStep):
        return artifact
    if not isinstance(artifact, Mapping) or not {"session_id", "code"} <= artifact.keys():
        raise TypeError("This artifact is no run step.")
    from ci_tools.wire import step_from_item

    return step_from_item(dict(artifact))
