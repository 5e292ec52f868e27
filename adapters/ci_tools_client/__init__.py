"""A session service that runs elsewhere, over HTTP, with the methods of the one in this process.

Begin with `async with open_client("http://127.0.0.1:8765", token="cit_…") as service:`; the rest is
as with `ci_tools.open_service`.
"""

import importlib
import typing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

if typing.TYPE_CHECKING:
    from ci_tools_client.connection import ConnectionLostError
    from ci_tools_client.service import RemoteService
    from ci_tools_client.uploads import RemoteUploads

__all__ = ["ConnectionLostError", "RemoteService", "RemoteUploads", "open_client"]

_LATE = {
    "ConnectionLostError": "ci_tools_client.connection",
    "RemoteService": "ci_tools_client.service",
    "RemoteUploads": "ci_tools_client.uploads",
}
"""Names that load when they are used, as httpx2 takes a tenth of a second to import."""


@asynccontextmanager
async def open_client(url: str, token: str | None = None) -> "AsyncIterator[RemoteService]":
    """Yield the service at the address of `ci-tools serve`, as the principal of the token.

    Nothing is sent before the first call. `token` is None where the service asks for none.

    Raises:
        ConfigurationError: The address or the token cannot be one.
    """
    from ci_tools_client.connection import open_connection
    from ci_tools_client.service import RemoteService

    async with open_connection(url, token) as connection:
        yield RemoteService(connection)


def __getattr__(name: str) -> typing.Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value
