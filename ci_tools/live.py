"""The owning task of a live session: the one place that uses its kernel.

How this works: each session that is used in this process has one `LiveSession` task. Others send
it work through a memory stream; it does one thing after another. Before a step runs, the store says
whether it is its turn (another process may run a step of the same session) and which kernel the
session has now; the task connects to that kernel, or starts one and says so in the step.

A step ends in one of four ways: the kernel is done, the time is up, somebody stops it, or the
kernel is gone. In the second and third the kernel is interrupted and must become idle, so that
the interrupt can never hit the next step; a kernel that does not is stopped.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from ci_tools.changes import SIZE_MAX, check_listing, compare_listings, list_folder
from ci_tools.choices import limit_network
from ci_tools.endings import (
    GONE,
    End,
    to_broken,
    to_cancelled,
    to_closed,
    to_end,
    to_failure,
    to_stopped,
)
from ci_tools.engine import Engine
from ci_tools.errors import (
    BackendError,
    CIToolsError,
    KernelDiedError,
    KernelLostError,
    KernelStartError,
    NotFoundError,
    ServiceClosedError,
    StoreError,
)
from ci_tools.kernel import (
    Execution,
    ExecutionDone,
    FileStat,
    Kernel,
    KernelRequest,
    Workspace,
    WorkspaceRequest,
)
from ci_tools.mapping import PathMapper
from ci_tools.models import (
    ChangedFile,
    FullText,
    KernelRef,
    RunStep,
    Session,
    StepQueued,
    StepStarted,
    StepStatus,
)
from ci_tools.outputs import OutputLimitError
from ci_tools.paths import MOUNT
from ci_tools.running import RunningStep
from ci_tools.settings import to_secrets
from ci_tools.workspace import LocalWorkspace

if TYPE_CHECKING:
    from ci_tools.stores.nouns import Admission

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_GRACE = 10.0
"""Seconds that ending a session's work may take when the service closes."""

_LOOK = 0.5
"""Seconds between two looks at what a kernel's start waits for."""

_TURN_WAIT_FIRST, _TURN_WAIT_LONGEST = 0.01, 0.5
"""Seconds between two looks at whether another process's step of the session has ended."""


class _Step:
    """Work: run a step."""

    def __init__(self, live: "LiveSession", running: RunningStep, admission: "Admission") -> None:
        self._live = live
        self._running = running
        self._admission = admission

    async def run(self) -> None:
        await self._live.run_step(self._running, self._admission)

    async def refuse(self) -> None:
        await self._live.finish_step(self._running, to_closed())


