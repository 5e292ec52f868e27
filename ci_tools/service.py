"""The session service: what every adapter calls."""

import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

import anyio

from ci_tools.choices import check_environment, choose_network
from ci_tools.engine import Engine
from ci_tools.errors import (
    BackendError,
    CIToolsError,
    InvalidArgumentError,
    KernelLostError,
    LimitError,
    NotFoundError,
    ServiceClosedError,
)
from ci_tools.folders import SessionFolder
from ci_tools.folding import clean_text
from ci_tools.kernel import CommandRequest, Kernel
from ci_tools.live import CLOSE_GRACE, LiveSession, find_environment, get_live
from ci_tools.mapping import PathMapper
from ci_tools.models import (
    CommandDone,
    CommandEvent,
    CommandOutput,
    CommandResult,
    File,
    Json,
    KernelSpec,
    Restarted,
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
from ci_tools.settings import Settings, to_secrets
from ci_tools.upkeep import delete_session
from ci_tools.uploads import Uploads, list_files, stat_file, upload
from ci_tools.workspace import check_path

if TYPE_CHECKING:
    from ci_tools.stores.database import Database
    from ci_tools.stores.nouns import Load, Ticket, Token

logger = logging.getLogger(__name__)

T = TypeVar("T")

CODE_LIMIT = 1_500_000
"""Characters of code in one step: kernels on Jupyter Servers take no more in one message."""

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

_NAME_LIMIT = 200
"""Characters of a session's name or a principal."""

_STEP_ID = re.compile(r"step_[A-Za-z0-9]{24}", re.ASCII)
"""Ids that callers may make for steps, as `new_id` does."""

_FOREIGN_WAIT_FIRST, _FOREIGN_WAIT_LONGEST = 0.05, 1.0
"""Seconds between two looks at a step that another process runs."""

_ROOM_CHECK = 5.0
"""Seconds in which a principal that kept too little to be refused is not looked at again."""

_PAGE = 100
"""Steps read from the store at once."""


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

    @property
    def uploads(self) -> Uploads:
        """The principal's files under ids, in sessions and outside of them."""
        return Uploads(self._engine, self.principal)

    @property
    def database(self) -> "Database":
        """The database of the records, in which an adapter may keep tables of its own."""
        return self._engine.records.database

    @property
    def lease(self) -> str:
        """The id of the lease that this process holds in the table `leases` while it lives."""
        return self._engine.lease

    def act_as(self, principal: str) -> "SessionService":
        """Return the service of another principal; whoever calls this has checked who asks."""
        if not principal or len(principal) > _NAME_LIMIT or not principal.isprintable():
            raise InvalidArgumentError(
                f"A principal is 1 to {_NAME_LIMIT} printable characters, not {principal[:50]!r}."
            )
        return SessionService(self._engine, principal)

    def admit(self) -> None:
        """Count one request that an adapter answers without any other method of this class.

        Raises:
            LimitError: The principal asks too often.
            ServiceClosedError: The service is closing.
        """
        self._admit()

    # Sessions

    async def create_session(
        self,
        *,
        name: str | None = None,
        server: str | None = None,
        kernelspec: str | None = None,
        network: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Session:
        """Create a session; its kernel starts with the first step, or with `warm_session`.

        `network` (`none`, `allowlist` or `on`, within what the settings allow) and `environment`
        (variables that code sees) are for the host application: never pass on what a model chose.
        Values of 8 and more characters are replaced by `***` in what is kept of outputs.

        Raises:
            InvalidArgumentError: No such server profile or kernelspec; the message lists them. Or
                a network beyond the limit, or a name that no variable can have.
        """
        self._admit()
        session = await self._new_session(name, server, kernelspec, network=network)
        variables = check_environment(environment or {})
        return await self._engine.records.add_session(
            replace(session, environment=tuple(variables)),
            limit=self.settings.sessions_per_principal,
            environment=variables,
        )

    async def find_or_create_session(self, name: str) -> Session:
        """Return the principal's oldest session of that name; one is created if there is none.

        Of calls at the same time, in any process, one creates it and all return it.
        """
        self._admit()
        session = await self._new_session(name, None, None)
        return await self._engine.records.find_or_add_session(
            session, limit=self.settings.sessions_per_principal
        )

    async def get_session(self, session_id: str) -> Session:
        """Return a session."""
        self._admit()
        return self._as_it_is(await self._session(session_id))

    async def list_sessions(self) -> list[Session]:
        """List the principal's sessions, last used first."""
        self._admit()
        stored = await self._engine.records.list_sessions(principal=self.principal)
        return [self._as_it_is(session) for session in stored]

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
        self._admit()
        return await self._await_end(await self._submit(session_id, code, timeout))

    @asynccontextmanager
    async def stream_code(
        self,
        session_id: str,
        code: str,
        *,
        timeout: float | None = None,
        step_id: str | None = None,
    ) -> AsyncIterator[AsyncIterator[StepEvent]]:
        """Run code; iterate for its events, `StepFinished` last.

        Leaving the block early interrupts the code and stores the step as cancelled. A caller
        that must find the step again, whatever happens to it, makes its id, as for `submit_code`.
        """
        self._admit()
        if step_id is not None:
            _check_step_id(step_id)
        running = await self._submit(session_id, code, timeout, step_id=step_id)
        try:
            async with running.watch() as events:
                yield events
        finally:
            if not running.done.is_set():
                await self._abandon(running)

    async def submit_code(
        self,
        session_id: str,
        code: str,
        *,
        timeout: float | None = None,
        step_id: str | None = None,
        wait: float | None = 0,
    ) -> RunStep:
        """Queue code and return its step; it goes on in the service whatever its caller does.

        The step is returned after `wait` seconds at the latest (None: when it is final). A caller
        that may have to ask again makes the step's id itself, with `new_id("step_")`: the code is
        run once, however often it is submitted under that id.
        """
        self._admit()
        found = step_id and await self._find_submitted(session_id, code, step_id)
        if found:
            return await self._wait(found.id, wait)
        running = await self._submit(session_id, code, timeout, step_id=step_id)
        if wait is None or wait > 0:
            with anyio.move_on_after(wait):
                await running.done.wait()
        return running.step

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
        return await self._wait(step_id, timeout)

    async def _wait(self, step_id: str, timeout: float | None) -> RunStep:
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
            environment=await find_environment(self._engine, session),
        )
        running = self._engine.commands
        if running[self.principal] >= self.settings.steps_per_principal:
            raise LimitError(
                f"{running[self.principal]} commands are running; wait until one has ended."
            )
        running[self.principal] += 1
        try:
            async with self._open_command(session, request) as events:
                yield self._masked(events, request)
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
        return await upload(self._engine, await self._session(session_id), path, content)

    async def list_files(self, session_id: str, *, limit: int = 1000) -> list[File]:
        """List the files in the session's folder, sorted by path; at most `limit`."""
        self._admit()
        return await list_files(self._engine, await self._session(session_id), limit=limit)

    async def stat_file(self, session_id: str, path: str, *, digest: bool = True) -> File:
        """Describe one file, with its SHA-256 unless it is larger than 2 GiB.

        Without `digest` the file is not read: the hash is there only if it is known already.
        """
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        return await stat_file(self._engine, session, path, digest=digest)

    @asynccontextmanager
    async def open_file(
        self, session_id: str, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        folder = SessionFolder(self._engine, session)
        async with folder.open_file(path, offset=offset, length=length) as chunks:
            yield chunks

    async def delete_file(self, session_id: str, path: str) -> None:
        """Delete one file from the session, and the upload behind it if it was for this path."""
        self._admit()
        path = check_path(path)
        session = await self._session(session_id)
        await SessionFolder(self._engine, session).delete(path)
        key = await self._engine.records.remove_path(session_id, path, principal=self.principal)
        if key is not None:
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
        for erase in self._engine.on_erase:
            await erase(self.principal)
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

    def on_erase(self, erase: Callable[[str], Awaitable[None]]) -> None:
        """Let `erase` delete what an adapter keeps of a principal when that is erased.

        It is called with the principal's name once no session is left, before its files go.
        """
        self._engine.on_erase.append(erase)

    async def measure_load(self) -> "Load":
        """Count the sessions, kernels and bytes of all principals; for operators."""
        return await self._engine.records.measure_load()

    def count_live(self) -> tuple[int, int]:
        """Count the sessions with an owning task, and the unfinished steps, of this process."""
        return len(self._engine.live), len(self._engine.running)

    # Inside

    def _admit(self) -> None:
        self._engine.admit(self.principal)

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

    async def _new_session(
        self,
        name: str | None,
        server: str | None,
        kernelspec: str | None,
        *,
        network: str | None = None,
    ) -> Session:
        """Return a session that is not stored yet, with checked parts."""
        if name is not None and len(name) > _NAME_LIMIT:
            raise InvalidArgumentError(f"A session's name has at most {_NAME_LIMIT} characters.")
        server = self._checked_server(server)
        kernelspec = kernelspec or self.settings.kernelspec
        if kernelspec:
            await self._check_kernelspec(server, kernelspec)
        isolation = self._engine.backend.isolation(server)
        return Session(
            id=new_id("sess_"),
            principal=self.principal,
            name=None if name is None else clean_text(name),
            server=server,
            kernelspec=kernelspec,
            isolation=isolation,
            created_at=0,
            last_used_at=0,
            network=choose_network(self.settings, isolation=isolation, wanted=network),
        )

    async def _session(self, session_id: str) -> Session:
        return await self._engine.records.get_session(session_id, principal=self.principal)

    def _as_it_is(self, session: Session) -> Session:
        """Return the session without a kernel that ended with its server, noted or not."""
        # Who asks right after a start would else be told of a kernel of the process before.
        if session.kernel is None or self._engine.backend.may_live(session.kernel):
            return session
        return replace(session, kernel=None)

    def _live(self, session: Session) -> LiveSession:
        return get_live(self._engine, session)

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

    async def _masked(
        self, events: AsyncIterator[CommandEvent], request: CommandRequest
    ) -> AsyncIterator[CommandEvent]:
        """Hide the operator's secrets in what a command writes."""
        values = to_secrets(request.environment.values())
        mapper = PathMapper(MOUNT, secrets=(*self.settings.secrets, *values))
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
        self,
        session_id: str,
        code: str,
        timeout: float | None,
        *,
        step_id: str | None = None,
        replays: str | None = None,
    ) -> RunningStep:
        _check_code(code)
        seconds = self.settings.step_timeout if timeout is None else timeout
        if not 0 < seconds <= self.settings.step_timeout_max:
            raise InvalidArgumentError(
                f"A step's timeout is above 0 and at most {self.settings.step_timeout_max:g} s, "
                f"not {seconds:g}."
            )
        await self._check_room()
        known = self._engine.running.get(step_id) if step_id else None
        if known is not None:  # submitted a second time at once, or another principal's
            wanted = (self.principal, session_id, code)
            if (known.step.principal, known.step.session_id, known.step.code) != wanted:
                raise InvalidArgumentError(f"The step {step_id!r} is another one: make a new id.")
            return known
        step = RunStep(
            id=step_id or new_id("step_"),
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

    async def _find_submitted(self, session_id: str, code: str, step_id: str) -> RunStep | None:
        """Return the step that was submitted before under an id that its caller made."""
        _check_step_id(step_id)
        try:
            step = await self._step(step_id)
        except NotFoundError:
            return None
        if (step.session_id, step.code) != (session_id, code):
            raise InvalidArgumentError(f"The step {step_id!r} is another one: make a new id.")
        return step

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


async def _just_connect(kernel: Kernel) -> None:
    """Do nothing with a kernel; getting it was the purpose."""


async def _list_variables(kernel: Kernel) -> list[Variable]:
    return list(await kernel.list_variables())


def _check_step_id(step_id: str) -> None:
    if not _STEP_ID.fullmatch(step_id):
        raise InvalidArgumentError(
            "A step's id is 'step_' and 24 letters and digits, chosen at random."
        )


def _check_code(code: str) -> None:
    if len(code) > CODE_LIMIT:
        raise InvalidArgumentError(
            f"The code has {len(code)} characters; at most {CODE_LIMIT} run in one step. "
            "Upload it as a file and run that."
        )
    if code != clean_text(code):
        raise InvalidArgumentError(
            "The code has half of a character in it (a lone surrogate), which cannot be sent: "
            "write the whole character, or an escape such as '\\\\ud83d' in a string."
        )


def _check_command(command: str, timeout: float, output_limit: int) -> None:
    if not command.strip() or len(command) > COMMAND_LIMIT or "\0" in command:
        raise InvalidArgumentError(
            f"A command has 1 to {COMMAND_LIMIT} characters; upload a longer script and run that."
        )
    if command != clean_text(command):
        raise InvalidArgumentError(
            "The command has half of a character in it (a lone surrogate), which cannot be sent."
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
