"""Errors of the core as answers from which a client can make the same error again.

Beside the four keys of the API, `error.details` has what programs read of an error, and `code` is
the core's own.
"""

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from ci_tools import CIToolsError
from ci_tools.wire import error_to_item
from ci_tools_assistants.errors import ApiError, to_api_error
from ci_tools_assistants.http.routing import Call, Handler
from ci_tools_assistants.objects import Object


class CoreError(ApiError):
    """An error of the core, with its own code and details."""

    def __init__(self, error: CIToolsError) -> None:
        status = to_api_error(error)
        item = error_to_item(error)
        super().__init__(
            status.status,
            item["message"],
            type=status.type,
            code=item["code"],
            retry_after=status.retry_after,
        )
        self.details: Object = item["details"]

    def to_object(self) -> Object:
        """Return the body."""
        body = super().to_object()
        return {"error": {**body["error"], "details": self.details}}


def told(handle: Callable[[Call], Awaitable[Object | Response]]) -> Handler:
    """Let a handler raise errors of the core."""

    async def handle_and_tell(call: Call) -> Object | Response:
        try:
            return await handle(call)
        except CIToolsError as error:
            raise CoreError(error) from error

    return handle_and_tell