class _Call(Generic[T]):
    """Work: call a function and keep what it returns or raises."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._results: list[T] = []
        self._error: Exception | None = ServiceClosedError()
        self.done = anyio.Event()

    @property
    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]

    async def run(self) -> None:
        try:
            self._results.append(await self._function())
            self._error = None
        except Exception as error:  # noqa: BLE001 - it is raised again in the task that called
            self._error = error
        finally:
            self.done.set()

    async def refuse(self) -> None:
        self.done.set()


_Work: TypeAlias = _Step | _Call[Any]


class LiveSession:
    """A session that this process uses: its kernel's connection and its queue of work."""

    def __init__(self, engine: Engine, session: Session) -> None:
        self._engine = engine
        self._session = session
        self._send, self._receive = anyio.create_memory_object_stream[_Work](float("inf"))
        self._kernel: Kernel | None = None
        self._connection: AsyncExitStack | None = None
        self._working = False
        self._workspace: Workspace | None = None
        self._seen: dict[str, FileStat] | None = None
        self._connected = anyio.Event()
        self._starting: anyio.CancelScope | None = None
        self.ended = anyio.Event()
        """Set when the task is over."""

    async def run(self) -> None:
        """Do the work that is sent, until there has been none for the kernel's idle time.

        Whatever goes wrong here ends here: all sessions of the service share one task group.
        """
        try:
            while await self._work():
                logger.warning("session %s: its connection broke", self._session.id)
        except Exception:
            logger.exception("session %s: its task failed", self._session.id)
        finally:
            if self._engine.live.get(self._session.id) is self:
                del self._engine.live[self._session.id]
            # Not inside a scope of ours: a connection's own scopes were entered before it.
            try:
                await self._disconnect()
            finally:
                with anyio.move_on_after(CLOSE_GRACE, shield=True):
                    await self._refuse_rest()
                self.ended.set()

    async def _work(self) -> bool:
        """Do work until there is no more, or (True) until the connection breaks."""
        try:
            while True:
                work = None
                with anyio.move_on_after(self._engine.settings.kernel_idle_timeout):
                    work = await self._receive.receive()
                if work is not None:
                    self._working = True
                    try:
                        await work.run()
                    finally:
                        self._working = False
                elif not self._receive.statistics().current_buffer_used:
                    return False
        except anyio.EndOfStream:
            return False
        except anyio.get_cancelled_exc_class():
            # A task of the connection that fails cancels this one, which had entered it. That is
            # over once it is left; if it is the service that ends, the checkpoint raises again.
            await self._disconnect()
            await anyio.lowlevel.checkpoint()
            return True

    @property
    def busy(self) -> bool:
        """Whether a call would have to wait for work that was sent before."""
        return self._working or self._receive.statistics().current_buffer_used > 0

    def start_step(self, running: RunningStep, admission: "Admission") -> None:
        """Queue a step."""
        self._send.send_nowait(_Step(self, running, admission))

    async def cancel_step(self, running: RunningStep) -> None:
        """Stop a step and wait for its end; one that waits in the queue ends at once."""
        running.request_stop("cancelled")
        if running.step.status is StepStatus.QUEUED:
            await self.finish_step(running, to_cancelled())
        await running.done.wait()

    async def call(self, function: Callable[[Kernel], Awaitable[T]]) -> T:
        """Call `function` with the connected kernel, after the work that was sent before."""

        async def with_kernel() -> T:
            return await function((await self._kernel_of(await self._stored()))[0])

        return await self._do(with_kernel)

    async def find_kernel(self, *, lost: KernelRef | None = None) -> KernelRef:
        """Return the session's kernel, started if there is none, without waiting for its work.

        `lost` is one that turned out not to exist any more.
        """
        if self._kernel is not None and self._kernel.ref != lost:
            return self._kernel.ref
        found: list[KernelRef] = []
        errors: list[Exception] = []

        async def connect() -> KernelRef:
            session = await self._stored()
            if lost is not None and session.kernel == lost:
                session = await self._drop_kernel(session, "it had ended")
            return (await self._kernel_of(session))[0].ref

        async def ask() -> None:
            try:
                found.append(await self._do(connect))
            except Exception as error:  # noqa: BLE001 - raised below; the group would wrap it
                errors.append(error)
            tasks.cancel_scope.cancel()

        # A step may be first in the queue: it connects too, and runs for long after that.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            while self._kernel is None or self._kernel.ref == lost:
                await self._connected.wait()
            found.append(self._kernel.ref)
            tasks.cancel_scope.cancel()
        if found:
            return found[0]
        raise errors[0]

    async def restart(self) -> None:
        """Replace the session's kernel by a new one, after the work that was sent before."""

        async def replace_kernel() -> None:
            session = await self._drop_kernel(await self._stored(), "on request")
            await self._kernel_of(session)

        await self._do(replace_kernel)

    def close(self) -> None:
        """End the task after the work that was sent before."""
        if self._engine.live.get(self._session.id) is self:
            del self._engine.live[self._session.id]
        self._send.close()

    async def run_step(self, running: RunningStep, admission: "Admission") -> None:
        """Wait for the step's turn, run it, store it (in the owning task)."""
        try:
            if running.finishing:
                return
            turn = await self._await_turn(running, admission)
            if turn is not None and turn.step.status.is_final:
                # Another process took this one for dead, as after a long sleep of the machine.
                self._let_go(running, turn.step)
                return
            end = await self._run(running, turn) if turn else to_cancelled()
        except NotFoundError:
            self._let_go(running, replace(running.step, status=StepStatus.CANCELLED))
            return
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await self._interrupt_quietly()
                await self.finish_step(
                    running, to_closed() if self._engine.closing else to_broken()
                )
            raise
        except Exception:
            logger.exception("step %s: it could not be run", running.step.id)
            end = to_failure("internal_error", "The service failed; its log says how.")
            await self._interrupt_quietly()  # the code may still run
            await self._disconnect()
        await self.finish_step(running, end)

    def _let_go(self, running: RunningStep, step: RunStep) -> None:
        """Let a step's watchers go whose record is final already, or gone."""
        running.finish(step)
        self._engine.running.pop(step.id, None)
        running.log.discard()

    async def finish_step(self, running: RunningStep, end: End) -> None:
        """Write a step's final record and let its watchers go."""
        if running.finishing:
            return
        running.finishing = True
        log = running.log
        if log.cut:
            log.flush()
        step = replace(
            running.step,
            status=end.status,
            outputs=log.outputs(),
            error=end.error,
            notices=(*running.step.notices, *log.notices()),
            execution_count=end.execution_count,
            truncated=log.truncated,
        )
        settled = False
        try:
            files, size = await self._changes(end.listing) if running.executing else ((), None)
            full_text = await self._keep_full_text(running) if log.cut else None
            step = replace(step, files=files, full_text=full_text)
            step = await self._engine.records.finish_step(
                step, lease=self._engine.lease, workspace_bytes=size, told=running.told
            )
            settled = True
            log.discard()
        except NotFoundError:
            logger.info("step %s: its session was closed while it ran", step.id)
            settled = True
            log.discard()
            await self._forget_full_text(step)
        except Exception:
            # Whoever waits for the step must learn of its end, whatever is wrong with the store.
            logger.exception("step %s: its record will be written later", step.id)
        finally:
            if not settled:  # also when the caller of `cancel_step` is cancelled
                self._engine.unwritten[step.id] = step
            self._engine.running.pop(step.id, None)
            running.finish(step)
            for tell in self._engine.on_finished:
                tell(step)

    async def _do(self, function: Callable[[], Awaitable[T]]) -> T:
        work = _Call(function)
        self._send.send_nowait(work)
        await work.done.wait()
        return work.result

    async def _stored(self) -> Session:
        return await self._engine.records.get_session(
            self._session.id, principal=self._session.principal
        )

    async def _await_turn(self, running: RunningStep, admission: "Admission") -> "Admission | None":
        """Return the admission with which the step may run; None if it was stopped before.

        Its step is final if another process has settled it.
        """
        delay = _TURN_WAIT_FIRST
        if admission.step.status is StepStatus.QUEUED:
            running.publish(StepQueued(step=admission.step))
        while admission.step.status is StepStatus.QUEUED and not running.stop:
            admission = await self._engine.records.claim_step(
                running.step.id, lease=self._engine.lease
            )
            if admission.step.status is StepStatus.QUEUED:
                with running.stop_scope(delay):
                    await anyio.sleep_forever()
                delay = min(delay * 2, _TURN_WAIT_LONGEST)
        if running.stop and not admission.step.status.is_final:
            return None
        return admission

    async def _run(self, running: RunningStep, turn: "Admission") -> End:
        """Run a step whose turn it is."""
        session = turn.session
        running.update(replace(turn.step, replays=running.step.replays))
        for attempt in (1, 2):
            try:
                with self._telling(running):
                    kernel, session = await self._kernel_of(session)
                return await self._execute(running, kernel, session, attempt)
            except KernelLostError:
                session = await self._drop_kernel(session, "it had ended")
            except CIToolsError as error:
                if running.stop:
                    return to_stopped(running, "No kernel was started.")
                logger.warning("session %s: no kernel: %s", session.id, error)
                return to_failure("start_failed", str(error))
        return to_failure("start_failed", "The kernel was lost twice in a row; try again.")

    @contextmanager
    def _telling(self, running: RunningStep) -> Iterator[None]:
        """Tell those who look at a step what the start of its kernel waits for."""
        if self._kernel is not None:
            yield
            return
        scope = anyio.CancelScope()
        self._engine.tasks.start_soon(self._tell_preparation, running, scope)
        try:
            yield
        finally:
            scope.cancel()

    async def _tell_preparation(self, running: RunningStep, scope: anyio.CancelScope) -> None:
        with scope:
            while not running.done.is_set():
                await anyio.sleep(_LOOK)
                doing = self._engine.backend.preparation()
                running.update(replace(running.step, notices=(doing,) if doing else ()))
                if doing and running.stop and self._starting is not None:
                    # It would take minutes, and there is no kernel yet that could be left behind.
                    self._starting.cancel()

    async def _execute(
        self, running: RunningStep, kernel: Kernel, session: Session, attempt: int
    ) -> End:
        workspace = self._workspace or kernel.workspace
        if workspace is not None:
            if self._seen is None or isinstance(workspace, LocalWorkspace):
                self._seen = await list_folder(workspace)
        if running.stop:
            return to_cancelled()
        secrets = await find_secrets(self._engine, session)
        mapper = PathMapper(workspace.root if workspace else MOUNT, secrets=secrets)
        execution = await kernel.execute(
            mapper.to_code(running.step.code), execution_id=f"{running.step.id}-{attempt}"
        )
        notices: tuple[str, ...] = ()
        if session.lost is not None:
            notices = (f"Kernel restarted ({session.lost}): variables lost, files kept.",)
            running.told = session.epoch
        running.executing = True
        running.update(replace(running.step, epoch=session.epoch, notices=notices))
        running.publish(StepStarted(step=running.step))
        try:
            end = await self._follow(running, kernel, execution, mapper)
        except KernelDiedError as error:
            await self._drop_kernel(session, "it died")
            return to_failure("kernel_died", f"{error} {GONE}")
        except BackendError as error:
            await self._disconnect()
            return to_failure("server_lost", str(error))
        if end is None:
            await self._drop_kernel(session, "it did not stop when interrupted")
            return to_stopped(running, f"The code did not stop when interrupted. {GONE}")
        return end

    async def _follow(
        self, running: RunningStep, kernel: Kernel, execution: Execution, mapper: PathMapper
    ) -> End | None:
        """Collect output until the kernel is done; None if it had to be given up."""
        settings = self._engine.settings
        with running.stop_scope(running.step.timeout):
            done = await _collect(running, execution, mapper)
            if done.status == "aborted":
                # The kernel never ran it: it was told to drop its queue after an earlier error.
                execution = await kernel.execute(
                    mapper.to_code(running.step.code), execution_id=f"{running.step.id}-again"
                )
                done = await _collect(running, execution, mapper)
            return to_end(running, done)
        for _ in range(2):
            await kernel.interrupt()
            with anyio.move_on_after(settings.interrupt_grace / 2):
                done = await _collect(running, execution, mapper)
                return replace(
                    to_stopped(running, "The kernel and its variables are kept."),
                    execution_count=done.execution_count,
                    listing=done.files,
                )
        return None

    async def _kernel_of(self, session: Session) -> tuple[Kernel, Session]:
        """Return a connection to the session's kernel, started if there is none."""
        if self._kernel is not None and self._kernel.ref == session.kernel:
            return self._kernel, session
        session = await self._stored()  # it may be older than what was done since
        if self._kernel is not None and self._kernel.ref == session.kernel:
            return self._kernel, session
        await self._disconnect()
        if session.kernel is not None:
            try:
                return await self._connect(session), session
            except KernelLostError:
                session = await self._drop_kernel(session, "it had ended")
        session = await self._start_kernel(session)
        return await self._connect(session), session

    async def _connect(self, session: Session) -> Kernel:
        assert session.kernel is not None
        backend = self._engine.backend
        if self._workspace is None:
            self._workspace = await backend.open_workspace(WorkspaceRequest.of(session))
        connection = AsyncExitStack()
        self._kernel = await connection.enter_async_context(backend.connect(session.kernel))
        self._connection = connection
        self._seen = None
        self._connected.set()
        return self._kernel

    async def _start_kernel(self, session: Session) -> Session:
        backend, records = self._engine.backend, self._engine.records
        request = KernelRequest(
            session_id=session.id,
            server=session.server,
            kernelspec=session.kernelspec,
            epoch=session.epoch + 1,
            network=session.network and limit_network(self._engine.settings, session.network),
            environment=await find_environment(self._engine, session),
        )
        with anyio.CancelScope() as self._starting:
            ref = await backend.start_kernel(request)
        if self._starting.cancelled_caught:
            raise KernelStartError("No kernel was started: nobody waited for it any more.")
        try:
            stored = await records.set_kernel(
                session.id,
                epoch=session.epoch + 1,
                kernel=ref,
                isolation=backend.isolation(ref.server),
            )
        except BaseException:
            # Closed meanwhile, or its record cannot be written: nobody would ever find this kernel.
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await self._stop_unrecorded(ref)
            raise
        if stored.kernel == ref:
            logger.info("session %s: kernel started, epoch %d", session.id, stored.epoch)
        else:
            await backend.stop_kernel(ref)  # another process was faster
        return stored

    async def _stop_unrecorded(self, ref: KernelRef) -> None:
        backend, session = self._engine.backend, self._session
        try:
            await backend.stop_kernel(ref)
            await self._stored()
        except NotFoundError:  # its folder was made again for the kernel
            await backend.remove_workspace(WorkspaceRequest.of(session))
        except CIToolsError as error:
            logger.warning("session %s: a kernel was left behind: %s", session.id, error)

    async def _drop_kernel(self, session: Session, lost: str) -> Session:
        """Give up the session's kernel, and end it if it still lives."""
        await self._disconnect()
        if session.kernel is not None:
            await self._engine.records.drop_kernel(session.id, epoch=session.epoch, lost=lost)
            try:
                await self._engine.backend.stop_kernel(session.kernel)
            except BackendError as error:
                logger.warning("session %s: its kernel could not be ended: %s", session.id, error)
        logger.info("session %s: kernel of epoch %d is gone: %s", session.id, session.epoch, lost)
        return await self._stored()

    async def _disconnect(self) -> None:
        connection, self._connection, self._kernel = self._connection, None, None
        self._connected.set()  # whoever waits looks again, and waits for the next one
        self._connected = anyio.Event()
        if connection is not None:
            try:
                await connection.aclose()
            except Exception:
                logger.exception("session %s: its connection failed", self._session.id)

    async def _interrupt_quietly(self) -> None:
        if self._kernel is not None:
            try:
                await self._kernel.interrupt()
            except Exception as error:  # noqa: BLE001 - the step's end matters more
                logger.warning("session %s: no interrupt: %s", self._session.id, error)

    async def _refuse_rest(self) -> None:
        self._send.close()
        with self._receive:
            async for work in self._receive:
                await work.refuse()

    async def _keep_full_text(self, running: RunningStep) -> FullText | None:
        running.log.flush()
        if not running.log.spooled:
            return None
        key = await self._engine.blobs.put_file(
            self._engine.spool_path(running.step.id), principal=running.step.principal
        )
        return FullText(key=key, size=running.log.size)

    async def _forget_full_text(self, step: RunStep) -> None:
        """Delete the text of a step that no record names."""
        if step.full_text is not None:
            try:
                await self._engine.blobs.delete([step.full_text.key])
            except StoreError as error:
                logger.warning("step %s: its full text was left behind: %s", step.id, error)

    async def _changes(
        self, listing: Sequence[FileStat] | None
    ) -> tuple[tuple[ChangedFile, ...], int | None]:
        """Compare the session's files with those seen before the step; return their bytes too."""
        workspace = self._workspace or (self._kernel.workspace if self._kernel else None)
        if workspace is None or self._seen is None:
            return (), None
        try:
            now = check_listing(listing) if listing is not None else await list_folder(workspace)
            changes = await compare_listings(workspace, self._seen, now)
        except (CIToolsError, OSError) as error:
            logger.warning("session %s: its files could not be listed: %s", self._session.id, error)
            self._seen = None
            return (), None
        self._seen = now
        size = min(sum(stat.size for stat in now.values()), SIZE_MAX)
        return changes, size if changes else None


def get_live(engine: Engine, session: Session) -> LiveSession:
    """Return the live session of a stored one; its task is started if it has none here."""
    live = engine.live.get(session.id)
    if live is None:
        live = LiveSession(engine, session)
        engine.live[session.id] = live
        engine.tasks.start_soon(live.run)
    return live


async def find_environment(engine: Engine, session: Session) -> dict[str, str]:
    """Return the variables that were set for a session, with their values."""
    return await engine.records.get_environment(session.id) if session.environment else {}


async def find_secrets(engine: Engine, session: Session) -> tuple[str, ...]:
    """Return what readers of a session's output must not see."""
    values = (await find_environment(engine, session)).values()
    return (*engine.settings.secrets, *to_secrets(values))


async def _collect(running: RunningStep, execution: Execution, mapper: PathMapper) -> ExecutionDone:
    """Keep output until the kernel is done with the code; output beyond the limit stops it."""
    while True:
        event = await execution.receive()
        if isinstance(event, ExecutionDone):
            with suppress(OutputLimitError):
                for output in mapper.rest():
                    running.add(output)
            return event
        try:
            if running.stop != "output_limit":
                running.add(mapper.to_event(event))
        except OutputLimitError:
            running.request_stop("output_limit")
