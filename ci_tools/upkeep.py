"""What a service process does beside its callers' work: leases, settling, idle kernels, expiry."""

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import anyio

from ci_tools.engine import Engine
from ci_tools.errors import BackendError, CIToolsError, KernelLostError, NotFoundError
from ci_tools.kernel import WorkspaceRequest
from ci_tools.models import RunStep, Session, StepError, StepStatus, StreamOutput
from ci_tools.outputs import read_spool

logger = logging.getLogger(__name__)

_TICK = 0.5
"""Seconds between two looks at the running steps: spool what they printed, stop the cancelled."""

_LISTED = 1000
"""Sessions looked at in one sweep for kernels that are gone."""

_PATIENCE = 3
"""Looks for orphans, a third of the lease time apart, that are left out after a sleep."""

_LOOSE_TIME = 900.0
"""Seconds that an object without a record is left alone: its process may only have slept."""

_SWEEP = 60.0
"""The longest time in seconds between two looks for idle kernels and expired sessions."""


async def keep_lease(engine: Engine) -> None:
    """Show that this process is alive, for ever.

    It does nothing else: while it waited for anything, others would take this process for dead.
    """
    while True:
        await anyio.sleep(engine.settings.lease_time / 3)
        await _attempt("lease", lambda: renew_lease(engine))


async def watch_leases(engine: Engine) -> None:
    """Settle the steps of processes whose lease has run out, for ever."""
    pause = engine.settings.lease_time / 3
    patience = 0
    while True:
        if patience:
            patience -= 1
        else:
            await _attempt("settling", lambda: settle_orphans(engine))
        before = time.time()
        await anyio.sleep(pause)
        if time.time() - before > 2 * pause:
            # The machine slept, or its clock was set: the leases of the others may have run out,
            # though they live. They get the time of a lease to renew them.
            patience = _PATIENCE


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
        except (CIToolsError, OSError) as error:
            logger.warning("step %s: its record cannot be written yet: %s", step.id, error)
            continue
        except Exception:
            # It would fail for ever, and keep the session's next step waiting for as long.
            logger.exception("step %s: its record cannot be written with its outputs", step.id)
            engine.unwritten[step.id] = _without_outputs(step)
            continue
        engine.unwritten.pop(step.id, None)
        engine.spool_path(step.id).unlink(missing_ok=True)


def _without_outputs(step: RunStep) -> RunStep:
    message = "The service could not store the outputs; its log says why."
    return replace(
        step,
        status=StepStatus.FAILED,
        outputs=(),
        files=(),
        notices=(),
        error=StepError(code="internal_error", message=message),
    )


async def _stop_cancelled(engine: Engine) -> None:
    for step_id in await engine.records.requested_cancels(lease=engine.lease):
        running = engine.running.get(step_id)
        if running is not None:
            running.request_stop("cancelled")


async def sweep(engine: Engine) -> None:
    """Forget gone kernels, stop idle ones and delete expired sessions, for ever."""
    settings = engine.settings
    times = (settings.kernel_idle_timeout, settings.session_retention, settings.session_lifetime)
    pause = min([_SWEEP, *(time / 4 for time in times if time is not None)])
    while True:
        await _attempt("gone kernels", lambda: forget_gone_kernels(engine))
        await anyio.sleep(pause)
        await _attempt("idle kernels", lambda: stop_idle_kernels(engine))
        await _attempt("expired sessions", lambda: delete_expired(engine))
        await _attempt("loose objects", lambda: sweep_objects(engine))


async def stop_idle_kernels(engine: Engine) -> None:
    """Stop the kernels of sessions that were not used for the idle time; the sessions stay."""
    idle = engine.settings.kernel_idle_timeout
    for session in await engine.records.list_idle_kernels(idle=idle):
        if session.kernel is not None and _is_served(engine, session):
            await _attempt("idle kernel", partial(_stop_idle_kernel, engine, session, idle))


async def _stop_idle_kernel(engine: Engine, session: Session, idle: float) -> None:
    # Stopping those before it may have taken long: only a kernel that is still idle is dropped.
    lost = f"stopped after {idle:g} s without use"
    if session.kernel is not None and await engine.records.drop_kernel(
        session.id, epoch=session.epoch, lost=lost, idle=idle
    ):
        if session.id in engine.live:
            engine.live[session.id].close()
        logger.info("session %s: idle kernel stopped", session.id)
        await engine.backend.stop_kernel(session.kernel)


async def forget_gone_kernels(engine: Engine) -> None:
    """Take note of kernels whose server has ended, so that sessions do not seem to have them."""
    for session in await engine.records.list_idle_kernels(idle=0, limit=_LISTED):
        if session.kernel is not None and not engine.backend.may_live(session.kernel):
            await engine.records.drop_kernel(session.id, epoch=session.epoch, lost="it had ended")


async def delete_expired(engine: Engine) -> None:
    """Delete the sessions whose retention time or life is over."""
    settings = engine.settings
    for session in await engine.records.list_expired_sessions(
        retention=settings.session_retention, lifetime=settings.session_lifetime
    ):
        await _attempt("expired session", partial(_delete_expired, engine, session))


async def _delete_expired(engine: Engine, session: Session) -> None:
    # Deleting those before it may have taken long, and it may have been used meanwhile.
    if session == await engine.records.get_session(session.id, principal=session.principal):
        logger.info("session %s: expired", session.id)
        await delete_session(engine, session)


async def sweep_objects(engine: Engine) -> None:
    """Delete from the object store what no record names and no living process writes."""
    while keys := await engine.records.claim_garbage(age=_LOOSE_TIME):
        logger.info("deleting %s objects that a process left behind", len(keys))
        for key in keys:
            await _attempt("loose object", partial(engine.blobs.sweep, key))


async def delete_session(engine: Engine, session: Session) -> None:
    """Delete a session with its kernel, folder, files and steps."""
    live = engine.live.get(session.id)
    if live is not None:
        live.close()
        # It may be starting the kernel that is to be stopped here.
        with anyio.move_on_after(engine.settings.interrupt_grace):
            await live.ended.wait()
        session = await engine.records.get_session(session.id, principal=session.principal)
    try:
        if session.kernel is not None:
            await engine.backend.stop_kernel(session.kernel)
        await engine.backend.remove_workspace(WorkspaceRequest.of(session))
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
            # From here on no other process will: what fails now is written later.
            engine.unwritten[step.id] = await _settled(engine, step)
            logger.warning("step %s: settled for a process that ended", step.id)
    await write_unwritten(engine)


async def _settled(engine: Engine, step: RunStep) -> RunStep:
    """Return the final record of an orphaned step."""
    ran = step.status is StepStatus.IN_PROGRESS
    message = (
        "The service process that ran this step ended; what it had printed is kept."
        if ran
        else "The service process that held this step ended before the step ran."
    )
    if ran:
        await _attempt("orphan", lambda: _interrupt_orphan(engine, step))
    text = read_spool(engine.spool_path(step.id), limit=engine.settings.text_limit)
    return replace(
        step,
        status=StepStatus.FAILED,
        outputs=(StreamOutput(name="stdout", text=text),) if text else (),
        error=StepError(code="service_died", message=message),
    )


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
