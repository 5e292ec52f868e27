"""The session of a thread: made when code first runs, with the files that code should see.

How this works: what a thread's session is and holds is kept in the private part of the thread.
Files are put and taken away only between two writes of it: the first marks them as *pending*, the
second as done. So whatever is cut off in between is done again before the next code runs, and no
file stays where it must not be seen. A session that has expired is replaced by a new one, into
which files are put again.
"""

import copy
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import PurePosixPath

from ci_tools import (
    ChangedFile,
    CIToolsError,
    InvalidPathError,
    LimitError,
    NotFoundError,
    RunStep,
    Session,
    SessionService,
)
from ci_tools_assistants.conversations.attachments import ATTACHED, code_file_ids
from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.files.staging import (
    THREAD,
    Bench,
    Made,
    Staged,
    Wanted,
    list_unwanted,
    plan_staging,
)
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs import usage
from ci_tools_assistants.storage.records import Records

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


class ThreadSession:
    """A thread's session in one run of an assistant."""

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
        self._thread_id = thread_id
        self._assistant_id = assistant_id
        self._assistant_file_ids = assistant_file_ids
        self._described: dict[str, str] = {}
        self.files = FileRecords(service, records)
        self.bench = Bench()
        self.wanted: list[Wanted] = []
        self.unsaid: list[str] = []
        """Sentences that the model is to read with the next output."""

    async def look(self) -> None:
        """Read which files the thread and the assistant give to code, and what is staged."""
        thread = await self._records.get(
            Kind.THREAD, self._thread_id, principal=self._service.principal
        )
        private = await self._records.get_private(
            Kind.THREAD, self._thread_id, principal=self._service.principal
        )
        self.bench = Bench.from_object(private.get(BENCH))
        owners = dict.fromkeys([*code_file_ids(thread), *private.get(ATTACHED, ())], THREAD)
        for id in await self._assistant_files():
            owners.setdefault(id, self._assistant_id)
        self.wanted = await self.files.find_wanted(owners)

    async def _assistant_files(self) -> Sequence[str]:
        """Return the assistant's files of this moment, or of the run's start if it is deleted."""
        try:
            assistant = await self._records.get(
                Kind.ASSISTANT, self._assistant_id, principal=self._service.principal
            )
        except NoSuchObject:
            return self._assistant_file_ids
        return code_file_ids(assistant)

    def list_given(self) -> list[tuple[str, str]]:
        """Return the path of each file that is given to code, and what there is to say of it."""
        paths = self._paths()
        self._described = {file.id: paths[file.id] for file in self.wanted}
        return [
            (
                paths[file.id],
                _describe(file, paths[file.id], is_new=file.id not in self.bench.told),
            )
            for file in self.wanted
        ]

    def _paths(self) -> dict[str, str]:
        """Return where the wanted files are, or will be when code runs, by id."""
        bench = copy.deepcopy(self.bench)
        for id in list_unwanted(bench, self.wanted):
            del bench.staged[id]
        paths = {made.id: path for path, made in bench.made.items()}
        paths |= {id: item.path for id, item in bench.present().items()}
        return paths | {file.id: path for file, path in plan_staging(bench, self.wanted)}

    async def remember_told(self) -> None:
        """Note that the model knows of the files that were described to it."""
        if set(self._described) - set(self.bench.told):
            self.bench.told = list(dict.fromkeys([*self.bench.told, *self._described]))
            with suppress(NoSuchObject):  # the thread was deleted meanwhile
                await self._save()

    async def prepare(self) -> Session:
        """Return the session, with the files that code should see and no others."""
        await self.look()
        session = await self._open_session()
        bench = self.bench
        await self._count()
        leaving = list_unwanted(bench, self.wanted)
        if not leaving and not plan_staging(bench, self.wanted):
            return session
        for id in leaving:
            bench.staged[id].pending = True
        await self._save()
        for id in leaving:
            await self._take_away(session, id)
        there = await self._service.list_files(session.id, limit=_LISTED)
        coming = plan_staging(bench, self.wanted, taken=[file.path for file in there])
        for file, path in coming:
            known = bench.staged.get(file.id)
            bench.staged[file.id] = Staged(
                path=path,
                owner=file.owner,
                sha256=file.sha256,
                pending=True,
                changed_id=None if known is None else known.changed_id,
            )
        await self._save()
        for file, path in coming:
            await self._put(session, file, path)
        await self._save()
        return session

    async def _count(self) -> None:
        principal, thread_id = self._service.principal, self._thread_id
        await self._records.write(
            lambda conn: usage.count_activity(conn, principal=principal, thread_id=thread_id)
        )

    async def _open_session(self) -> Session:
        """Return the thread's session, or a new one with the files of the old one."""
        bench = self.bench
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
        bench, lost = self.bench, 0
        for path, made in list(bench.made.items()):
            try:
                await self._service.uploads.stage(session.id, made.id, path)
            except CIToolsError as error:
                logger.info("thread %s: a file is not restored: %s", self._thread_id, error)
                del bench.made[path]
                lost += 1
        kept = "files are there again" if not lost else f"{lost} of its files are lost too"
        self.unsaid.append(
            f"The session of this thread had expired: all variables are lost, {kept}."
        )

    async def _put(self, session: Session, file: Wanted, path: str) -> None:
        """Stage a file, as the code of its assistant has left it if it was put away."""
        bench, item = self.bench, self.bench.staged[file.id]
        try:
            if item.changed_id is not None and not await self._put_changed(session, item):
                item.changed_id = None
            if item.changed_id is None:
                await self._service.uploads.stage(session.id, file.id, path)
        except CIToolsError as error:
            self.unsaid.append(f"The file {file.filename!r} is not in /mnt/data: {error}")
            return
        item.pending, item.changed_id = False, None
        if self._described.get(file.id) != path:
            self._described[file.id] = path
            self.unsaid.append(_describe(file, path, is_new=file.id not in bench.told))

    async def _put_changed(self, session: Session, item: Staged) -> bool:
        """Stage what was put away; False if its owner has deleted that file."""
        assert item.changed_id is not None
        try:
            kept = await self._service.uploads.stage(session.id, item.changed_id, item.path)
        except NotFoundError:
            return False
        self.bench.made[item.path] = Made(id=item.changed_id, sha256=kept.sha256)
        return True

    async def _take_away(self, session: Session, id: str) -> None:
        """Remove a staged file that is not to be seen, unless it has become the code's own."""
        bench = self.bench
        item = bench.staged.pop(id)
        try:
            found = await self._service.stat_file(session.id, item.path)
        except (NotFoundError, InvalidPathError):  # deleted by code, or a link or folder of its own
            bench.made.pop(item.path, None)
            return
        if found.sha256 != item.sha256 or item.sha256 is None:
            if item.owner == THREAD:
                return
            kept = await self.files.publish(session.id, item.path)
            bench.staged[id] = replace(item, away=True, pending=False, changed_id=kept["id"])
        bench.made.pop(item.path, None)
        await self._service.delete_file(session.id, item.path)

    async def publish(self, session: Session, step: RunStep) -> list[Object]:
        """Keep the files that a cell made or changed; return their objects."""
        bench = self.bench
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
                file = await self.files.publish(session.id, path)
            except CIToolsError as error:
                self.unsaid.append(f"/mnt/data/{path} cannot be downloaded: {error}")
                continue
            published.append(file)
            kept = await self._service.uploads.get(file["id"])
            bench.made[path] = Made(id=file["id"], sha256=kept.sha256)
        if len(wanted) > PUBLISHED_AT_ONCE:
            self.unsaid.append(
                f"Only {PUBLISHED_AT_ONCE} of {len(wanted)} new files can be downloaded; put what "
                "the user needs into one archive."
            )
        if bench.to_object() != before:
            await self._save()
        return published

    async def publish_left(self, session: Session, step: RunStep, *, all: bool) -> list[Object]:
        """Keep the files that a cell made whose process has ended; return their objects.

        Those that the process has kept already are among them. `all`: the step does not say what
        was made, but nothing else could since it began.
        """
        if all and step.started_at is not None:
            began = step.started_at
            there = await self._service.list_files(session.id, limit=_LISTED)
            left = tuple(
                ChangedFile(path=file.path, size=file.size, sha256=file.sha256, change="created")
                for file in there
                if file.modified_at >= began
            )
            known = {file.path for file in step.files}
            step = replace(
                step, files=(*step.files, *(file for file in left if file.path not in known))
            )
        await self.publish(session, step)
        paths = [file.path for file in step.files if file.change != "deleted"]
        kept = [self.bench.made[path].id for path in paths if path in self.bench.made]
        return [await self.files.get(id) for id in kept]

    async def _save(self) -> None:
        stored = self.bench.to_object()

        def change(private: Object) -> Object:
            return {**private, BENCH: stored, SESSION: stored["session_id"]}

        await self._records.change_private(
            Kind.THREAD, self._thread_id, change, principal=self._service.principal
        )


def _describe(file: Wanted, path: str, *, is_new: bool) -> str:
    notes = ["from the user" if file.owner == THREAD else "of the assistant"]
    if is_new:
        notes.insert(0, "new")
    if path != file.filename:
        notes.append(f"uploaded as {file.filename!r}")
    if file.encoding == "other":
        notes.append(
            "text that is neither UTF-8 nor UTF-16, so name its encoding, for example cp1252"
        )
    return f"/mnt/data/{path} ({'; '.join(notes)})"


def _is_hidden(path: str) -> bool:
    """Tell whether a file is what programs write for themselves."""
    return any(part.startswith(".") or part == "__pycache__" for part in PurePosixPath(path).parts)
