"""The port to the place where code runs: backends, kernels and workspaces.

A *backend* starts kernels and finds them again by their `KernelRef`. A *kernel* is one open
connection; it executes one piece of code at a time and is used by one task. A *workspace* is a
session's folder, which code sees as its working directory and readers call /mnt/data.

What a backend must do beyond the signatures is what `tests/kernels/test_contract.py` checks; the
fake backend and the Jupyter backend pass the same tests. Errors are those of `ci_tools.errors`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from ci_tools.models import CommandEvent, Json, KernelRef, KernelSpec, Output, Session, Variable


@dataclass(frozen=True, kw_only=True)
class DisplayUpdate:
    """New content for every earlier display with this id."""

    display_id: str
    data: dict[str, Json]
    metadata: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClearOutput:
    """Remove all output so far; with `wait`, only when the next output comes."""

    wait: bool


@dataclass(frozen=True, kw_only=True)
class OutputLost:
    """The server dropped output of this execution (its rate limit); `message` is for readers."""

    message: str


@dataclass(frozen=True, kw_only=True)
class FileStat:
    """A regular file in a workspace."""

    path: str
    """Relative to the workspace, with forward slashes."""

    size: int
    modified_at: float
    """Unix seconds."""


@dataclass(frozen=True, kw_only=True)
class ExecutionDone:
    """The kernel has replied and is idle again: the last event of an execution.

    `aborted` means that the kernel never ran the code. `unknown` means that the connection came
    back to an idle kernel whose reply to this execution is lost.
    """

    status: Literal["ok", "error", "aborted", "unknown"]
    execution_count: int | None = None
    files: tuple[FileStat, ...] | None = None
    """The session's files now, where the reply came with them; None if they must be listed."""


KernelEvent: TypeAlias = Output | DisplayUpdate | ClearOutput | OutputLost | ExecutionDone


class Execution(Protocol):
    """Code that a kernel has been given; iterate for its events, `ExecutionDone` last.

    Cancelling a `receive` loses nothing: the next one goes on where it stopped.
    """

    async def receive(self) -> KernelEvent:
        """Wait for the next event.

        Raises:
            KernelDiedError: The kernel ended before it replied.
            ServerUnavailableError: The server is gone and did not come back in time.
        """
        ...


class Kernel(Protocol):
    """An open connection to one live kernel, used by one task."""

    ref: KernelRef

    @property
    def workspace(self) -> "Workspace | None":
        """The session's folder through the kernel: the only way, or a faster one; None if neither.

        It needs the kernel idle, so it is used between executions only.
        """
        ...

    async def execute(self, code: str, *, execution_id: str) -> Execution:
        """Send code; returns as soon as it is sent. Only one execution may be pending.

        `execution_id` becomes the id of the request, so that a later connection to the same
        kernel can recognise what still comes for it.
        """
        ...

    async def interrupt(self) -> None:
        """Ask the kernel to interrupt the pending execution; that one's events say when it has."""
        ...

    async def list_variables(self) -> Sequence[Variable]:
        """List the variables, sorted by name, without a trace in the kernel's history.

        It needs the kernel idle, so it is used between executions only.

        Raises:
            BackendError: It is no Python kernel, or does not answer.
        """
        ...


