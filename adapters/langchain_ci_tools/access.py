"""What every tool, middleware and backend of one toolkit shares: the way to its sessions."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ci_tools.models import new_id
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.sessions import Found, Sessions, Where

if TYPE_CHECKING:
    # It imports an event loop's worth of modules, which only who makes a toolkit pays for.
    from langchain_ci_tools.connection import Connection

T = TypeVar("T")

Action: TypeAlias = Callable[[SessionAPI, Found, Put], Awaitable[T]]
"""What is done in a session; it runs in the private event loop."""


class Access:
    """The way to the sessions of one principal."""

    def __init__(self, connection: "Connection", *, principal: str | None = None) -> None:
        self.connection = connection
        self.principal = principal
        """Whose sessions; None is whoever the service was opened for."""

        self.sessions = Sessions()
        self.fallback = new_id("")
        """The thread of calls that name none."""

    def act_as(self, principal: str) -> "Access":
        """Return the way to another principal's sessions, over the same connection."""
        return Access(self.connection, principal=principal)

    def call(self, where: Where, action: Action[T], *, put: Put = None) -> T:
        """Do something in a session and wait, blocking this thread."""
        return self.connection.call(self._to_job(where, action), put=put)

    async def acall(
        self,
        where: Where,
        action: Action[T],
        *,
        put: Callable[[object], Awaitable[None]] | None = None,
    ) -> T:
        """Do something in a session and wait, without blocking this event loop."""
        return await self.connection.acall(self._to_job(where, action), put=put)

    def service(self, service: SessionAPI) -> SessionAPI:
        """Return the principal's view of the connection's service."""
        if self.principal is None:
            return service
        act_as: Callable[[str], SessionAPI] | None = getattr(service, "act_as", None)
        if act_as is None:
            raise TypeError("A shared service knows the principal by the token: connect with it.")
        return act_as(self.principal)

    def _to_job(self, where: Where, action: Action[T]) -> Callable[[SessionAPI, Put], Awaitable[T]]:
        async def job(service: SessionAPI, put: Put) -> T:
            own = self.service(service)
            return await self.sessions.use(own, where, lambda found: action(own, found, put))

        return job
