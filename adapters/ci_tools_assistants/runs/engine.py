"""The runs of one process: started, streamed, stopped, taken over and settled.

How this works: a run belongs to the app and not to the request that started it. Its work is one
task here; requests that stream it read its feed. What a client asks of a run (to cancel it, to take
tool outputs) is first written into its record, where only one of two that ask at once can win, and
then told to the task if it is here. A run of another process is told by its record alone: every
process looks at those of its own runs that somebody wants cancelled.

A run in `requires_action` has no task. Nor has one whose process died: another process finds it
when the lease has run out, and goes on with it, or ends it (see `settling.py` and `recovery.py`).
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from ci_tools import CIToolsError, SessionService
from ci_tools_assistants.errors import (
    ApiError,
    NoSuchObject,
    ThreadBusy,
    cannot_cancel,
    takes_no_outputs,
    wrong_outputs,
)
from ci_tools_assistants.models import ModelError, ModelRegistry
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import events, settling
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.execution import Execution
from ci_tools_assistants.runs.interpreter import CodeLost, Interpreter
from ci_tools_assistants.runs.queues import Queues
from ci_tools_assistants.runs.running import ActiveRun
from ci_tools_assistants.runs.states import WrongMoveError, end_step, is_over, move
from ci_tools_assistants.runs.upkeep import RunUpkeep
from ci_tools_assistants.runs.webhooks import Webhook, open_webhook
from ci_tools_assistants.storage.records import Records, Write

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSE_TIME = 8.0
"""Seconds that runs have to stop when the service closes."""

LOOK_AGAIN = 0.2
"""Seconds between two looks whether a run of another process has ended."""

RETRY_WAIT = 1.0
"""Seconds between two tries to store the end of a run."""

_FAILED = "The service failed while it worked on this run; its log has the reason."


class RunEngine:
    """The runs of all principals in this process; opened by `open_runs`."""

    def __init__(
        self,
        service: SessionService,
        *,
        records: Records,
        models: ModelRegistry,
        interpreter: Interpreter,
        tasks: TaskGroup,
        webhook: Webhook | None,
    ) -> None:
        self._service = service
        self._settings = service.settings
        self._records = records
        self._models = models
        self._interpreter = interpreter
        self._tasks = tasks
        self._webhook = webhook
        self._active: dict[str, ActiveRun] = {}
        self._queues = Queues(self._settings.thread_queue_time)
        self._closing = False

    # What requests do

    async def start(
        self,
        run: Object,
        messages: Sequence[Object] = (),
        *,
        principal: str,
        first: Sequence[Event] = (),
        file_limit: int | None = None,
    ) -> ActiveRun:
        """Store a new run after additional messages, and begin to work on it.

        A reader that subscribes before the next `await` misses nothing. `first` are events that
        come before the run's own.

        Raises:
            ThreadBusy: Another run of the thread is active.
        """
        self._check_open()
        stored = await self._records.start_run(
            run,
            messages,
            principal=principal,
            lease=self._service.lease,
            file_limit=file_limit,
        )
        begun = [*first, events.run_created(stored), events.run_moved(stored)]
        return self.work_on(stored, begun, principal=principal)

    async def submit(
        self,
        thread_id: str,
        run_id: str,
        outputs: Sequence[tuple[str, str]],
        *,
        principal: str,
    ) -> ActiveRun:
        """Take the outputs of all pending calls, as pairs of call id and text, and go on.

        Raises:
            ApiError: The run waits for none, or for others.
        """
        self._check_open()
        run = await self._records.get(Kind.RUN, run_id, principal=principal, parent=thread_id)
        if run["status"] == "requires_action" and _is_overdue(run):
            run = await self._end_stored(run, "expired", principal=principal)
        if run["status"] != "requires_action":
            raise takes_no_outputs(run["status"])
        action = run["required_action"]
        calls = action["submit_tool_outputs"]["tool_calls"]
        expected, got = [call["id"] for call in calls], [id for id, _ in outputs]
        if sorted(expected) != sorted(got):
            raise wrong_outputs(expected, got)
        step = await self._fill_step(run_id, dict(outputs), principal=principal)

        def change(stored: Object) -> Object:
            # Somebody else's outputs may have been taken since, and new ones be wanted.
            if stored["status"] != "requires_action" or stored["required_action"] != action:
                raise takes_no_outputs(stored["status"])
            return move(stored, "queued", now=now())

        queued = await self._records.change_run(
            run_id,
            change,
            principal=principal,
            lease=self._service.lease,
            also=[Write(Kind.STEP, step, run_id)],
        )
        begun = [events.step_moved(step), events.run_moved(queued)]
        return self.work_on(queued, begun, principal=principal)

    async def cancel(self, thread_id: str, run_id: str, *, principal: str) -> Object:
        """Have a run stopped; return it, `cancelling`.

        Raises:
            ApiError: It has ended.
        """
        before = ""

        def change(run: Object) -> Object:
            nonlocal before
            before = run["status"]
            if run["thread_id"] != thread_id:
                raise NoSuchObject(Kind.RUN, run_id)
            if before == "cancelling":
                return run
            if is_over(run):
                raise cannot_cancel(before)
            return move(run, "cancelling", now=now())

        run = await self._records.change_run(run_id, change, principal=principal)
        self.tell_cancelled(run)
        if before == "requires_action":
            self._tasks.start_soon(self.try_to_end, run, "cancelled", principal)
        return run

    async def when_free(self, thread_id: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do what an active run of the thread forbids; if settings say so, wait for its end.

        Raises:
            ThreadBusy: It is still active.
        """
        return await self._queues.when_free(thread_id, attempt, self._await_end)

    async def abandon(self, thread_id: str) -> None:
        """Stop what is done for a thread that is about to be deleted, or was."""
        for active in list(self._active.values()):
            if active.run["thread_id"] == thread_id:
                active.stop("gone")
                await active.done.wait()

    @property
    def is_closing(self) -> bool:
        """Whether no run is taken in hand any more."""
        return self._closing

    def find_active(self, run_id: str) -> ActiveRun | None:
        """Return the run if this process works on it."""
        return self._active.get(run_id)

    def count_active(self) -> int:
        """Return how many runs this process works on."""
        return len(self._active)

    async def close(self) -> None:
        """Stop the runs; those that can be resumed stay as they are stored."""
        self._closing = True
        with anyio.move_on_after(CLOSE_TIME):
            for active in list(self._active.values()):
                active.stop("closing")
            for active in list(self._active.values()):
                await active.done.wait()

    # The work on one run

    def work_on(self, run: Object, begun: Sequence[Event], *, principal: str) -> ActiveRun:
        """Take a run in hand, whose first events are `begun`."""
        active = ActiveRun(self._records, run, principal=principal, lease=self._service.lease)
        self._active[active.id] = active
        self._tasks.start_soon(self._work, active, begun)
        return active

    async def _work(self, active: ActiveRun, begun: Sequence[Event]) -> None:
        active.feed.publish(begun)
        try:
            failure = await self._execute(active)
            with anyio.CancelScope(shield=True):
                if not active.is_settled:
                    await self._settle(active, failure)
        finally:
            # A client that was quick with its tool outputs may have brought the run back already.
            if self._active.get(active.id) is active:
                del self._active[active.id]
            active.feed.close()
            active.done.set()
        if active.is_settled:
            self._wake_webhook()

    async def _execute(self, active: ActiveRun) -> Object | None:
        """Work on a run until it rests, is stopped or fails; return its error."""
        expires_at = active.run["expires_at"] or math.inf
        active.scope.deadline = anyio.current_time() + max(0.0, expires_at - time.time())
        execution = Execution(
            active,
            records=self._records,
            models=self._models,
            interpreter=self._interpreter,
            service=self._service,
        )
        with active.scope:
            try:
                await execution.run()
            except WrongMoveError as error:
                active.run = error.run
                if error.run["status"] == "cancelling":
                    active.stop_reason = active.stop_reason or "cancelled"
                    return None
                return _to_last_error(error, active)
            except Exception as error:  # noqa: BLE001 - the outermost handler of the run
                return _to_last_error(error, active)
        return None

    async def _settle(self, active: ActiveRun, failure: Object | None) -> None:
        """Store the end of a run that did not come to one itself."""
        reason = active.stop_reason
        if reason == "gone":
            return
        if reason == "closing":
            active.feed.publish([events.closing()])
            await self._release(active)
            return
        if reason == "cancelled":
            status, error = "cancelled", None
        elif failure is not None:
            status, error = "failed", failure
        else:
            status, error = "expired", None
        while not await self._is_ended(active, status, error):
            if active.run["status"] == "cancelling":
                status, error = "cancelled", None
            if self._closing:
                return
            await anyio.sleep(RETRY_WAIT)

    async def _release(self, active: ActiveRun) -> None:
        """Store a run that another process will go on with, and that this one leaves in order."""

        def change(private: Object) -> Object:
            return {**private, settling.RELEASED: True}

        try:
            await active.save([])
            await self._records.change_private(
                Kind.RUN, active.id, change, principal=active.principal
            )
        except (CIToolsError, OSError) as error:
            logger.warning("run %s: it is left as it was stored before: %s", active.id, error)

    async def _is_ended(self, active: ActiveRun, status: str, error: Object | None) -> bool:
        """Try to store an end; tell whether there is one now."""
        try:
            await active.end(status, error=error)
        except NoSuchObject:
            logger.info("run %s: deleted while it was active", active.id)
        except WrongMoveError as wrong:
            active.run = wrong.run
            if not is_over(wrong.run):
                return False
            active.is_settled = True
            active.feed.publish([events.run_moved(wrong.run)])
        except (CIToolsError, OSError) as failed:
            logger.warning("run %s: its end cannot be stored yet: %s", active.id, failed)
            return False
        except Exception:
            # It would fail for ever, and keep the thread locked for as long.
            logger.exception("run %s: its end cannot be stored with what it has begun", active.id)
            await self.try_to_end(active.run, status, active.principal, error)
        return True

    def tell_cancelled(self, run: Object) -> None:
        """Stop the work on a run that is `cancelling`, if it is done here."""
        active = self._active.get(run["id"])
        if active is not None and not active.is_settled and active.stop_reason is None:
            active.run = run
            active.feed.publish([events.run_moved(run)])
            active.stop("cancelled")

    async def _fill_step(self, run_id: str, outputs: dict[str, str], *, principal: str) -> Object:
        """Return the step that waits for outputs, completed with them."""
        page = await self._records.page(Kind.STEP, principal=principal, parent=run_id, limit=1)
        step = page.data[0]
        private = await self._records.get_private(Kind.STEP, step["id"], principal=principal)
        calls = [
            {**call, "function": {**call["function"], "output": outputs[call["id"]]}}
            if call["id"] in outputs
            else call
            for call in step["step_details"]["tool_calls"]
        ]
        filled = {**step, "step_details": {"type": "tool_calls", "tool_calls": calls}}
        return end_step(filled, "completed", usage=private.get(settling.USAGE), now=now())

    async def _end_stored(
        self, run: Object, status: str, *, principal: str, error: Object | None = None
    ) -> Object:
        try:
            ended = await settling.end_stored(
                self._records,
                run,
                status,
                principal=principal,
                error=error,
                fill=self._interpreter.fill_step,
            )
        except WrongMoveError as wrong:
            return wrong.run
        self._wake_webhook()
        return ended

    async def try_to_end(
        self, run: Object, status: str, principal: str, error: Object | None = None
    ) -> bool:
        """End a run that nobody works on; tell whether that could be stored."""
        try:
            await self._end_stored(run, status, principal=principal, error=error)
        except NoSuchObject:
            logger.info("run %s: deleted while it was active", run["id"])
        except (CIToolsError, OSError) as failed:
            logger.warning("run %s: its end cannot be stored yet: %s", run["id"], failed)
            return False
        except Exception:  # the outermost handler of a task that nobody waits for
            logger.exception("run %s: its end cannot be stored", run["id"])
            return False
        return True

    async def _await_end(self, busy: ThreadBusy, longest: float) -> None:
        active = self._active.get(busy.run_id)
        with anyio.move_on_after(longest):
            if active is not None:
                await active.done.wait()
            else:
                await anyio.sleep(min(longest, LOOK_AGAIN))

    def _wake_webhook(self) -> None:
        if self._webhook is not None:
            self._webhook.wake()

    def _check_open(self) -> None:
        if self._closing:
            raise ApiError(503, "The service is closing.", type="server_error", retry_after=1.0)


