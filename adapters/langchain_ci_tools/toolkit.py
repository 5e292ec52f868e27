"""`CodeInterpreterToolkit`: the tools over one connection, and the host's side of their files."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import PrivateAttr

from ci_tools.models import File, RunStep, Session
from langchain_ci_tools.access import Access, Action
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.file_tools import ListFilesTool, ReadFileTool, UploadFileTool
from langchain_ci_tools.images import Images, find_placement, takes_pdf
from langchain_ci_tools.run_tools import (
    GetRunStepTool,
    ListRunStepsTool,
    RunCodeTool,
    RunCommandTool,
)
from langchain_ci_tools.session_tool import SessionTool
from langchain_ci_tools.sessions import Found, Where, find_thread

if TYPE_CHECKING:
    # Loaded by `local`, which opens a service: importing it takes longer than all of this.
    from ci_tools import Settings
    from ci_tools.kernel import KernelBackend
    from langchain_ci_tools.connection import Connection, Opener

_TOOLS: tuple[type[SessionTool], ...] = (
    RunCodeTool,
    RunCommandTool,
    UploadFileTool,
    ListFilesTool,
    ReadFileTool,
    ListRunStepsTool,
    GetRunStepTool,
)
"""Every tool, in the order in which models get them."""

_ALL = 100_000
"""Files that the host lists at once."""

_CHUNK = 1 << 20
"""Bytes of a local file that are read at once."""


class CodeInterpreterToolkit(BaseToolkit):
    """Tools that run code in stateful sessions, one for each thread of conversation.

    Make one by `local` or `connect`, keep it as long as your program uses it, and close it: it is a
    context manager, sync and async. Without either it is a local one. Its tools may be used in any
    number of agents, threads and event loops at once. Nothing starts before the first call.
    """

    images: Images = "auto"
    """Where images of results go. `auto` goes by `model`; the middleware by the model it wraps."""

    model: Any = None
    """The chat model that gets these tools, if known; only its `profile` is read."""

    _access: Access = PrivateAttr()

    @classmethod
    def local(
        cls,
        settings: "Settings | None" = None,
        *,
        backend: "KernelBackend | None" = None,
        principal: str | None = None,
        images: Images = "auto",
        model: object = None,
    ) -> Self:
        """Make a toolkit whose sessions run on this machine, in a sandbox where there is one.

        Without settings they are read from `CI_TOOLS_…` variables, as by every other part.
        """
        toolkit = cls(images=images, model=model)
        toolkit._access = _open_local(settings, backend, principal)
        return toolkit

    @classmethod
    def connect(
        cls, url: str, token: str, *, images: Images = "auto", model: object = None
    ) -> Self:
        """Make a toolkit whose sessions run on a shared `ci-tools serve`.

        The token says whose they are; `ci-tools token create` makes one.

        Raises:
            ConfigurationError: The address or the token cannot be one.
        """
        from ci_tools_client.addresses import check_token, to_base  # what `local` does not need

        to_base(url)
        check_token(token)

        def opener() -> Any:
            from ci_tools_client import open_client  # it loads an HTTP client

            return open_client(url, token)

        toolkit = cls(images=images, model=model)
        toolkit._access = _open_access(opener, is_shared=True)
        return toolkit

    def model_post_init(self, context: Any) -> None:
        """Let a toolkit that is made without a word be a local one."""
        self._access = _open_local(None, None, None)

    def act_as(self, principal: str) -> Self:
        """Return a toolkit for another principal, over the same local service.

        Sessions, files and steps of one principal do not exist for another. Whoever calls this has
        checked who asks. Close only the first toolkit.

        Raises:
            TypeError: The service is a shared one: there the token is the principal.
        """
        other = self.model_copy()
        other._access = self._access.act_as(principal)
        return other

    @property
    def access(self) -> Access:
        """The way to the sessions, for what is built on them."""
        return self._access

    @property
    def connection(self) -> "Connection":
        """The connection that all of it shares."""
        return self._access.connection

    def get_tools(self, *names: str, session_id: str | None = None) -> list[BaseTool]:
        """Return the tools with these names, or all of them.

        They work in the session of the thread that the run's configuration names
        (`configurable.thread_id`), or in the given one.

        Raises:
            ValueError: There is no such tool.
        """
        return [*self.make_tools(*names, session_id=session_id)]

    def make_tools(
        self,
        *names: str,
        session_id: str | None = None,
        images: Images | None = None,
        model: object = None,
    ) -> list[SessionTool]:
        """Return tools for another place of images, or another model, than the toolkit's own."""
        known: dict[str, Callable[..., SessionTool]] = {
            tool.model_fields["name"].default: tool for tool in _TOOLS
        }
        if unknown := set(names) - set(known):
            raise ValueError(
                f"There is no tool {', '.join(sorted(unknown))}; there are: {', '.join(known)}."
            )
        model = self.model if model is None else model
        placement = find_placement(self.images if images is None else images, model)
        return [
            make(
                access=self._access,
                session_id=session_id,
                images=placement != "none",
                files=takes_pdf(model),
            )
            for name, make in known.items()
            if not names or name in names
        ]

    # The host's side

    def session(self, thread: str | RunnableConfig | None = None) -> Session:
        """Return a thread's session, making it if there is none."""
        return self._access.call(self._where(thread), _get_session)

    async def asession(self, thread: str | RunnableConfig | None = None) -> Session:
        """Return a thread's session, making it if there is none."""
        return await self._access.acall(self._where(thread), _get_session)

    def upload_file(
        self, path: str, content: bytes | str | Path, thread: str | RunnableConfig | None = None
    ) -> File:
        """Put a file into a thread's /mnt/data: bytes, text, or a file of this machine."""
        return self._access.call(self._where(thread), _upload(path, content))

    async def aupload_file(
        self, path: str, content: bytes | str | Path, thread: str | RunnableConfig | None = None
    ) -> File:
        """Put a file into a thread's /mnt/data: bytes, text, or a file of this machine."""
        return await self._access.acall(self._where(thread), _upload(path, content))

    def download_file(self, path: str, thread: str | RunnableConfig | None = None) -> bytes:
        """Return the bytes of a file in a thread's /mnt/data."""
        return self._access.call(self._where(thread), _download(path))

    async def adownload_file(self, path: str, thread: str | RunnableConfig | None = None) -> bytes:
        """Return the bytes of a file in a thread's /mnt/data."""
        return await self._access.acall(self._where(thread), _download(path))

    def list_files(self, thread: str | RunnableConfig | None = None) -> list[File]:
        """List the files in a thread's /mnt/data."""
        return self._access.call(self._where(thread), _list_files)

    async def alist_files(self, thread: str | RunnableConfig | None = None) -> list[File]:
        """List the files in a thread's /mnt/data."""
        return await self._access.acall(self._where(thread), _list_files)

    def interrupt(self, thread: str | RunnableConfig | None = None) -> RunStep | None:
        """Stop the code that runs in a thread's session; return its step, None if none runs.

        Variables stay, and the call that waits for the code is answered. For buttons and signals:
        a run that is cancelled does this itself.
        """
        return self._access.call(self._where(thread), _interrupt)

    async def ainterrupt(self, thread: str | RunnableConfig | None = None) -> RunStep | None:
        """Stop the code that runs in a thread's session; return its step, None if none runs.

        Variables stay, and the call that waits for the code is answered. For buttons and signals:
        a run that is cancelled does this itself.
        """
        return await self._access.acall(self._where(thread), _interrupt)

    def close(self) -> None:
        """End the thread, and the service in it; running code is interrupted."""
        self.connection.close()

    async def aclose(self) -> None:
        """End the thread, and the service in it; running code is interrupted."""
        await self.connection.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _where(self, thread: str | RunnableConfig | None) -> Where:
        if isinstance(thread, dict):
            thread = find_thread(thread, None)
        return self._access.fallback if thread is None else Where(thread=thread)


