"""The tools for sessions: create, list, restart, close."""

import logging
from typing import Annotated, Any

import anyio
from pydantic import Field

from ci_tools import BackendError, CIToolsError, RunStep, Session
from ci_tools_mcp.access import Call
from ci_tools_mcp.failures import tool_errors
from ci_tools_mcp.times import to_time

logger = logging.getLogger(__name__)


async def create_session(
    context: Call,
    kernel: Annotated[str | None, Field(description="Kernelspec, e.g. python3.")] = None,
    name: str | None = None,
    server: Annotated[str | None, Field(description="A configured Jupyter Server.")] = None,
) -> dict[str, Any]:
    """Create a session: a kernel with its own variables and /mnt/data.

    Its id stays valid for weeks. After an hour without use the kernel is stopped: variables are
    lost (the next result says so), files and steps stay.
    """
    service = await context.request_context.lifespan_context.service()
    with tool_errors():
        session = await service.create_session(name=name, server=server, kernelspec=kernel)
        await service.warm_session(session.id)
    settings = service.settings
    return {
        **_to_dict(session),
        "kernel_stops_after_idle_s": settings.kernel_idle_timeout,
        "expires_after_idle_s": settings.session_retention,
    }


async def list_sessions(context: Call) -> dict[str, Any]:
    """List your sessions, last used first."""
    service = await context.request_context.lifespan_context.service()
    with tool_errors():
        sessions = await service.list_sessions()
    return {"sessions": [_to_dict(session) for session in sessions]}


async def restart_session(
    context: Call,
    session_id: str,
    replay: Annotated[bool, Field(description="Run its completed steps again.")] = False,
) -> dict[str, Any]:
    """Restart a session's kernel: variables are lost, files stay."""
    access = context.request_context.lifespan_context
    service = await access.service()
    restart = _Restart()

    async def run() -> None:
        try:
            restarted = await service.restart_session(session_id, replay=replay)
            restart.session, restart.replayed = restarted.session, restarted.replayed
        except CIToolsError as exc:
            restart.error = exc
        except Exception:  # the outermost handler of this task
            logger.exception("A session could not be restarted")
            restart.error = BackendError("The restart failed; the server's log says why.")
        finally:
            restart.done.set()

    # In the background, for a replay may take longer than the host lets a call take.
    access.run_in_background(run)
    with anyio.move_on_after(access.options.wait_limit):
        await restart.done.wait()
    with tool_errors():
        if restart.error is not None:
            raise restart.error
    if restart.session is None:
        return {"session_id": session_id, "status": "in_progress", "see": "list_run_steps"}
    replayed = [{"step_id": step.id, "status": step.status.value} for step in restart.replayed]
    return {**_to_dict(restart.session), "status": "restarted", "replayed": replayed}


async def close_session(context: Call, session_id: str) -> dict[str, Any]:
    """Delete a session with its kernel, files and steps."""
    access = context.request_context.lifespan_context
    service = await access.service()
    with tool_errors():
        await service.close_session(session_id)
    access.forget_default_session(session_id)
    return {"session_id": session_id, "closed": True}


class _Restart:
    """What became of a restart."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.session: Session | None = None
        self.replayed: tuple[RunStep, ...] = ()
        self.error: CIToolsError | None = None


def _to_dict(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.id,
        "name": session.name,
        "kernel": (session.kernel.kernelspec if session.kernel else session.kernelspec)
        or "default",
        "server": session.server,
        "isolation": session.isolation,
        "kernel_running": session.kernel is not None,
        "epoch": session.epoch,
        "last_used_at": to_time(session.last_used_at),
    }