@asynccontextmanager
async def open_runs(
    service: SessionService,
    *,
    records: Records,
    models: ModelRegistry,
    interpreter: Interpreter,
) -> AsyncIterator[RunEngine]:
    """Open the runs of this process; leaving the block stops them."""
    settings = service.settings
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        webhook = None
        if settings.run_webhook_url is not None:
            secret = settings.run_webhook_secret.get_secret_value()
            url = str(settings.run_webhook_url)
            webhook = await stack.enter_async_context(open_webhook(url, secret, records))
        async with anyio.create_task_group() as tasks:
            engine = RunEngine(
                service,
                records=records,
                models=models,
                interpreter=interpreter,
                tasks=tasks,
                webhook=webhook,
            )
            if webhook is not None:
                tasks.start_soon(webhook.deliver)
            upkeep = RunUpkeep(engine, records, lease=service.lease, lease_time=settings.lease_time)
            tasks.start_soon(upkeep.watch)
            tasks.start_soon(models.load_packages)
            try:
                yield engine
            except Exception as error:  # noqa: BLE001 - raised again, outside of the task group
                failure = error
            finally:
                with anyio.CancelScope(shield=True):
                    await engine.close()
                tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _is_overdue(run: Object) -> bool:
    return run["expires_at"] is not None and run["expires_at"] <= now()


def _to_last_error(error: Exception, active: ActiveRun) -> Object:
    match error:
        case ModelError():
            return error.to_object()
        case CodeLost():
            return settling.LOST_CODE
        case ApiError() | CIToolsError():
            logger.warning("run %s failed: %s", active.id, error)
            return {"code": "server_error", "message": str(error)}
        case _:
            logger.error("run %s failed", active.id, exc_info=error)
            return {"code": "server_error", "message": _FAILED}