def _open_local(
    settings: "Settings | None", backend: "KernelBackend | None", principal: str | None
) -> Access:
    def opener() -> Any:
        from ci_tools import open_service  # it loads the service, which is large

        return open_service(settings, backend=backend)

    return _open_access(opener, principal=principal)


def _open_access(
    opener: "Opener", *, principal: str | None = None, is_shared: bool = False
) -> Access:
    from langchain_ci_tools.connection import Connection  # it loads an event loop

    return Access(Connection(opener), principal=principal, is_shared=is_shared)


async def _get_session(service: SessionAPI, found: Found, put: Put) -> Session:
    return await service.get_session(found.id)


async def _list_files(service: SessionAPI, found: Found, put: Put) -> list[File]:
    return await service.list_files(found.id, limit=_ALL)


async def _interrupt(service: SessionAPI, found: Found, put: Put) -> RunStep | None:
    return await service.interrupt_session(found.id)


def _upload(path: str, content: bytes | str | Path) -> Action[File]:
    data = content.encode() if isinstance(content, str) else content

    async def action(service: SessionAPI, found: Found, put: Put) -> File:
        source = _read_local(data) if isinstance(data, Path) else data
        return await service.upload_file(found.id, path, source)

    return action


async def _read_local(path: Path) -> AsyncIterator[bytes]:
    from anyio import open_file  # with an event loop

    async with await open_file(path, "rb") as opened:
        while chunk := await opened.read(_CHUNK):
            yield chunk


def _download(path: str) -> Action[bytes]:
    async def action(service: SessionAPI, found: Found, put: Put) -> bytes:
        async with service.open_file(found.id, path) as chunks:
            return b"".join([chunk async for chunk in chunks])

    return action
