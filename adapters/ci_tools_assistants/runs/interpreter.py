"""The code interpreter of a thread: what the model is told, and the events of code that runs.

How this works: a run opens a `Workbench`. Before each cell the thread's session is prepared (see
`thread_sessions.py`): files attached later appear, files of another assistant do not. After it,
files that code made are published: kept outside of the session, under ids of purpose
`assistants_output`. What goes wrong is told to the model and never ends the run.
"""

import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, assert_never

import anyio

from ci_tools import (
    CIToolsError,
    LimitError,
    NotFoundError,
    RunStep,
    ServiceClosedError,
    Session,
    SessionService,
    StepDisplayUpdated,
    StepEvent,
    StepFinished,
    StepOutput,
    StepOutputCleared,
    StepQueued,
    StepStarted,
)
from ci_tools.render import render_step
from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs import recovery, usage
from ci_tools_assistants.runs.annotations import annotate
from ci_tools_assistants.runs.cells import Cell, Delta, ImageMade, LogsDelta
from ci_tools_assistants.runs.thread_sessions import SESSION, ThreadSession
from ci_tools_assistants.storage.records import Records

__all__ = [
    "CodeDone",
    "CodeEvent",
    "CodeLost",
    "ImageMade",
    "Interpreter",
    "LogsDelta",
    "Workbench",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NAMED = 50
"""Files made by code that are named to the model; it can list the folder itself."""

_PATIENCE = 300.0
"""Seconds that code waits until the principal may run more at once."""

_PAUSE_FIRST, _PAUSE_LONGEST = 0.05, 1.0
"""Seconds between two attempts."""

SETTLE_TIME = 60.0
"""Seconds that the end of code is waited for whose process has ended; the core settles it when the
lease of that has run out."""

_CLEAN_UP = 10.0
"""Seconds to publish what interrupted code has made."""

_TOOL = """\
You have the tool code_interpreter. It runs Python in a sandboxed Jupyter kernel and returns what \
the code printed, the value of its last line and the images it displayed. Variables are kept \
between calls, also in later turns of this conversation; after an hour without use only files are \
kept. Do not count on access to the internet.
The folder for files is /mnt/data. What code displays (matplotlib figures, images) the user sees \
at once, so do not link it. To give the user any other file, let code write it to /mnt/data and \
link it in your answer as [name](sandbox:/mnt/data/name)."""


_CUT_OFF = (
    f"{recovery.CUT_OFF} It may have had effects. It was not run again: look at what it has left "
    "before you repeat anything."
)


class CodeLost(Exception):
    """Code may still be running, and the process that ran it is gone."""

    def __init__(self, outputs: list[Object]) -> None:
        super().__init__("The end of the code is not known.")
        self.outputs = outputs
        """What it had put out when it was last looked at."""


@dataclass(frozen=True, kw_only=True)
class CodeDone:
    """How a cell ended: the last event."""

    outputs: list[Object]
    """The outputs of the step's call: what all deltas add up to."""

    tool_text: str
    """What the model should read."""

    tool_images: list[tuple[str, str]]
    """What the model should see: media types and base64."""

    made_files: list[Object]
    """The files that code made or changed, images that were displayed not among them."""


CodeEvent: TypeAlias = Delta | CodeDone


class Interpreter:
    """The code interpreters of all threads."""

    def __init__(self, service: SessionService, records: Records) -> None:
        self._service = service
        self._records = records

    @asynccontextmanager
    async def workbench(
        self, thread: Object, run: Object, assistant_file_ids: Sequence[str], *, principal: str
    ) -> AsyncIterator["Workbench"]:
        """Open what one run needs to use code; no session is made before code runs."""
        service = self._service.act_as(principal)
        thread_session = ThreadSession(
            service,
            self._records,
            thread_id=thread["id"],
            assistant_id=run["assistant_id"] or "",
            assistant_file_ids=tuple(assistant_file_ids),
        )
        await thread_session.look()
        yield Workbench(service, thread_session)
        await thread_session.remember_told()

    async def fill_step(self, step: Object, private: Object, *, principal: str) -> Object:
        """Return a step that is not to go on, with what the code of its calls has put out."""
        service = self._service.act_as(principal)
        files = FileRecords(service, self._records)
        return await recovery.fill_step(service, files, step, private)

    async def count_sessions(self) -> int:
        """Count the sessions of all principals, as `usage.py` does; for operators."""
        return await self._records.read(usage.count_all)

    async def close_session(self, private: Object, *, principal: str) -> None:
        """Close the session of a deleted thread, whose private part is given."""
        session_id = private.get(SESSION)
        if not session_id:
            return
        try:
            await self._service.act_as(principal).close_session(session_id)
        except NotFoundError:
            pass
        except CIToolsError as error:
            logger.warning("session %s of a deleted thread stays: %s", session_id, error)


class Workbench:
    """A thread's interpreter in one run."""

    def __init__(self, service: SessionService, session: ThreadSession) -> None:
        self._service = service
        self._session = session

    def describe(self) -> str:
        """Return what the model is told of the tool, the files and which of them are new."""
        given = dict(self._session.list_given())
        made = [
            f"- /mnt/data/{path} (made or changed by code)"
            for path in sorted(self._session.bench.made)
            if path not in given
        ]
        if not given and not made:
            return f"{_TOOL}\nThere are no files in /mnt/data."
        lines = [f"- {text}" for text in given.values()]
        if len(made) > _NAMED:
            made = [*made[:_NAMED], f"- and {len(made) - _NAMED} more that code made or changed"]
        return "\n".join([_TOOL, "Files in /mnt/data:", *lines, *made])

    def annotate(self, text: str, *, is_final: bool = True) -> list[Object]:
        """Return the annotations of a message's text: one for each mention of a file there is.

        Indices count code points. With `is_final` false, the text may go on; what is returned
        then stays, and is a prefix of what the whole text has.
        """
        return annotate(text, self._session.bench.find_ids(), is_final=is_final)

    async def run(
        self, code: str, *, step_id: str | None = None
    ) -> AsyncGenerator[CodeEvent, None]:
        """Run code in the thread's session; iterate for what it shows, `CodeDone` last.

        The core's record of it gets the id `step_id`, which is new, if that is given.
        Use `contextlib.aclosing`: leaving early, or being cancelled, interrupts the code. What
        goes wrong, in the code or around it, is text for the model and no exception.
        """
        cell = Cell(self._session.files.publish_image)
        session: Session | None = None
        try:
            session = await self._patiently(self._session.prepare)
            async with AsyncExitStack() as stack:
                # Made anew for each attempt: a context manager can be entered once.
                events = await self._patiently(
                    lambda: stack.enter_async_context(
                        self._service.stream_code(session.id, code, step_id=step_id)
                    )
                )
                async for event in events:
                    for delta in await _follow(cell, event):
                        yield delta
            assert cell.step is not None
            made = await self._session.publish(session, cell.step)
            done = self._to_done(cell.step, cell.outputs, made)
        except ServiceClosedError:
            raise
        except (GeneratorExit, anyio.get_cancelled_exc_class()):
            with anyio.move_on_after(_CLEAN_UP, shield=True):
                await self._publish_rest(session, cell)
            raise
        except (CIToolsError, ApiError) as error:
            what = "The code was not run" if cell.step is None else "The results are not kept"
            for delta in cell.fail(f"{what}: {error}"):
                yield delta
            done = CodeDone(
                outputs=cell.outputs,
                tool_text=f"{what}: {error}",
                tool_images=[],
                made_files=[],
            )
        yield done

    async def recover(self, step_id: str, shown: Sequence[Object]) -> CodeDone:
        """Return how code ended whose process has ended while it ran it; it is not run again.

        `step_id` is the core's, `shown` are the outputs that were stored meanwhile.

        Raises:
            CodeLost: Nobody knows yet whether the code has ended.
        """
        step = None
        with suppress(NotFoundError):
            step = await self._patiently(
                lambda: self._service.wait_run_step(step_id, timeout=SETTLE_TIME)
            )
        recovered = await recovery.recover(self._session.files, step, shown)
        if step is None:
            text = f"{recovery.NOT_BEGUN} It was not run; call again if it still should be."
            return CodeDone(
                outputs=recovered.outputs, tool_text=text, tool_images=[], made_files=[]
            )
        if not step.status.is_final:
            raise CodeLost(recovered.outputs)
        made: list[Object] = []
        with suppress(NotFoundError):
            session = await self._service.get_session(step.session_id)
            made = await self._session.publish_left(session, step, all=recovered.is_cut)
        if recovered.is_cut:
            self._session.unsaid.append(_CUT_OFF)
        return self._to_done(step, recovered.outputs, made)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may have to wait until other code of the principal has ended."""
        deadline, pause = anyio.current_time() + _PATIENCE, _PAUSE_FIRST
        while True:
            try:
                return await work()
            except LimitError as error:
                if error.retry_after is None or anyio.current_time() > deadline:
                    raise
            await anyio.sleep(pause)
            pause = min(2 * pause, _PAUSE_LONGEST)

    async def _publish_rest(self, session: Session | None, cell: Cell) -> None:
        """Keep what code had made when it was interrupted."""
        if session is None or cell.step is None:
            return
        try:
            step = await self._service.get_run_step(cell.step.id)
            if step.status.is_final:
                await self._session.publish(session, step)
        except (CIToolsError, ApiError) as error:
            logger.info("step %s: its files are not published: %s", cell.step.id, error)

    def _to_done(self, step: RunStep, outputs: list[Object], made: list[Object]) -> CodeDone:
        rendered = render_step(step)
        notes = [f"Note: {note}" for note in self._session.unsaid]
        self._session.unsaid.clear()
        return CodeDone(
            outputs=outputs,
            tool_text="\n".join([*notes, rendered.text]),
            tool_images=[
                (image.media_type, base64.b64encode(image.data).decode("ascii"))
                for image in rendered.images
            ],
            made_files=made,
        )


async def _follow(cell: Cell, event: StepEvent) -> list[Delta]:
    match event:
        case StepQueued(step=step) | StepStarted(step=step):
            cell.step = step
        case StepOutput(output=output):
            return await cell.add(output)
        case StepDisplayUpdated():
            cell.update(event)
        case StepOutputCleared(wait=wait):
            cell.clear(wait=wait)
        case StepFinished(step=step):
            return await cell.finish(step)
        case _:
            assert_never(event)
    return []
