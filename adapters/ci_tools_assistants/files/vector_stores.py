"""The place of the vector stores' endpoints, which this release does not have.

https://platform.openai.com/docs/api-reference/vector-stores
"""

from collections.abc import Sequence
from typing import Literal

from ci_tools_assistants.errors import not_there_yet
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Object

_METHODS: tuple[Literal["GET", "POST", "DELETE"], ...] = ("GET", "POST", "DELETE")

_SUMMARY = "Vector stores are not in this release: answers 501"


def operations() -> Sequence[Operation]:
    """Return operations that say so, for whatever is asked below `/vector_stores`."""
    return [
        Operation(
            method=method,
            path=path,
            handler=_refuse,
            response="ErrorResponse",
            summary=_SUMMARY,
            tags=("Vector stores",),
        )
        for path in ("/vector_stores", "/vector_stores/{rest:path}")
        for method in _METHODS
        if path.endswith("}") or method != "DELETE"
    ]


async def _refuse(call: Call) -> Object:
    raise not_there_yet("The search of files in vector stores")
