"""The session service: what every adapter calls."""

import hashlib
import logging
import mimetypes
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio

from ci_tools.engine import Engine
from ci_tools.errors import (
    BackendError,
    CIToolsError,
    FileTooLargeError,
    InvalidArgumentError,
    KernelLostError,
    LimitError,
    NotFoundError,
    ServiceClosedError,
)
from ci_tools.folding import clean_text
from ci_tools.kernel import CommandRequest, Kernel, Workspace, WorkspaceRequest
from ci_tools.live import CLOSE_GRACE, HASHED_BYTES, LiveSession
from ci_tools.mapping import PathMapper
from ci_tools.models import (
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandResult,
    File,
    Json,
    KernelSpec,
    RunStep,
    Session,
    StepEvent,
    StepFinished,
    StepStatus,
    StreamOutput,
    Variable,
    new_id,
)
from ci_tools.outputs import read_spool
from ci_tools.paths import MOUNT
from ci_tools.running import RunningStep
from ci_tools.settings import Settings
from ci_tools.upkeep import delete_session
from ci_tools.workspace import LocalWorkspace, check_path

if TYPE_CHECKING:
    from ci_tools.stores.nouns import Load, StoredFile, Ticket, Token

logger = logging.getLogger(__name__)

T = TypeVar("T")

CODE_LIMIT = 4_000_000
"""Characters of code in one step."""

COMMAND_LIMIT = 100_000
"""Characters of a shell command."""

COMMAND_TIMEOUT_MAX = 3600.0
"""Seconds that a shell command may be given."""

COMMAND_OUTPUT = 1_000_000
"""Bytes of a shell command's output that are kept if its caller names no limit."""

COMMAND_OUTPUT_MAX = 64_000_000
"""The largest such limit."""

VARIABLES_WAIT = 10.0
"""Seconds that a listing of variables waits for a kernel that is busy or does not answer."""

_LARGE = 8 << 20
"""Bytes from which an upload is sent to a remote session through its kernel, which is started."""

_NAME_LIMIT = 200
"""Characters of a session's name or a principal."""

_FOREIGN_WAIT_FIRST, _FOREIGN_WAIT_LONGEST = 0.05, 1.0
"""Seconds between two looks at a step that another process runs."""

_ROOM_CHECK = 5.0
"""Seconds in which a principal that kept too little to be refused is not looked at again."""

_PAGE = 100
"""Steps read from the store at once."""


@dataclass(frozen=True, kw_only=True)
class Restarted:
    """What a restart did: the session, and the steps that were run again."""

    session: Session
    replayed: tuple[RunStep, ...] = ()


