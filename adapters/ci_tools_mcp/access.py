"""Who calls, and the service that answers: opened in the background, shared by all connections.

How this works: the server's lifespan is ready at once. After the first answer has gone out, or when
a tool asks for it, the service (database, Jupyter Server, kernel) is opened in the background, and
tools wait for it: a host gets its first answer before anything heavy is imported. Every call acts
as its principal: the subject of the verified token, or `local`.
"""

import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from ci_tools import LOCAL, CIToolsError, NotFoundError, Session, SessionService

logger = logging.getLogger(__name__)

DEFAULT_SESSION_HEADER = "ci-tools-default-session"
"""A client that sends this HTTP header has a default session, as on stdio: one for each value."""

DEFAULT_SESSION = "default"
"""How the names of default sessions begin; whose it is and what kernel it has follow."""

ANSWER_DELAY = 0.05
"""Seconds in which the first answer can leave before imports keep the event loop busy."""

OpenService: TypeAlias = Callable[[], AbstractAsyncContextManager[SessionService]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the composition decides about the tools."""

    default_session: bool
    """Whether calls without a session id share one session of this process, as on stdio.

    Two hosts on one machine must not meet in one session by accident, so each process has its own;
    after a restart a host finds the earlier one by its id or by `list_sessions`.
    """

    resource_links: bool
    """Whether results link to files, for clients whose protocol version knows links."""

    wait_limit: float
    """Seconds after which a call returns although its step still runs."""

    public_url: str | None
    """Where tickets are redeemed; None where there is no HTTP face to move large files through."""


class Access:
    """The way from a call to the service of its principal; one for each run of the server."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._answered = anyio.Event()
        self._wanted = anyio.Event()
        self._settled = anyio.Event()
        self._closing = anyio.Event()
        self._service: SessionService | None = None
        self._failure = ""
        self._key = secrets.token_hex(4)
        self._defaults: dict[tuple[str, str], str] = {}
        self._choosing = anyio.Lock()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def open(self, open_service: OpenService) -> AsyncIterator["Access"]:
        """Open the service in the background, and close it at the end."""
        async with anyio.create_task_group() as owner:
            owner.start_soon(self._own, open_service)
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._warm_up)
                yield self
                tasks.cancel_scope.cancel()
            self._closing.set()
            self._wanted.set()

    async def _own(self, open_service: OpenService) -> None:
        """Open and close the service in one task; a failure to open is kept for the callers."""
        await self._wanted.wait()
        if self._closing.is_set():
            return
        try:
            async with open_service() as service:
                self._service = service
                self._settled.set()
                await self._closing.wait()
                await self._close_unused(service)
        except CIToolsError as exc:
            logger.error("The session service failed: %s", exc)
            self._failure = str(exc)
        except Exception as exc:
            logger.exception("The session service failed")
            self._failure = f"{type(exc).__name__}; the server's log says more"
        finally:
            self._service = None
            self._settled.set()

    async def _warm_up(self) -> None:
        """Open the service, and start what kernels need, before somebody asks for it.

        No session is made: a host may use its own, and one that is killed would leave it behind.
        """
        await self._answered.wait()
        await anyio.sleep(ANSWER_DELAY)
        self._wanted.set()
        try:
            await (await self.service()).warm_up()
        except (CIToolsError, ToolError) as exc:
            logger.warning("Nothing is warmed up: %s", exc)
        except Exception:  # the outermost handler of this task: the tools may work all the same
            logger.exception("Nothing is warmed up")

    def note_answer(self) -> None:
        """Take note that a message of a client has been answered."""
        self._answered.set()

    async def service(self) -> SessionService:
        """Return the service for the caller's principal; waits until it is open.

        Raises:
            ToolError: It could not be opened, or takes too long.
        """
        self._wanted.set()
        if not self._settled.is_set():
            with anyio.move_on_after(self.options.wait_limit):
                await self._settled.wait()
        if self._service is not None:
            return self._service.act_as(find_principal())
        if not self._settled.is_set():
            raise ToolError("The session service is still starting: call again in a moment.")
        raise ToolError(
            f"The session service could not be started: {self._failure or 'it is closed'}. "
            "The person who runs this server can find the cause with `ci-tools doctor`."
        )

    def run_in_background(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that outlives its call; it is cancelled when the server ends."""
        if self._tasks is None:
            raise ToolError("The session service is closed.")
        self._tasks.start_soon(function)

    def default_key(self, context: Context[Any, Any]) -> str | None:
        """Return whose default session this caller's calls without a session id share, if any."""
        if self.options.default_session:
            return self._key
        header = (context.headers or {}).get(DEFAULT_SESSION_HEADER)
        return hashlib.sha256(header.encode()).hexdigest()[:8] if header else None

    async def default_session(
        self, service: SessionService, key: str, *, kernelspec: str | None = None
    ) -> str:
        """Return the id of the default session of `key`, which is made if there is none."""
        name = "-".join(part for part in (DEFAULT_SESSION, key, kernelspec) if part)
        async with self._choosing:
            known = self._defaults.get((service.principal, name))
            if known is None:
                known = await _find_session(service, name)
            if known is None:
                known = (await service.create_session(name=name, kernelspec=kernelspec)).id
            self._defaults[service.principal, name] = known
        return known

    async def _close_unused(self, service: SessionService) -> None:
        """Close this process's default sessions in which nothing was ever run or kept."""
        if not self.options.default_session:
            return
        for session_id in self._defaults.values():
            try:
                if await service.list_run_steps(session_id, limit=1):
                    continue
                if not await service.list_files(session_id, limit=1):
                    await service.close_session(session_id)
            except CIToolsError as exc:
                logger.warning("An unused default session was left behind: %s", exc)

    def forget_default_session(self, session_id: str) -> None:
        """Choose again next time: this session is closed or has expired."""
        self._defaults = {key: id for key, id in self._defaults.items() if id != session_id}

    async def find_session(
        self, context: Context[Any, Any], service: SessionService, session_id: str | None
    ) -> Session:
        """Return the session that a call means.

        Raises:
            ToolError: No id, and this caller has no default session.
            NotFoundError: No such session.
        """
        if session_id:
            return await service.get_session(session_id)
        key = self.default_key(context)
        if key is None:
            raise ToolError("session_id is missing. Use one from list_sessions or create_session.")
        default = await self.default_session(service, key)
        try:
            return await service.get_session(default)
        except NotFoundError:
            self.forget_default_session(default)
            return await service.get_session(await self.default_session(service, key))


Call: TypeAlias = Context[Access, Any]
"""One call: its lifespan context is the way to the service."""


def find_principal() -> str:
    """Return whom the current call acts for."""
    token = get_access_token()
    return LOCAL if token is None else token.subject or token.client_id


async def _find_session(service: SessionService, name: str) -> str | None:
    sessions = await service.list_sessions()
    return next((session.id for session in sessions if session.name == name), None)