class Workspace(Protocol):
    """A session's folder. Paths are relative, checked by `ci_tools.workspace.check_path`.

    Symbolic links are never followed out of the folder. A missing file raises `NotFoundError`.
    """

    root: str
    """The absolute path under which code in the kernel sees the folder."""

    async def list_files(self, *, limit: int) -> Sequence[FileStat]:
        """List the regular files, recursively, sorted by path; at most `limit`."""
        ...

    async def stat(self, path: str) -> FileStat:
        """Describe one regular file."""
        ...

    async def sha256(self, path: str) -> str | None:
        """Return the file's SHA-256 in hex, or None where only a download could tell it."""
        ...

    def open_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        ...

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, source: Path | None = None
    ) -> None:
        """Write a file whole, creating its folders; it appears under its name only when complete.

        `source`, if given, is a local file with the same bytes, which a local workspace may clone
        or copy instead (never hard-link).
        """
        ...

    async def delete(self, path: str) -> None:
        """Delete one regular file."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorkspaceRequest:
    """Whose folder, on which server."""

    session_id: str
    server: str
    kernelspec: str = ""
    """That of the session: a kernel that is started for the folder has no other rights than its."""

    @classmethod
    def of(cls, session: Session) -> "WorkspaceRequest":
        """Return the request for a session's folder."""
        return cls(
            session_id=session.id,
            server=session.server,
            kernelspec=session.kernel.kernelspec if session.kernel else session.kernelspec,
        )


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """What kernel to start: for which session, on which server, of which kind."""

    session_id: str
    server: str
    kernelspec: str
    epoch: int
    network: str | None = None
    """What code shall reach, where a sandbox of ours decides; None for what is usual there."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that code shall see besides the usual ones."""


@dataclass(frozen=True, kw_only=True)
class CommandRequest:
    """A shell command in a session's folder, beside its kernel."""

    session_id: str
    server: str
    command: str
    """For /bin/sh; may say /mnt/data, wherever the folder is."""

    cwd: str
    """Relative to /mnt/data; empty for the folder itself."""

    timeout: float
    """Seconds after which it is ended."""

    output_limit: int
    """Bytes of both streams together; what comes later is dropped."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The session's variables, which its kernel has been started with."""


class KernelBackend(Protocol):
    """A way to run kernels: an embedded Jupyter Server, remote ones, or a fake."""

    name: str

    def open(self) -> AbstractAsyncContextManager[None]:
        """Own everything that must be closed again; nothing else works outside of it."""
        ...

    def servers(self) -> Sequence[str]:
        """Name the servers that sessions can choose from; the first is the default."""
        ...

    def isolation(self, server: str) -> str:
        """Name what separates code on that server from this machine: `none`, `remote`, ….

        Asked with a server's name, the answer may be `auto`: the best that will be found there.
        Asked with the `KernelRef.server` of a kernel that was just started, it is what is in force.
        """
        ...

    async def warm_up(self) -> None:
        """Make the first `start_kernel` fast (start the embedded server); may do nothing."""
        ...

    def preparation(self) -> str | None:
        """Say what all kernels wait for now, if it takes long, to those who wait; else None."""
        ...

    async def list_kernelspecs(self, server: str) -> Sequence[KernelSpec]:
        """List the kinds of kernel there; the first is the default."""
        ...

    async def open_workspace(self, request: WorkspaceRequest) -> Workspace | None:
        """Return the session's folder, made if missing; None if only its kernel can reach it."""
        ...

    async def remove_workspace(self, request: WorkspaceRequest) -> None:
        """Delete the session's folder and all in it; nothing happens if there is none.

        Where only a kernel can reach it, one is started for this.
        """
        ...

    async def start_kernel(self, request: KernelRequest) -> KernelRef:
        """Start a kernel whose working directory is the session's folder.

        Raises:
            KernelStartError: It did not start, or there is no such kernelspec.
        """
        ...

    def may_live(self, ref: KernelRef) -> bool:
        """Tell whether a kernel may still be there; False only if it cheaply is certain not to."""
        ...

    def connect(self, ref: KernelRef) -> AbstractAsyncContextManager[Kernel]:
        """Connect to a live kernel; usable by the task that entered.

        Raises:
            KernelLostError: There is no such kernel any more.
        """
        ...

    async def stop_kernel(self, ref: KernelRef) -> None:
        """End a kernel; nothing happens if it is gone already."""
        ...

    def run_command(
        self, ref: KernelRef, request: CommandRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[CommandEvent]]:
        """Run a shell command beside a live kernel, which may be busy; `CommandDone` is last.

        Leaving early ends the command, and so does the end of the kernel. Usable by the task that
        entered.

        Raises:
            KernelLostError: There is no such kernel any more.
            BackendError: There is no way to run a command there; the message says what is missing.
        """
        ...
