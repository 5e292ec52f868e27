"""The plain HTTP face of sessions: OpenAI's Containers endpoints, and ours beside them.

A container is a session, under the same id; a file has the same `file-…` id on every face. What a
session service can do in Python can be done here: `ci_tools_client` is the Python client of this.
"""

from collections.abc import Sequence

from ci_tools_assistants.containers import commands, files, paths, run_steps, sessions
from ci_tools_assistants.http.routing import Operation

__all__ = ["operations"]


def operations() -> Sequence[Operation]:
    """List the operations of containers."""
    return (
        *sessions.operations(),
        *files.operations(),
        *paths.operations(),
        *run_steps.operations(),
        *commands.operations(),
    )
