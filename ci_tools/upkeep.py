"""What a service process does beside its callers' work: leases, settling, idle kernels, expiry."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from ci_tools.engine import Engine
from ci_tools.errors import BackendError, CIToolsError, KernelLostError, NotFoundError
from ci_tools.kernel import WorkspaceRequest
from ci_tools.models import RunStep, Session, StepError, StepStatus, StreamOutput

logger = logging.getLogger(__name__)

_TICK = 0.5
"""Seconds between two looks at the running steps: spool what they printed, stop the cancelled."""

_SWEEP = 60.0
"""The longest time in seconds between two looks for idle kernels and expired sessions."""


async def keep_lease(engine: Engine) -> None:
    """Show that this process is alive, and settle the steps of those that are not, for ever."""
    while True:
        await anyio.sleep(engine.settings.lease_time / 3)
        await _attempt("lease", lambda: renew_lease(engine))
        await _attempt("settling", lambda: settle_orphans(engine))


async def renew_lease(engine: Engine) -> None:
    """Take or renew this process's lease."""
    await engine.records.take_lease(engine.lease, seconds=engine.settings.lease_time)


async def watch_steps(engine: Engine) -> None:
    """Spool what running steps printed and stop those cancelled by other processes, for ever."""
    while True:
        await anyio.sleep(_TICK)
        if engine.unwritten:
            await _attempt("records", lambda: write_unwritten(engine))
        if not engine.running:
            continue
        for running in list(engine.running.values()):
            running.log.flush()
        await _attempt("cancels", lambda: _stop_cancelled(engine))


async def write_unwritten(engine: Engine) -> None:
    """Write the final records that the store did not take before."""
    for step in list(engine.unwritten.values()):
        try:
            await engine.records.finish_step(step, lease=engine.lease)
        except NotFoundError:
            logger.info("step %s: its session was closed before it was written", step.id)
        del engine.unwritten[step.id]
        engine.spool_path(step.id).unlink(missing_ok=True)


async def _stop_cancelled(engine: Engine) -> None:
    for step_id in await engine.records.requested_cancels(lease=engine.lease):
        running = engine.running.get(step_id)
        if running is not None:
            running.request_stop("cancelled")


async def sweep(engine: Engine) -> None:
    """Stop idle kernels and delete expired sessions, for ever."""
    settings = engine.settings
    pause = min(_SWEEP, settings.kernel_idle_timeout / 4, settings.session_retention / 4)
    while True:
        await anyio.sleep(pause)
        await _attempt("idle kernels", lambda: stop_idle_kernels(engine))
        await _attempt("expired sessions", lambda: delete_expired(engine))


async def stop_idle_kernels(engine: Engine) -> None:
    """Stop the kernels of sessions that were not used for the idle time; the sessions stay."""
    idle = engine.settings.kernel_idle_timeout
    for session in await engine.records.list_idle_kernels(idle=idle):
        if session.kernel is None or not _is_served(engine, session):
            continue
        lost = f"stopped after {idle:g} s without use"
        if await engine.records.drop_kernel(session.id, epoch=session.epoch, lost=lost):
            if session.id in engine.live:
                engine.live[session.id].close()
            logger.info("session %s: idle kernel stopped", session.id)
            await engine.backend.stop_kernel(session.kernel)


async def delete_expired(engine: Engine) -> None:
    """Delete the sessions whose retention time or life is over."""
    settings = engine.settings
    for session in await engine.records.list_expired_sessions(
        retention=settings.session_retention, lifetime=settings.session_lifetime
    ):
        logger.info("session %s: expired", session.id)
        await delete_session(engine, session)


async def delete_session(engine: Engine, session: Session) -> None:
    """Delete a session with its kernel, folder, files and steps."""
    live = engine.live.get(session.id)
    if live is not None:
        live.close()
    try:
        if session.kernel is not None:
            await engine.backend.stop_kernel(session.kernel)
        await engine.backend.remove_workspace(
            WorkspaceRequest(session_id=session.id, server=session.server)
        )
    except BackendError as error:
        # The owner asked for the end of the session; what is left on a server that is away must
        # not keep it.
        logger.warning("session %s: left behind on its server: %s", session.id, error)
    keys = await engine.records.delete_session(session.id, principal=session.principal)
    await engine.blobs.delete(keys)


async def settle_orphans(engine: Engine) -> None:
    """Give the steps of processes that are gone a final record, with what they had printed."""
    for step in await engine.records.list_orphaned_steps():
        if step.id not in engine.running and await engine.records.adopt_step(
            step.id, lease=engine.lease
        ):
            await _settle(engine, step)


async def _settle(engine: Engine, step: RunStep) -> None:
    spool = engine.spool_path(step.id)
    ran = step.status is StepStatus.IN_PROGRESS
    text = spool.read_bytes()[: engine.settings.text_limit] if spool.exists() else b""
    message = (
        "The service process that ran this step ended; what it had printed is kept."
        if ran
        else "The service process that held this step ended before the step ran."
    )
    if ran:
        await _interrupt_orphan(engine, step)
    outputs = (StreamOutput(name="stdout", text=text.decode("utf-8", "replace")),) if text else ()
    await engine.records.finish_step(
        replace(
            step,
            status=StepStatus.FAILED,
            outputs=outputs,
            error=StepError(code="service_died", message=message),
        ),
        lease=engine.lease,
    )
    spool.unlink(missing_ok=True)
    logger.warning("step %s: settled for a process that ended", step.id)


async def _interrupt_orphan(engine: Engine, step: RunStep) -> None:
    """Stop code that still runs in a kernel nobody listens to; its variables stay."""
    try:
        session = await engine.records.get_session(step.session_id, principal=step.principal)
        if session.kernel is not None and _is_served(engine, session):
            async with engine.backend.connect(session.kernel) as kernel:
                await kernel.interrupt()
    except (KernelLostError, NotFoundError):
        logger.info("step %s: its kernel or session is gone", step.id)
    except BackendError as error:
        logger.warning("step %s: its kernel could not be interrupted: %s", step.id, error)


def _is_served(engine: Engine, session: Session) -> bool:
    return session.server in engine.backend.servers()


async def _attempt(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do upkeep that must not end the service; what fails is logged and tried again later."""
    try:
        await work()
    except (CIToolsError, OSError) as error:
        logger.warning("upkeep (%s) failed, it will be tried again: %s", what, error)
    except Exception:
        # The outermost handler of a task that nobody waits for.
        logger.exception("upkeep (%s) failed, it will be tried again", what)
