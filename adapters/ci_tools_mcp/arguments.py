"""What is wrong with a tool's arguments, in one line that a model can act on."""

from collections.abc import Iterable, Mapping
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_SHOWN = 5
"""Wrong arguments that are named at most."""


def check_names(tool: str, model: type[BaseModel], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the tool does not have.

    Raises:
        ToolError: It names the wrong arguments and the right ones.
    """
    unknown = [name for name in arguments if name not in model.model_fields]
    if unknown:
        raise ToolError(f"{tool} has no argument {_names(unknown)}. {_known(tool, model)}")


def explain_arguments(tool: str, model: type[BaseModel], error: ValidationError) -> str:
    """Return what is wrong with the values, without quoting them."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [_explain(problem) for problem in problems[:_SHOWN]]
    return f"{tool}: {'; '.join(dict.fromkeys(lines))}. {_known(tool, model)}"


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "the arguments"
    if problem["type"] == "missing":
        return f"the argument {name} is missing"
    return f"{name}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _known(tool: str, model: type[BaseModel]) -> str:
    return f"{tool} takes: {', '.join(model.model_fields)}."


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:50]) for name in list(names)[:_SHOWN])
