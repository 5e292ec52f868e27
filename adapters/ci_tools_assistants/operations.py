"""All operations of the API, from the modules that own them."""

from collections.abc import Sequence

from ci_tools_assistants import (
    assistants,
    containers,
    files,
    messages,
    runs,
    steps,
    threads,
    transfer,
    uploads,
    vector_stores,
)
from ci_tools_assistants.models import routes as models
from ci_tools_assistants.routing import Operation


def all_operations() -> Sequence[Operation]:
    """Return every operation."""
    owners = (
        assistants,
        threads,
        messages,
        runs,
        steps,
        files,
        uploads,
        vector_stores,
        models,
        containers,
        transfer,
    )
    return [operation for owner in owners for operation in owner.operations()]