class SessionService:
    """Sessions, run steps and files of one principal.

    `open_service` yields the service of the principal `local`; `act_as` gives another's. Every id
    of another principal is `NotFoundError`, like an unknown one. Calls over a cap are `LimitError`.
    Paths may be `a/b.csv`, `/mnt/data/a/b.csv` or `sandbox:/mnt/data/a/b.csv`.
    """

    def __init__(self, engine: Engine, principal: str) -> None:
        self._engine = engine
        self.principal = principal

    @property
    def settings(self) -> Settings:
        """The settings of this service process."""
        return self._engine.settings

    def act_as(self, principal: str) -> "SessionService":
        """Return the service of another principal; whoever calls this has checked who asks."""
        if not principal or len(principal) > _NAME_LIMIT or not principal.isprintable():
            raise InvalidArgumentError(
                f"A principal is 1 to {_NAME_LIMIT} printable characters, not {principal[:50]!r}."
            )
        return SessionService(self._engine, principal)

    # Sessions

    async def create_session(
        self, *, name: str | None = None, server: str | None = None, kernelspec: str | None = None
    ) -> Session:
        """Create a session; its kernel starts with the first step, or with `warm_session`.

        Raises:
            InvalidArgumentError: No such server profile or kernelspec; the message lists them.
        """
        self._admit()
        if name is not None and len(name) > _NAME_LIMIT:
            raise InvalidArgumentError(f"A session's name has at most {_NAME_LIMIT} characters.")
        server = self._checked_server(server)
        kernelspec = kernelspec or self.settings.kernelspec
        if kernelspec:
            await self._check_kernelspec(server, kernelspec)
        session = Session(
            id=new_id("sess_"),
            principal=self.principal,
            name=None if name is None else clean_text(name),
            server=server,
            kernelspec=kernelspec,
            isolation=self._engine.backend.isolation(server),
            created_at=0,
            last_used_at=0,
        )
        return await self._engine.records.add_session(
            session, limit=self.settings.sessions_per_principal
        )

    async def get_session(self, session_id: str) -> Session:
        """Return a session."""
        self._admit()
        return await self._session(session_id)

    async def list_sessions(self) -> list[Session]:
        """List the principal's sessions, last used first."""
        self._admit()
        return await self._engine.records.list_sessions(principal=self.principal)

    async def close_session(self, session_id: str) -> None:
        """Stop the session's kernel and delete its folder, files and steps."""
        self._admit()
        session = await self._session(session_id)
        for step in await self._unfinished(session_id):
            await self._cancel(step)
        await delete_session(self._engine, session)

    async def warm_up(self) -> None:
        """Start what every session needs where code runs, but no kernel; it is only faster then.

        Raises:
            BackendError: It does not start; the first session will say so again.
        """
        await self._engine.backend.warm_up()

    async def warm_session(self, session_id: str) -> None:
        """Start the session's kernel in the background, so that its first step need not wait."""
        self._admit()
        session = await self._session(session_id)
        self._engine.tasks.start_soon(self._warm, session)

    async def restart_session(self, session_id: str, *, replay: bool = False) -> Restarted:
        """Give the session a new kernel: variables are lost, files kept.

        A running step is cancelled. With `replay` the session's completed steps are run again, in
        order, until one fails; never by itself, because steps may act on the world. What an
        earlier replay ran again counts once.
        """
        self._admit()
        session = await self._session(session_id)
        for step in await self._unfinished(session_id):
            if step.status is StepStatus.IN_PROGRESS:
                await self._cancel(step)
        again = await self._completed(session_id) if replay else []
        session = await self._session(session_id)
        await self._live(session).restart()
        replayed: list[RunStep] = []
        for step in again:
            replayed.append(await self._replay(step))
            if replayed[-1].status is not StepStatus.COMPLETED:
                break
        return Restarted(session=await self._session(session_id), replayed=tuple(replayed))

    async def interrupt_session(self, session_id: str) -> RunStep | None:
        """Cancel the step that runs now, keeping variables; None if none does."""
        self._admit()
        await self._session(session_id)
        for step in await self._unfinished(session_id):
            if step.status is StepStatus.IN_PROGRESS:
                return await self._cancel(step)
        return None

    async def export_notebook(self, session_id: str) -> dict[str, Json]:
        """Return the session as a notebook in nbformat 4.5, one cell for each step."""
        self._admit()
        from ci_tools.notebook import to_notebook

        session = await self._session(session_id)
        steps = [step async for step in self._all_steps(session_id)]
        return to_notebook(session, steps[::-1])

    async def list_kernelspecs(self, server: str | None = None) -> list[KernelSpec]:
        """List the kinds of kernel that a server offers, the default first."""
        self._admit()
        return list(await self._engine.backend.list_kernelspecs(self._checked_server(server)))

    def list_servers(self) -> list[str]:
        """Name the servers that sessions can run on, the default first."""
        return list(self._engine.backend.servers())

    # Run steps

    async def run_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> RunStep:
        """Run code and return its final step; cancelling the call cancels the step.

        `timeout` is the seconds that the code may run; the step is then `expired`.
        """
        return await self._await_end(await self._submit(session_id, code, timeout))

    @asynccontextmanager
    async def stream_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[StepEvent]]:
        """Run code; iterate for its events, `StepFinished` last.

        Leaving the block early interrupts the code and stores the step as cancelled.
        """
        running = await self._submit(session_id, code, timeout)
        try:
            async with running.watch() as events:
                yield events
        finally:
            if not running.done.is_set():
                await self._abandon(running)

    async def submit_code(
        self, session_id: str, code: str, *, timeout: float | None = None
    ) -> RunStep:
        """Queue code and return its step at once; it goes on in the service."""
        return (await self._submit(session_id, code, timeout)).step

    @asynccontextmanager
    async def watch_run_step(self, step_id: str) -> AsyncIterator[AsyncIterator[StepEvent]]:
        """Iterate for a step's events from now on, `StepFinished` last; leaving changes nothing.

        For a step that another process runs, `StepFinished` is the only event.
        """
        self._admit()
        running = self._running(step_id)
        if running is not None:
            async with running.watch() as events:
                yield events
        else:
            yield self._wait_foreign(await self._step(step_id))

    async def wait_run_step(self, step_id: str, *, timeout: float | None = None) -> RunStep:
        """Return the step when it is final, or as it is after `timeout` seconds."""
        self._admit()
        running = self._running(step_id)
        with anyio.move_on_after(timeout):
            if running is not None:
                await running.done.wait()
                return running.step
            async for event in self._wait_foreign(await self._step(step_id)):
                return event.step
        return await self._step(step_id)

    async def get_run_step(self, step_id: str) -> RunStep:
        """Return a step; one that still runs, with its outputs so far."""
        self._admit()
        return await self._step(step_id)

    async def list_run_steps(
        self, session_id: str, *, limit: int = 20, before: str | None = None
    ) -> list[RunStep]:
        """List a session's steps, newest first; `before` is the id of the last one seen."""
        self._admit()
        return await self._engine.records.list_steps(
            session_id, principal=self.principal, limit=limit, before=before
        )

    async def cancel_run_step(self, step_id: str) -> RunStep:
        """Stop a step, keeping the session's variables; returns it when it is final."""
        self._admit()
        return await self._cancel(await self._step(step_id))

    @asynccontextmanager
    async def open_full_text(
        self, step_id: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream the whole text of a step whose outputs were cut, as UTF-8.

        Raises:
            NotFoundError: Nothing was cut, so there is only the step's own text.
        """
        self._admit()
        step = await self._step(step_id)
        if step.full_text is None:
            raise NotFoundError("full text of step", step_id)
        async with self._engine.blobs.open(
            step.full_text.key, offset=offset, length=length
        ) as chunks:
            yield chunks

    # Beside the steps

    async def run_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float = 60.0,
        output_limit: int = COMMAND_OUTPUT,
        cwd: str = MOUNT,
    ) -> CommandResult:
        """Run a shell command beside the session's kernel, and return all that it wrote.

        It waits for no step, is none, and starts a kernel if the session has none. `timeout` is in
        seconds, `output_limit` in bytes of both streams together. Cancelling the call ends it.

        Raises:
            BackendError: There is no way to run a command there; the message says what is missing.
        """
        texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        async with self.stream_command(
            session_id, command, timeout=timeout, output_limit=output_limit, cwd=cwd
        ) as events:
            async for event in events:
                if isinstance(event, CommandOutput):
                    texts[event.name].append(event.text)
                else:
                    return CommandResult(
                        stdout="".join(texts["stdout"]),
                        stderr="".join(texts["stderr"]),
                        exit_status=event.exit_status,
                        timed_out=event.timed_out,
                        truncated=event.truncated,
                        via=event.via,
                    )
        raise BackendError("The connection to the command was lost, and its end with it.")

    @asynccontextmanager
    async def stream_command(
        self,
        session_id: str,
        command: str,
        *,
        timeout: float = 60.0,
        output_limit: int = COMMAND_OUTPUT,
        cwd: str = MOUNT,
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a shell command; iterate for its output, `CommandDone` last.

        Leaving the block early ends the command.
        """
        self._admit()
        _check_command(command, timeout, output_limit)
        session = await self._session(session_id)
        request = CommandRequest(
            session_id=session.id,
            server=session.server,
            command=command,
            cwd="" if cwd.rstrip("/") in ("", ".", MOUNT) else check_path(cwd.rstrip("/")),
            timeout=timeout,
            output_limit=output_limit,
        )
        running = self._engine.commands
        if running[self.principal] >= self.settings.steps_per_principal:
            raise LimitError(
                f"{running[self.principal]} commands are running; wait until one has ended."
            )
        running[self.principal] += 1
        try:
            async with self._open_command(session, request) as events:
                yield self._masked(events)
        finally:
            running[self.principal] -= 1
            if not running[self.principal]:
                del running[self.principal]
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await self._engine.records.touch_session(session.id)

    async def list_variables(self, session_id: str) -> list[Variable]:
        """List the variables of the session's Python kernel, sorted by name; none without one.

        It waits for the steps that were sent before, a short time.

        Raises:
            BackendError: The kernel is busy, or speaks another language than Python.
        """
        self._admit()
        session = await self._session(session_id)
        if session.kernel is None:
            return []
        if session.kernel.language != "python":
            raise BackendError(
                f"Variables are listed for Python kernels only; this session's kernel runs "
                f"{session.kernel.language or 'another language'}."
            )
        with anyio.move_on_after(VARIABLES_WAIT):
            return await self._live(session).call(_list_variables)
        raise BackendError(
            f"The kernel of session {session_id!r} is busy; ask again when its step has ended."
        )

    # Files

    async def upload_file(
        self, session_id: str, path: str, content: bytes | AsyncIterable[bytes]
    ) -> File:
        """Put a file into the session; one with the same name is replaced.

        Raises:
            FileTooLargeError: It is larger than the setting `file_limit`; nothing was kept.
            InvalidPathError: The name cannot be used.
        """
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        engine = self._engine
        digest = hashlib.sha256()
        counted = _Counted(content, path, digest.update, self.settings.file_limit)
        limit = self.settings.bytes_per_principal
        key = await engine.blobs.put(counted.chunks(), principal=self.principal)
        file = File(
            id=new_id("file-"),
            principal=self.principal,
            session_id=session.id,
            path=path,
            size=counted.size,
            sha256=digest.hexdigest(),
            media_type=_media_type(path),
            modified_at=0,
        )
        try:
            # Before it is staged: what is in the session's folder cannot be taken back.
            await engine.records.check_room(file, limit=limit)
            await self._stage(session, file, key)
            file, replaced = await engine.records.put_file(file, key=key, limit=limit)
        except BaseException:
            with anyio.move_on_after(CLOSE_GRACE, shield=True):
                await engine.blobs.delete([key])
            raise
        if replaced is not None:
            await engine.blobs.delete([replaced])
        return file

    async def list_files(self, session_id: str, *, limit: int = 1000) -> list[File]:
        """List the files in the session's folder, sorted by path; at most `limit`."""
        self._admit()
        session = await self._session(session_id)
        stored = {
            item.file.path: item
            for item in await self._engine.records.list_stored_files(
                session_id, principal=self.principal
            )
        }
        stats = await self._with_workspace(session, lambda place: place.list_files(limit=limit))
        return [
            _to_file(session, stat.path, stat.size, stat.modified_at, stored.get(stat.path))
            for stat in stats
        ]

    async def stat_file(self, session_id: str, path: str, *, digest: bool = True) -> File:
        """Describe one file, with its SHA-256 unless it is larger than 2 GiB.

        Without `digest` the file is not read: the hash is there only if it is known already.
        """
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        stored = await self._engine.records.find_file(session_id, path, principal=self.principal)

        async def look(place: Workspace) -> File:
            stat = await place.stat(path)
            file = _to_file(session, path, stat.size, stat.modified_at, stored)
            if not digest:
                return file
            sha256 = await place.sha256(path) if stat.size <= HASHED_BYTES else None
            return replace(file, sha256=sha256, id=file.id if file.sha256 == sha256 else None)

        return await self._with_workspace(session, look)

    @asynccontextmanager
    async def open_file(
        self, session_id: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        place = await self._workspace(session)
        if place is not None:
            async with place.open_file(path, offset=offset, length=length) as chunks:
                yield chunks
            return
        await self._with_workspace(session, lambda place: place.stat(path))
        async with self._read_through_kernel(session, path, offset, length) as chunks:
            yield chunks

    async def delete_file(self, session_id: str, path: str) -> None:
        """Delete one file from the session, and the upload behind it."""
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        stored = await self._engine.records.find_file(session_id, path, principal=self.principal)
        await self._with_workspace(session, lambda place: place.delete(path))
        if stored is not None and stored.file.id is not None:
            key = await self._engine.records.delete_file(stored.file.id, principal=self.principal)
            await self._engine.blobs.delete([key])

    # Access

    async def create_token(self) -> "tuple[Token, str]":
        """Make a token of this principal; the secret is returned once and not kept."""
        from ci_tools.stores.nouns import Token

        secret = "cit_" + secrets.token_urlsafe(32)
        token = Token(id=new_id("tok_"), principal=self.principal, created_at=0, revoked_at=None)
        stored = await self._engine.records.add_token(token, digest=_digest(secret))
        return stored, secret

    async def list_tokens(self) -> "list[Token]":
        """List the tokens of every principal; for operators."""
        return await self._engine.records.list_tokens()

    async def revoke_token(self, token_id: str) -> None:
        """Make a token useless; for operators."""
        await self._engine.records.revoke_token(token_id)

    async def find_principal(self, secret: str) -> str | None:
        """Return whose token that is; None if it is nobody's or revoked."""
        token = await self._engine.records.find_token(digest=_digest(secret))
        return token.principal if token else None

    async def create_ticket(
        self, session_id: str, path: str, action: Literal["upload", "download"]
    ) -> "tuple[Ticket, str]":
        """Make a short-lived right to upload or download one file; returns it and its secret."""
        from ci_tools.stores.nouns import Ticket

        self._admit()
        session = await self._session(session_id)
        ticket = Ticket(
            principal=self.principal,
            session_id=session.id,
            path=check_path(path),
            action=action,
            expires_at=0,
        )
        secret = secrets.token_urlsafe(32)
        stored = await self._engine.records.add_ticket(
            ticket, digest=_digest(secret), seconds=self.settings.ticket_time
        )
        return stored, secret

    async def redeem_ticket(self, secret: str, action: Literal["upload", "download"]) -> "Ticket":
        """Return what a ticket allows; an upload ticket works once.

        Raises:
            NotFoundError: It is unknown, used or too old.
        """
        ticket = await self._engine.records.take_ticket(digest=_digest(secret), action=action)
        if ticket is None:
            raise NotFoundError(f"{action} ticket", "…")
        return ticket

    async def erase_principal(self) -> None:
        """Delete everything of this principal: sessions, files, steps, tokens and tickets."""
        for session in await self._engine.records.list_sessions(principal=self.principal):
            await self.close_session(session.id)
        keys = await self._engine.records.erase_principal(self.principal)
        await self._engine.blobs.delete(keys)

    async def ready(self) -> None:
        """Raise what keeps the service from working, if anything does."""
        if self._engine.closing:
            raise ServiceClosedError
        await self._engine.records.ping()

    def on_finished(self, tell: Callable[[RunStep], None]) -> None:
        """Let `tell` have each step of any principal that ends in this process; for operators.

        It must not raise, and not wait: the next step of the session waits for it.
        """
        self._engine.on_finished.append(tell)

    async def measure_load(self) -> "Load":
        """Count the sessions, kernels and bytes of all principals; for operators."""
        return await self._engine.records.measure_load()

    def count_live(self) -> tuple[int, int]:
        """Count the sessions with an owning task, and the unfinished steps, of this process."""
        return len(self._engine.live), len(self._engine.running)

    # Inside

    def _admit(self) -> None:
        if self._engine.closing:
            raise ServiceClosedError
        self._engine.rates.check(self.principal)

    def _checked_server(self, server: str | None) -> str:
        servers = self._engine.backend.servers()
        if server is None:
            return servers[0]
        if server not in servers:
            raise InvalidArgumentError(
                f"There is no server profile {server[:50]!r}; there are: {', '.join(servers)}."
            )
        return server

    async def _check_kernelspec(self, server: str, kernelspec: str) -> None:
        known = [spec.name for spec in await self._engine.backend.list_kernelspecs(server)]
        if kernelspec not in known:
            others = ""
            if self._engine.backend.isolation(server) not in ("none", "remote"):
                others = " Its sandbox runs no others: those need CI_TOOLS_ISOLATION=none."
            raise InvalidArgumentError(
                f"There is no kernel {kernelspec[:50]!r} on {server!r}; there are: "
                f"{', '.join(known)}.{others}"
            )

    async def _session(self, session_id: str) -> Session:
        return await self._engine.records.get_session(session_id, principal=self.principal)

    def _live(self, session: Session) -> LiveSession:
        live = self._engine.live.get(session.id)
        if live is None:
            live = LiveSession(self._engine, session)
            self._engine.live[session.id] = live
            self._engine.tasks.start_soon(live.run)
        return live

    @asynccontextmanager
    async def _open_command(
        self, session: Session, request: CommandRequest
    ) -> AsyncIterator[AsyncIterator[CommandEvent]]:
        """Run a command beside the session's kernel, and beside a new one if that is gone."""
        backend = self._engine.backend
        ref = await self._live(session).find_kernel()
        async with AsyncExitStack() as stack:
            try:
                events = await stack.enter_async_context(backend.run_command(ref, request))
            except KernelLostError:
                ref = await self._live(session).find_kernel(lost=ref)
                events = await stack.enter_async_context(backend.run_command(ref, request))
            yield events

    async def _masked(self, events: AsyncIterator[CommandEvent]) -> AsyncIterator[CommandEvent]:
        """Hide the operator's secrets in what a command writes."""
        mapper = PathMapper(MOUNT, secrets=self.settings.secrets)
        async for event in events:
            match event:
                case CommandOutput():
                    mapped = mapper.to_event(StreamOutput(name=event.name, text=event.text))
                    if isinstance(mapped, StreamOutput) and mapped.text:
                        yield CommandOutput(name=mapped.name, text=mapped.text)
                case CommandDone():
                    for rest in mapper.rest():
                        yield CommandOutput(name=rest.name, text=rest.text)
                    yield event

    async def _warm(self, session: Session) -> None:
        try:
            await self._live(session).call(_just_connect)
        except CIToolsError as error:
            logger.warning("session %s: not warmed: %s", session.id, error)
        except Exception:
            # Nobody waits for this task, and all sessions share its task group.
            logger.exception("session %s: not warmed", session.id)

    async def _submit(
        self, session_id: str, code: str, timeout: float | None, *, replays: str | None = None
    ) -> RunningStep:
        self._admit()
        if len(code) > CODE_LIMIT:
            raise InvalidArgumentError(
                f"The code has {len(code)} characters; at most {CODE_LIMIT} run in one step. "
                "Upload it as a file and run that."
            )
        seconds = self.settings.step_timeout if timeout is None else timeout
        if not 0 < seconds <= self.settings.step_timeout_max:
            raise InvalidArgumentError(
                f"A step's timeout is above 0 and at most {self.settings.step_timeout_max:g} s, "
                f"not {seconds:g}."
            )
        await self._check_room()
        step = RunStep(
            id=new_id("step_"),
            session_id=session_id,
            principal=self.principal,
            code=code,
            status=StepStatus.QUEUED,
            epoch=0,
            timeout=seconds,
            created_at=0,
            replays=replays,
        )
        running = self._engine.open_step(step)
        try:
            admission = await self._engine.records.admit_step(
                step, lease=self._engine.lease, limit=self.settings.steps_per_principal
            )
        except BaseException:
            del self._engine.running[step.id]
            raise
        running.update(admission.step)
        self._live(admission.session).start_step(running, admission)
        return running

    async def _check_room(self) -> None:
        """Refuse to run code of a principal that keeps all it may: running makes more of it."""
        engine, now = self._engine, anyio.current_time()
        if now < engine.room_checks.get(self.principal, 0):
            return
        used = await engine.records.stored_bytes(principal=self.principal)
        limit = self.settings.bytes_per_principal
        if used >= limit:
            raise LimitError(
                f"You keep {used} bytes and may keep {limit}: delete files or close sessions first."
            )
        engine.room_checks[self.principal] = now + _ROOM_CHECK

    async def _replay(self, step: RunStep) -> RunStep:
        running = await self._submit(step.session_id, step.code, step.timeout, replays=step.id)
        return await self._await_end(running)

    async def _await_end(self, running: RunningStep) -> RunStep:
        try:
            await running.done.wait()
        except anyio.get_cancelled_exc_class():
            await self._abandon(running)
            raise
        return running.step

    async def _abandon(self, running: RunningStep) -> None:
        """Cancel a step whose caller has left, and wait for its end, which is bounded."""
        running.request_stop("cancelled")
        with anyio.move_on_after(self.settings.interrupt_grace + CLOSE_GRACE, shield=True):
            try:
                await self._cancel(running.step)
            except CIToolsError as error:
                logger.warning("step %s: its end was not awaited: %s", running.step.id, error)

    async def _cancel(self, step: RunStep) -> RunStep:
        running = self._running(step.id)
        if running is None:
            if not step.status.is_final:
                step = await self._engine.records.request_cancel(step.id, principal=self.principal)
            async for event in self._wait_foreign(step):
                step = event.step
            return step
        await self._live(await self._session(step.session_id)).cancel_step(running)
        return running.step

    def _running(self, step_id: str) -> RunningStep | None:
        running = self._engine.running.get(step_id)
        return running if running and running.step.principal == self.principal else None

    async def _step(self, step_id: str) -> RunStep:
        running = self._running(step_id)
        if running is not None:
            return running.step
        step = await self._engine.records.get_step(step_id, principal=self.principal)
        return step if step.status.is_final else self._with_spooled(step)

    def _with_spooled(self, step: RunStep) -> RunStep:
        """Add what a step of another process on this machine has printed so far."""
        text = read_spool(
            self._engine.spool_path(step.id), limit=self.settings.text_limit, tail=True
        )
        return replace(step, outputs=(StreamOutput(name="stdout", text=text),)) if text else step

    async def _wait_foreign(self, step: RunStep) -> AsyncIterator[StepFinished]:
        """Wait until a step that another process runs is final."""
        delay = _FOREIGN_WAIT_FIRST
        while not step.status.is_final:
            await anyio.sleep(delay)
            delay = min(delay * 2, _FOREIGN_WAIT_LONGEST)
            step = await self._engine.records.get_step(step.id, principal=self.principal)
        yield StepFinished(step=step)

    async def _unfinished(self, session_id: str) -> list[RunStep]:
        """List a session's steps that are not final, the oldest first."""
        return await self._engine.records.list_unfinished_steps(
            session_id, principal=self.principal
        )

    async def _completed(self, session_id: str) -> list[RunStep]:
        """List the steps that made the session's state, the oldest first."""
        steps = [step async for step in self._all_steps(session_id)]
        completed = [step for step in steps[::-1] if step.status is StepStatus.COMPLETED]
        repeated = {step.replays for step in completed}
        return [step for step in completed if step.id not in repeated]

    async def _all_steps(self, session_id: str) -> AsyncIterator[RunStep]:
        """Iterate over a session's steps, newest first."""
        before = None
        while True:
            page = await self._engine.records.list_steps(
                session_id, principal=self.principal, limit=_PAGE, before=before
            )
            for step in page:
                yield step
            if len(page) < _PAGE:
                return
            before = page[-1].id

    async def _workspace(self, session: Session) -> Workspace | None:
        return await self._engine.backend.open_workspace(
            WorkspaceRequest(session_id=session.id, server=session.server)
        )

    async def _with_workspace(
        self, session: Session, function: Callable[[Workspace], Awaitable[T]]
    ) -> T:
        """Call `function` with the session's folder, through its kernel if it must be."""
        place = await self._workspace(session)
        if place is not None:
            return await function(place)
        return await self._through_kernel(session, function)

    async def _through_kernel(
        self, session: Session, function: Callable[[Workspace], Awaitable[T]]
    ) -> T:
        async def call(kernel: Kernel) -> T:
            if kernel.workspace is None:
                raise BackendError("The session's kernel cannot reach its files for us.")
            return await function(kernel.workspace)

        return await self._live(session).call(call)

    @asynccontextmanager
    async def _read_through_kernel(
        self, session: Session, path: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Let the kernel's owning task read the file and hand over one chunk at a time."""
        send, receive = anyio.create_memory_object_stream[bytes](0)
        errors: list[CIToolsError] = []

        async def read(kernel: Kernel) -> None:
            assert kernel.workspace is not None
            async with kernel.workspace.open_file(path, offset=offset, length=length) as chunks:
                async for chunk in chunks:
                    try:
                        await send.send(chunk)
                    except anyio.BrokenResourceError:
                        return

        async def call() -> None:
            try:
                await self._live(session).call(read)
            except CIToolsError as error:
                errors.append(error)
            finally:
                send.close()

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in receive:
                yield chunk
            if errors:
                raise errors[0]

        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with receive:
                try:
                    yield chunks()
                except Exception as error:  # noqa: BLE001 - raised again, outside of the group
                    failure = error
        if failure is not None:
            raise failure

    async def _stage(self, session: Session, file: File, key: str) -> None:
        """Copy an upload's kept bytes into the session's folder.

        Large ones go to another machine through the kernel: a Jupyter Server takes them in base64.
        """
        blobs = self._engine.blobs

        async def write(place: Workspace) -> None:
            async with blobs.open(key) as chunks:
                await place.write(file.path, chunks, source=blobs.local_path(key))

        place = await self._workspace(session)
        if place is None:
            await self._through_kernel(session, write)
        elif (
            file.size < _LARGE
            or isinstance(place, LocalWorkspace)
            or not await self._write_through_kernel(session, write)
            or await _find_size(place, file.path) != file.size  # its code may have lied
        ):
            await write(place)

    async def _write_through_kernel(
        self, session: Session, write: Callable[[Workspace], Awaitable[None]]
    ) -> bool:
        """Write a file through the kernel if it is idle, or can be started; False if not."""
        scope = anyio.CancelScope()

        async def write_in_scope(place: Workspace) -> None:
            with scope:
                await write(place)

        if self._live(session).busy:
            return False
        try:
            await self._through_kernel(session, write_in_scope)
        except CIToolsError as error:
            logger.info("session %s: no upload through its kernel: %s", session.id, error)
            return False
        except BaseException:
            scope.cancel()  # it runs in the session's task
            raise
        return True


class _Counted:
    """Bytes on their way into the store: counted, hashed and limited."""

    def __init__(
        self,
        content: bytes | AsyncIterable[bytes],
        path: str,
        hash_chunk: Callable[[bytes], None],
        limit: int,
    ) -> None:
        self._content = content
        self._path = path
        self._hash_chunk = hash_chunk
        self._limit = limit
        self.size = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes; stop with an error where the limit is passed."""
        if isinstance(self._content, bytes):
            yield self._take(self._content)
            return
        async for chunk in self._content:
            yield self._take(chunk)

    def _take(self, chunk: bytes) -> bytes:
        self.size += len(chunk)
        if self.size > self._limit:
            raise FileTooLargeError(self._path, self._limit)
        self._hash_chunk(chunk)
        return chunk


async def _find_size(place: Workspace, path: str) -> int | None:
    try:
        return (await place.stat(path)).size
    except NotFoundError:
        return None


async def _just_connect(kernel: Kernel) -> None:
    """Do nothing with a kernel; getting it was the purpose."""


async def _list_variables(kernel: Kernel) -> list[Variable]:
    return list(await kernel.list_variables())


def _check_command(command: str, timeout: float, output_limit: int) -> None:
    if not command.strip() or len(command) > COMMAND_LIMIT or "\0" in command:
        raise InvalidArgumentError(
            f"A command has 1 to {COMMAND_LIMIT} characters; upload a longer script and run that."
        )
    if not 0 < timeout <= COMMAND_TIMEOUT_MAX:
        raise InvalidArgumentError(
            f"A command's timeout is above 0 and at most {COMMAND_TIMEOUT_MAX:g} s, "
            f"not {timeout:g}."
        )
    if not 0 <= output_limit <= COMMAND_OUTPUT_MAX:
        raise InvalidArgumentError(
            f"A command's output limit is at most {COMMAND_OUTPUT_MAX} bytes, not {output_limit}."
        )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _media_type(path: str) -> str:
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


def _to_file(
    session: Session, path: str, size: int, modified_at: float, stored: "StoredFile | None"
) -> File:
    """Describe a file of the folder, with the upload behind it if it still has that size."""
    same = stored is not None and stored.file.size == size
    return File(
        id=stored.file.id if stored and same else None,
        principal=session.principal,
        session_id=session.id,
        path=path,
        size=size,
        sha256=stored.file.sha256 if stored and same else None,
        media_type=_media_type(path),
        modified_at=modified_at,
    )
