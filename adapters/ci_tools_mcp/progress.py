"""Waiting for a run step, with progress notifications while it runs."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
from mcp.server.mcpserver import Context

from ci_tools import CIToolsError, RunStep, SessionService, StepFinished, StepOutput, StreamOutput
from ci_tools.folding import fold_text

INTERVAL = 0.5
"""Seconds between two notifications at least; quick steps send none."""

HEARTBEAT = 10.0
"""Seconds of silence after which a notification says that the step still runs."""

CANCEL_LIMIT = 30.0
"""Seconds that cancelling a step may take when its caller has gone."""

_TAIL = 2_000
"""Characters of output in which the last line is looked for."""

_LINE = 500
"""Characters of the last line that are sent."""

Report = Callable[[float, float | None, str | None], Awaitable[None]]


async def wait_for_step(
    context: Context[Any, Any],
    service: SessionService,
    step_id: str,
    *,
    seconds: float,
    is_owner: bool,
) -> RunStep:
    """Return the step when it is final, or as it is after some seconds.

    An owner that cancels its call meanwhile, or (since 2026-07-28) hangs up, cancels the step.
    """
    meta = context.request_context.meta
    try:
        if meta is None or meta.get("progress_token") is None:
            return await service.wait_run_step(step_id, timeout=seconds)
        return await _follow(context, service, step_id, seconds=seconds)
    except anyio.get_cancelled_exc_class():
        if not is_owner:
            raise
        with anyio.move_on_after(CANCEL_LIMIT, shield=True), suppress(CIToolsError):
            await service.cancel_run_step(step_id)
        raise


async def _follow(
    context: Context[Any, Any], service: SessionService, step_id: str, *, seconds: float
) -> RunStep:
    finished: RunStep | None = None
    failure: CIToolsError | None = None
    ticker = _Ticker(context.report_progress)
    async with (
        service.watch_run_step(step_id) as events,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ticker.run)
        try:
            with anyio.move_on_after(seconds):
                async for event in events:
                    match event:
                        case StepOutput(output=StreamOutput(text=text)):
                            ticker.add(text)
                        case StepFinished(step=step):
                            finished = step
                            break
                        case _:
                            pass
        except CIToolsError as exc:  # raised again outside of the task group, which would wrap it
            failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return finished if finished is not None else await service.get_run_step(step_id)


class _Ticker:
    """Sends the last line of the output now and then."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tail = ""
        self._news = anyio.Event()
        self._sent = 0

    def add(self, text: str) -> None:
        """Take note of new output."""
        self._tail = (self._tail + text)[-_TAIL:]
        self._news.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await anyio.sleep(INTERVAL)
            with anyio.move_on_after(HEARTBEAT - INTERVAL):
                await self._news.wait()
            self._news = anyio.Event()
            self._sent += 1
            await self._report(float(self._sent), None, self._last_line() or "running")

    def _last_line(self) -> str:
        lines = fold_text(self._tail).rstrip().rsplit("\n", 1)
        return lines[-1][-_LINE:]
