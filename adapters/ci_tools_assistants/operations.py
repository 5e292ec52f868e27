"""All operations of the API, from the modules that own them."""

from collections.abc import Sequence

from ci_tools_assistants import containers
from ci_tools_assistants.conversations import assistants, messages, threads
from ci_tools_assistants.files import endpoints as files
from ci_tools_assistants.files import uploads, vector_stores
from ci_tools_assistants.http.routing import Operation
from ci_tools_assistants.models import routes as models
from ci_tools_assistants.runs import endpoints as runs
from ci_tools_assistants.runs import steps
from ci_tools_assistants.transfer import endpoints as transfer


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
