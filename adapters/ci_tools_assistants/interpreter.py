"""The code interpreter of a thread: a session of the service, opened when code first runs.

How this works: a thread has one session, whose id is in the private part of the thread. Before
each cell the files that code should see are compared with those that are there (see `staging.py`),
so that files attached later appear and files of another assistant do not. After it, files that code
made are published: kept outside of the session under ids of purpose `assistants_output`. A session
that has expired is replaced by a new one, into which files are put again; variables are lost then,
and the model is told so.
"""

import base64
import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeAlias, assert_never

from ci_tools import (
    CIToolsError,
    InvalidPathError,
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
from ci_tools_assistants import usage
from ci_tools_assistants.annotations import annotate
from ci_tools_assistants.attachments import ATTACHED, code_file_ids
from ci_tools_assistants.cells import Cell, Delta, ImageMade, LogsDelta
from ci_tools_assistants.errors import ApiError, NoSuchObject
from ci_tools_assistants.file_records import FileRecords
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.records import Records
from ci_tools_assistants.staging import (
    THREAD,
    Bench,
    Made,
    Staged,
    Wanted,
    list_unwanted,
    plan_staging,
)

__all__ = ["CodeDone", "CodeEvent", "ImageMade", "Interpreter", "LogsDelta", "Workbench"]

logger = logging.getLogger(__name__)

BENCH = "interpreter"
"""Where the private part of a thread keeps its `Bench`."""

SESSION = "session_id"
"""Where the private part of a thread names its session."""

PUBLISHED_AT_ONCE = 100
"""Files of one cell that are published; a program may unpack any number."""

_LISTED = 1000
"""Files of a folder whose names are not given to others."""

_UNUSED = 3600.0
"""Seconds without use after which a thread's session may make room for that of another thread."""

_TOOL = """\
You have the tool code_interpreter. It runs Python in a sandboxed Jupyter kernel and returns what \
the code printed, the value of its last line and the images it displayed. Variables are kept \
between calls, also in later turns of this conversation; after an hour without use only files are \
kept. Do not count on access to the internet.
The folder for files is /mnt/data. What code displays (matplotlib figures, images) the user sees \
at once, so do not link it. To give the user any other file, let code write it to /mnt/data and \
link it in your answer as [name](sandbox:/mnt/data/name)."""


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
        bench = Workbench(
            self._service.act_as(principal),
            self._records,
            thread_id=thread["id"],
            assistant_id=run["assistant_id"] or "",
            assistant_file_ids=tuple(assistant_file_ids),
        )
        await bench.look()
        yield bench
        await bench.remember_told()

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

    def __init__(
        self,
        service: SessionService,
        records: Records,
        *,
        thread_id: str,
        assistant_id: str,
        assistant_file_ids: tuple[str, ...],
    ) -> None:
        self._service = service
        self._records = records
        self._files = FileRecords(service, records)
        self._thread_id = thread_id
        self._assistant_id = assistant_id
        self._assistant_file_ids = assistant_file_ids
        self._bench = Bench()
        self._wanted: list[Wanted] = []
        self._unsaid: list[str] = []
        self._described: dict[str, str] = {}

    # What the model and the message need to know

    async def look(self) -> None:
        """Read which files the thread and the assistant give to code, and what is staged."""
        thread = await self._records.get(
            Kind.THREAD, self._thread_id, principal=self._service.principal
        )
        private = await self._records.get_private(
            Kind.THREAD, self._thread_id, principal=self._service.principal
        )
        self._bench = Bench.from_object(private.get(BENCH))
        owners = dict.fromkeys([*code_file_ids(thread), *private.get(ATTACHED, ())], THREAD)
        for id in await self._assistant_files():
            owners.setdefault(id, self._assistant_id)
        self._wanted = await self._files.find_wanted(owners)

    async def _assistant_files(self) -> Sequence[str]:
        """Return the assistant's files of this moment, or of the run's start if it is deleted."""
        try:
            assistant = await self._records.get(
                Kind.ASSISTANT, self._assistant_id, principal=self._service.principal
            )
        except NoSuchObject:
            return self._assistant_file_ids
        return code_file_ids(assistant)

    def describe(self) -> str:
        """Return what the model is told of the tool, the files and which of them are new."""
        paths = self._paths()
        given = [
            _describe_file(file, paths[file.id], is_new=file.id not in self._bench.told)
            for file in self._wanted
        ]
        taken = {paths[file.id] for file in self._wanted}
        made = [
            f"- /mnt/data/{path} (made or changed by code)"
            for path in sorted(self._bench.made)
            if path not in taken
        ]
        self._described = {file.id: paths[file.id] for file in self._wanted}
        if not given and not made:
            return f"{_TOOL}\nThere are no files in /mnt/data."
        return "\n".join([_TOOL, "Files in /mnt/data:", *given, *made])

    def _paths(self) -> dict[str, str]:
        """Return where the wanted files are, or will be when code runs, by id."""
        bench = copy.deepcopy(self._bench)
        for id in list_unwanted(bench, self._wanted):
            del bench.staged[id]
        paths = {made.id: path for path, made in bench.made.items()}
        paths |= {id: item.path for id, item in bench.present().items()}
        return paths | {file.id: path for file, path in plan_staging(bench, self._wanted)}

    async def remember_told(self) -> None:
        """Note that the model knows of the files that were described to it."""
        if set(self._described) - set(self._bench.told):
            self._bench.told = list(dict.fromkeys([*self._bench.told, *self._described]))
            with suppress(NoSuchObject):  # the thread was deleted meanwhile
                await self._save()

    def annotate(self, text: str, *, is_final: bool = True) -> list[Object]:
        """Return the annotations of a message's text: one for each mention of a file there is.

        Indices count code points. With `is_final` false, the text may go on; what is returned
        then stays, and is a prefix of what the whole text has.
        """
        return annotate(text, self._bench.find_ids(), is_final=is_final)

    # Code

    async def run(self, code: str) -> AsyncGenerator[CodeEvent, None]:
        """Run code in the thread's session; iterate for what it shows, `CodeDone` last.

        Use `contextlib.aclosing`: leaving early, or being cancelled, interrupts the code. What
        goes wrong, in the code or around it, is text for the model and no exception.
        """
        cell = Cell(self._files.publish_image)
        try:
            session = await self._prepare()
            async with self._service.stream_code(session.id, code) as events:
                async for event in events:
                    for delta in await _follow(cell, event):
                        yield delta
            assert cell.step is not None
            made = await self._publish(session, cell.step)
            done = self._to_done(cell.step, cell, made)
        except ServiceClosedError:
            raise
        except (CIToolsError, ApiError) as error:
            message = f"The code was not run: {error}"
            for delta in cell.fail(message):
                yield delta
            done = CodeDone(outputs=cell.outputs, tool_text=message, tool_images=[], made_files=[])
        yield done

    def _to_done(self, step: RunStep, cell: Cell, made: list[Object]) -> CodeDone:
        rendered = render_step(step)
        notes = [f"Note: {note}" for note in self._unsaid]
        self._unsaid.clear()
        return CodeDone(
            outputs=cell.outputs,
            tool_text="\n".join([*notes, rendered.text]),
            tool_images=[
                (image.media_type, base64.b64encode(image.data).decode("ascii"))
                for image in rendered.images
            ],
            made_files=made,
        )

    # The session and its files

    async def _prepare(self) -> Session:
        """Return the session, with the files that code should see and no others."""
        await self.look()
        session = await self._open_session()
        bench = self._bench
        before = bench.to_object()
        await self._count()
        for id in list_unwanted(bench, self._wanted):
            await self._take_away(session, id)
        if plan_staging(bench, self._wanted):
            there = await self._service.list_files(session.id, limit=_LISTED)
            taken = [file.path for file in there]
            for file, path in plan_staging(bench, self._wanted, taken=taken):
                await self._put(session, file, path)
        if bench.to_object() != before:
            await self._save()
        return session

    async def _count(self) -> None:
        principal, thread_id = self._service.principal, self._thread_id
        await self._records.write(
            lambda conn: usage.count_activity(conn, principal=principal, thread_id=thread_id)
        )

    async def _open_session(self) -> Session:
        """Return the thread's session, or a new one with the files of the old one."""
        bench = self._bench
        if bench.session_id is not None:
            try:
                return await self._service.get_session(bench.session_id)
            except NotFoundError:
                logger.info("thread %s: its session is gone", self._thread_id)
        session = await self._create_session()
        had_session, bench.session_id = bench.session_id is not None, session.id
        for id, item in list(bench.staged.items()):
            if item.changed_id is None:
                del bench.staged[id]
            else:
                item.away = True
        if had_session:
            await self._restore_made(session)
        await self._save()
        return session

    async def _create_session(self) -> Session:
        """Make a session; one that another thread has not used for long makes room if need be."""
        try:
            return await self._service.create_session(name=self._thread_id)
        except LimitError:
            for session in reversed(await self._service.list_sessions()):
                unused = now() - session.last_used_at > _UNUSED
                if unused and (session.name or "").startswith("thread_"):
                    logger.info("session %s: closed for one of another thread", session.id)
                    await self._service.close_session(session.id)
                    return await self._service.create_session(name=self._thread_id)
            raise

    async def _restore_made(self, session: Session) -> None:
        """Put what code had made in an expired session into its successor."""
        bench, lost = self._bench, 0
        for path, made in list(bench.made.items()):
            try:
                await self._service.uploads.stage(session.id, made.id, path)
            except CIToolsError as error:
                logger.info("thread %s: a file is not restored: %s", self._thread_id, error)
                del bench.made[path]
                lost += 1
        kept = "files are there again" if not lost else f"{lost} of its files are lost too"
        self._unsaid.append(
            f"The session of this thread had expired: all variables are lost, {kept}."
        )

    async def _put(self, session: Session, file: Wanted, path: str) -> None:
        """Stage a file, as the code of its assistant has left it if it was put away."""
        bench = self._bench
        before = bench.staged.pop(file.id, None)
        changed = None if before is None else before.changed_id
        try:
            if changed is not None:
                try:
                    await self._service.uploads.stage(session.id, changed, path)
                    kept = await self._service.uploads.get(changed)
                    bench.made[path] = Made(id=changed, sha256=kept.sha256)
                except NotFoundError:  # it was a file that its owner could delete
                    changed = None
            if changed is None:
                await self._service.uploads.stage(session.id, file.id, path)
        except CIToolsError as error:
            self._unsaid.append(f"The file {file.filename!r} is not in /mnt/data: {error}")
            if before is not None:
                bench.staged[file.id] = before
            return
        bench.staged[file.id] = Staged(path=path, owner=file.owner, sha256=file.sha256)
        if self._described.get(file.id) != path:
            self._described[file.id] = path
            self._unsaid.append(_describe_file(file, path, is_new=True).removeprefix("- "))

    async def _take_away(self, session: Session, id: str) -> None:
        """Remove a staged file that is not to be seen, unless it has become the code's own."""
        bench = self._bench
        item = bench.staged.pop(id)
        try:
            found = await self._service.stat_file(session.id, item.path)
        except (NotFoundError, InvalidPathError):  # deleted by code, or a link or folder of its own
            bench.made.pop(item.path, None)
            return
        if found.sha256 != item.sha256 or item.sha256 is None:
            if item.owner == THREAD:
                return
            kept = await self._files.publish(session.id, item.path)
            bench.staged[id] = replace(item, away=True, changed_id=kept["id"])
        bench.made.pop(item.path, None)
        await self._service.delete_file(session.id, item.path)

    async def _publish(self, session: Session, step: RunStep) -> list[Object]:
        """Keep the files that a cell made or changed; return their objects."""
        bench = self._bench
        before = bench.to_object()
        staged = {item.path: item.sha256 for item in bench.present().values()}
        bench.note_changes(step.files)
        wanted: list[str] = []
        for changed in step.files:
            if changed.change != "deleted" and not _is_hidden(changed.path):
                known = bench.made.get(changed.path)
                sha256 = known.sha256 if known else staged.get(changed.path)
                if changed.sha256 is None or sha256 != changed.sha256:
                    wanted.append(changed.path)
        published: list[Object] = []
        for path in wanted[:PUBLISHED_AT_ONCE]:
            try:
                file = await self._files.publish(session.id, path)
            except CIToolsError as error:
                self._unsaid.append(f"/mnt/data/{path} cannot be downloaded: {error}")
                continue
            published.append(file)
            kept = await self._service.uploads.get(file["id"])
            bench.made[path] = Made(id=file["id"], sha256=kept.sha256)
        if len(wanted) > PUBLISHED_AT_ONCE:
            self._unsaid.append(
                f"Only {PUBLISHED_AT_ONCE} of {len(wanted)} new files can be downloaded; put what "
                "the user needs into one archive."
            )
        if bench.to_object() != before:
            await self._save()
        return published

    async def _save(self) -> None:
        stored = self._bench.to_object()

        def change(private: Object) -> Object:
            return {**private, BENCH: stored, SESSION: stored["session_id"]}

        await self._records.change_private(
            Kind.THREAD, self._thread_id, change, principal=self._service.principal
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


def _describe_file(file: Wanted, path: str, *, is_new: bool) -> str:
    notes = ["from the user" if file.owner == THREAD else "of the assistant"]
    if is_new:
        notes.insert(0, "new")
    if path != file.filename:
        notes.append(f"uploaded as {file.filename!r}")
    if file.encoding == "other":
        notes.append(
            "text that is neither UTF-8 nor UTF-16, so name its encoding, for example cp1252"
        )
    return f"- /mnt/data/{path} ({'; '.join(notes)})"


def _is_hidden(path: str) -> bool:
    """Tell whether a file is what programs write for themselves."""
    return any(part.startswith(".") or part == "__pycache__" for part in PurePosixPath(path).parts)
