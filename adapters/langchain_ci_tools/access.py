"""What every tool, middleware and backend of one toolkit shares: the way to its sessions."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from langchain_core.runnables import RunnableConfig

from ci_tools.models import new_id
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.sessions import Found, Sessions, Where, find_thread

if TYPE_CHECKING:
    # It imports an event loop's worth of modules, which only who makes a toolkit pays for.
    from langchain_ci_tools.connection import Connection

T = TypeVar("T")

Action: TypeAlias = Callable[[SessionAPI, Found, Put], Awaitable[T]]
"""What is done in a session; it runs in the private event loop."""

_agents: ContextVar["tuple[Access, Where] | None"] = ContextVar("ci_tools_agent", default=None)
"""The session of the agent whose tool is running, and the way to it."""


class Access:
    """The way to the sessions of one principal."""

    def __init__(
        self, connection: "Connection", *, principal: str | None = None, is_shared: bool = False
    ) -> None:
        self.connection = connection
        self.principal = principal
        """Whose sessions; None is whoever the service was opened for."""

        self.is_shared = is_shared
        """Whether the service is another process's, which knows its principal by the token."""

        self.sessions = Sessions()
        self.fallback = Where(thread=new_id(""))
        """The session of calls that name no thread."""

    def act_as(self, principal: str) -> "Access":
        """Return the way to another principal's sessions, over the same connection.

        Raises:
            TypeError: The service is a shared one.
        """
        if self.is_shared:
            raise TypeError("A shared service knows the principal by the token: connect with it.")
        return Access(self.connection, principal=principal)

    @contextmanager
    def use_in_tools(self, where: Where) -> Iterator[None]:
        """Let all that a tool of an agent does be in the agent's session."""
        token = _agents.set((self, where))
        try:
            yield
        finally:
            _agents.reset(token)

    def find_where(self, config: RunnableConfig | None, state: object = None) -> Where | None:
        """Return the session of a call, by its thread, or else by the agent that makes it.

        None if it has neither.
        """
        thread = find_thread(config, state)
        access, agents = _agents.get() or (None, None)
        if access is self and agents and (thread is None or agents.session_id is not None):
            return agents
        return None if thread is None else Where(thread=thread)

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
        act_as: Callable[[str], SessionAPI] = service.act_as  # type: ignore[attr-defined]
        return act_as(self.principal)

    def _to_job(self, where: Where, action: Action[T]) -> Callable[[SessionAPI, Put], Awaitable[T]]:
        async def job(service: SessionAPI, put: Put) -> T:
            own = self.service(service)
            return await self.sessions.use(own, where, lambda found: action(own, found, put))

        return job
