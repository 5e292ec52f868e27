"""All operations of the API, from the modules that own them."""

from collections.abc import Sequence
from importlib import import_module

from ci_tools_assistants.routing import Operation

_OWNERS = (
    "assistants",
    "threads",
    "messages",
    "runs",
    "steps",
    "files",
    "uploads",
    "vector_stores",
    "transfer",
    "models.routes",
    "containers",
)


def all_operations() -> Sequence[Operation]:
    """Return every operation."""
    found: list[Operation] = []
    for owner in _OWNERS:
        try:
            module = import_module(f"ci_tools_assistants.{owner}")
        except ModuleNotFoundError:  # while it is being written
            continue
        found.extend(module.operations())
    return found
