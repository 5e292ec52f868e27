"""`SessionSandbox`: a thread's session as a sandbox of deepagents.

deepagents brings its own tools for files and commands, and this is where they work. Beside it put
`CodeInterpreterMiddleware` over the same toolkit: its `run_code` has state and images, in the same
session and with the same /mnt/data. Nothing here raises what a session can fail with: deepagents
answers a model with what is returned, and ends the agent's run with what is raised.
"""

import json
import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
from deepagents.backends.protocol import (
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.runnables import ensure_config

from ci_tools.errors import CIToolsError, InvalidPathError, NotFoundError
from ci_tools.models import CommandOutput, new_id
from ci_tools.paths import MOUNT
from langchain_ci_tools.access import Action
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.failures import explain
from langchain_ci_tools.sessions import LOST, Found, Where
from langchain_ci_tools.toolkit import CodeInterpreterToolkit

T = TypeVar("T")

_TIMEOUT = 120
"""Seconds that a command may run if its caller names no limit."""

_TIMEOUT_MAX = 3600
"""Seconds that stand for no limit."""

_OUTPUT = 2_000_000
"""Bytes of output that are kept; deepagents asks for 500 KiB uncut, and wraps some in base64."""

_COMMAND = 100_000
"""Bytes of a command that are sent as they are; deepagents puts what it edits into commands."""

_TIMED_OUT = 124
"""The exit code of commands whose time was up, as of `timeout`."""

_PASSING = ".passing-"
"""How the names of files begin that are on their way to or from a place outside /mnt/data."""

_CLEAN_UP = 10.0
"""Seconds in which such a file is removed."""

_IS_DIRECTORY = 21
"""The exit code of `_MOVE` where a folder is in the way."""

_MOVE = """\
[ ! -d {target} ] || exit {is_directory}
mkdir -p "$(dirname {target})" && mv -f {source} {target}"""
"""Moves a file to its place."""

_LOOK = """\
for path in {paths}; do
  if [ -d "$path" ]; then echo is_directory
  elif [ ! -e "$path" ]; then echo file_not_found
  elif [ ! -f "$path" ]; then echo invalid_path
  elif [ ! -r "$path" ]; then echo permission_denied
  else echo ok; fi
done"""
"""Says of each path whether it can be read; what is no file, such as a pipe, could block."""


class SessionSandbox(BaseSandbox):
    """The shell and the files of a thread's session, or of the session with a given id.

    In an agent the thread is that of the run, so that one sandbox serves all threads. Paths are
    absolute. /mnt/data is kept with the session; what is elsewhere, such as /tmp, is gone with the
    session's kernel. It needs sessions that run in a sandbox: elsewhere /mnt/data does not exist.
    """

    def __init__(
        self,
        toolkit: CodeInterpreterToolkit,
        *,
        thread: str | None = None,
        session_id: str | None = None,
        timeout: int = _TIMEOUT,
    ) -> None:
        """Take the session from the toolkit; `timeout` is in seconds, for each command."""
        self._access = toolkit.access
        self._thread = thread
        self._session_id = session_id
        self._timeout = timeout

    @property
    def id(self) -> str:
        """The session's id if one is given, or else the thread's."""
        where = self._where()
        return where.session_id or where.thread

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command in /mnt/data; it does not wait for code that is running."""
        return self._call(_execute(command, self._seconds(timeout)), _refuse)

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command in /mnt/data; it does not wait for code that is running."""
        return await self._acall(_execute(command, self._seconds(timeout)), _refuse)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files, with the folders they need."""
        return self._call(_upload(files), _refuse_uploads(files))

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files, with the folders they need."""
        return await self._acall(_upload(files), _refuse_uploads(files))

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files whole."""
        return self._call(_download(paths), _refuse_downloads(paths))

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files whole."""
        return await self._acall(_download(paths), _refuse_downloads(paths))

    def _call(self, action: Action[T], refuse: Callable[[str], T]) -> T:
        try:
            return self._access.call(self._where(), action)
        except Exception as error:  # noqa: BLE001 - `explain` logs it; an agent must not end by it
            return refuse(explain(error))

    async def _acall(self, action: Action[T], refuse: Callable[[str], T]) -> T:
        try:
            return await self._access.acall(self._where(), action)
        except Exception as error:  # noqa: BLE001 - `explain` logs it; an agent must not end by it
            return refuse(explain(error))

    def _where(self) -> Where:
        if self._session_id is not None:
            return Where(session_id=self._session_id)
        if self._thread is not None:
            return Where(thread=self._thread)
        return self._access.find_where(ensure_config()) or self._access.fallback

    def _seconds(self, timeout: int | None) -> int:
        return self._timeout if timeout is None else timeout or _TIMEOUT_MAX


def _refuse(text: str) -> ExecuteResponse:
    """Return that a command did not run.

    deepagents makes its other operations of commands, and looks for their errors in this form.
    """
    return ExecuteResponse(output=json.dumps({"error": text}, ensure_ascii=False), exit_code=None)


def _refuse_uploads(
    files: Sequence[tuple[str, bytes]],
) -> Callable[[str], list[FileUploadResponse]]:
    return lambda text: [FileUploadResponse(path=path, error=text) for path, _ in files]


def _refuse_downloads(paths: Sequence[str]) -> Callable[[str], list[FileDownloadResponse]]:
    return lambda text: [FileDownloadResponse(path=path, error=text) for path in paths]


def _execute(command: str, timeout: int) -> Action[ExecuteResponse]:
    async def action(service: SessionAPI, found: Found, put: Put) -> ExecuteResponse:
        done = await _run(service, found, command, timeout)
        if found.is_new:
            done.output = f"[{LOST}]\n{done.output}"
        return done

    return action


async def _run(
    service: SessionAPI, found: Found, command: str, timeout: int = _TIMEOUT
) -> ExecuteResponse:
    script = command.encode(errors="replace")
    if len(script) <= _COMMAND:
        return await _run_short(service, found, script.decode(), timeout)
    async with _pass_file(service, found) as passing:
        await service.upload_file(found.id, passing, script)
        return await _run_short(service, found, f'eval "$(cat {passing})"', timeout)


async def _run_short(
    service: SessionAPI, found: Found, command: str, timeout: int
) -> ExecuteResponse:
    texts: list[str] = []
    async with service.stream_command(
        found.id, command, timeout=timeout, output_limit=_OUTPUT
    ) as events:
        async for event in events:
            if isinstance(event, CommandOutput):
                texts.append(event.text)
                continue
            if event.timed_out:
                texts.append(f"\n[Ended after {timeout} s.]")
            return ExecuteResponse(
                output="".join(texts),
                exit_code=_TIMED_OUT if event.timed_out else event.exit_status,
                truncated=event.truncated,
            )
    return ExecuteResponse(output="".join(texts), exit_code=None)


@asynccontextmanager
async def _pass_file(service: SessionAPI, found: Found) -> AsyncIterator[str]:
    """Yield a path in /mnt/data for a file on its way; it is removed in the end."""
    path = f"{MOUNT}/{new_id(_PASSING)}"
    try:
        yield path
    finally:
        with anyio.move_on_after(_CLEAN_UP, shield=True), suppress(CIToolsError):
            await _run_short(service, found, f"rm -f {path}", _TIMEOUT)


def _upload(files: Sequence[tuple[str, bytes]]) -> Action[list[FileUploadResponse]]:
    async def action(service: SessionAPI, found: Found, put: Put) -> list[FileUploadResponse]:
        return [
            FileUploadResponse(path=path, error=await _write(service, found, path, data))
            for path, data in files
        ]

    return action


async def _write(service: SessionAPI, found: Found, path: str, data: bytes) -> str | None:
    """Write a file; return what is wrong, if anything is."""
    if not path.startswith("/"):
        return "invalid_path"
    try:
        if _is_inside(path):
            await service.upload_file(found.id, path, data)
            return None
        async with _pass_file(service, found) as passing:
            await service.upload_file(found.id, passing, data)
            move = _MOVE.format(
                source=passing, target=shlex.quote(path), is_directory=_IS_DIRECTORY
            )
            done = await _run(service, found, move)
    except CIToolsError as error:
        return _to_error(error)
    if done.exit_code == _IS_DIRECTORY:
        return "is_directory"
    return None if done.exit_code == 0 else "permission_denied"


def _download(paths: Sequence[str]) -> Action[list[FileDownloadResponse]]:
    async def action(service: SessionAPI, found: Found, put: Put) -> list[FileDownloadResponse]:
        absolute = [path for path in paths if path.startswith("/")]
        states: dict[str, str] = {}
        if absolute:
            look = _LOOK.format(paths=" ".join(shlex.quote(path) for path in absolute))
            looked = await _run(service, found, look)
            if looked.exit_code != 0:
                states = dict.fromkeys(absolute, looked.output)
            else:
                states = dict(zip(absolute, looked.output.split(), strict=True))
        return [
            await _read(service, found, path, states.get(path, "invalid_path")) for path in paths
        ]

    return action


async def _read(service: SessionAPI, found: Found, path: str, state: str) -> FileDownloadResponse:
    if state != "ok":
        return FileDownloadResponse(path=path, error=state)
    try:
        return FileDownloadResponse(path=path, content=await _fetch(service, found, path))
    except CIToolsError as error:
        return FileDownloadResponse(path=path, error=_to_error(error))


async def _fetch(service: SessionAPI, found: Found, path: str) -> bytes:
    if _is_inside(path):
        # What the service refuses to follow or to name, the sandbox itself can still read.
        with suppress(NotFoundError, InvalidPathError):
            return await _read_whole(service, found, path)
    async with _pass_file(service, found) as passing:
        await _run(service, found, f"cp -- {shlex.quote(path)} {passing}")
        return await _read_whole(service, found, passing)


async def _read_whole(service: SessionAPI, found: Found, path: str) -> bytes:
    async with service.open_file(found.id, path) as chunks:
        return b"".join([chunk async for chunk in chunks])


def _is_inside(path: str) -> bool:
    return path.startswith(MOUNT + "/")


def _to_error(error: CIToolsError) -> str:
    """Return what deepagents calls an error; raise one that a new session can mend."""
    if isinstance(error, NotFoundError):
        if error.kind == "session":
            raise error
        return "file_not_found"
    return "invalid_path" if isinstance(error, InvalidPathError) else explain(error)
