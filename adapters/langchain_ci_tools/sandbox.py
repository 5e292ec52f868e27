"""`SessionSandbox`: a thread's session as a sandbox of deepagents.

deepagents brings its own tools for files and commands, and this is where they work. Beside it put
`CodeInterpreterMiddleware` over the same toolkit: its `run_code` has state and images, in the same
session and with the same /mnt/data.
"""

import shlex
from collections.abc import Sequence

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
from langchain_ci_tools.sessions import Found, Where, find_thread
from langchain_ci_tools.toolkit import CodeInterpreterToolkit

_TIMEOUT = 120
"""Seconds that a command may run if its caller names no limit."""

_TIMEOUT_MAX = 3600
"""Seconds that stand for no limit."""

_OUTPUT = 2_000_000
"""Bytes of output that are kept; deepagents asks for 500 KiB uncut, and wraps some in base64."""

_TIMED_OUT = 124
"""The exit code of commands whose time was up, as of `timeout`."""

_PASSING = ".passing-"
"""How the names of files begin that are on their way to or from a place outside /mnt/data."""

_LOOK = """\
for path in {paths}; do
  if [ -d "$path" ]; then echo is_directory
  elif [ ! -e "$path" ]; then echo file_not_found
  elif [ ! -r "$path" ]; then echo permission_denied
  else echo ok; fi
done"""
"""Says of each path whether it can be read."""


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
        return self._session_id or self._where().thread

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command in /mnt/data; it does not wait for code that is running."""
        return self._access.call(self._where(), _execute(command, self._seconds(timeout)))

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command in /mnt/data; it does not wait for code that is running."""
        action = _execute(command, self._seconds(timeout))
        return await self._access.acall(self._where(), action)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files, with the folders they need."""
        return self._access.call(self._where(), _upload(files))

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files, with the folders they need."""
        return await self._access.acall(self._where(), _upload(files))

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files whole."""
        return self._access.call(self._where(), _download(paths))

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files whole."""
        return await self._access.acall(self._where(), _download(paths))

    def _where(self) -> Where:
        if self._session_id is not None:
            return Where(session_id=self._session_id)
        thread = self._thread or find_thread(ensure_config(), None)
        return Where(thread=self._access.fallback if thread is None else thread)

    def _seconds(self, timeout: int | None) -> int:
        return self._timeout if timeout is None else timeout or _TIMEOUT_MAX


def _execute(command: str, timeout: int) -> Action[ExecuteResponse]:
    async def action(service: SessionAPI, found: Found, put: Put) -> ExecuteResponse:
        try:
            return await _run(service, found, command, timeout)
        except NotFoundError:
            raise
        except CIToolsError as error:
            # An agent must hear of it, not end by it.
            return ExecuteResponse(output=f"Error: {explain(error)}", exit_code=None)

    return action


async def _run(
    service: SessionAPI, found: Found, command: str, timeout: int = _TIMEOUT
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
    inside = _is_inside(path)
    passing = path if inside else f"{MOUNT}/{new_id(_PASSING)}"
    try:
        await service.upload_file(found.id, passing, data)
        if inside:
            return None
        source, target = shlex.quote(passing), shlex.quote(path)
        make = f'mkdir -p "$(dirname {target})"'
        move = f"{make} && mv -f {source} {target} || {{ rm -f {source}; exit 1; }}"
        done = await _run(service, found, move)
    except CIToolsError as error:
        return _to_error(error)
    return None if done.exit_code == 0 else "permission_denied"


def _download(paths: Sequence[str]) -> Action[list[FileDownloadResponse]]:
    async def action(service: SessionAPI, found: Found, put: Put) -> list[FileDownloadResponse]:
        absolute = [path for path in paths if path.startswith("/")]
        states: dict[str, str] = {}
        if absolute:
            look = _LOOK.format(paths=" ".join(shlex.quote(path) for path in absolute))
            try:
                looked = await _run(service, found, look)
            except NotFoundError:
                raise
            except CIToolsError as error:
                states = dict.fromkeys(absolute, _to_error(error))
            else:
                states = dict(zip(absolute, looked.output.split(), strict=False))
        return [
            await _read(service, found, path, states.get(path, "invalid_path")) for path in paths
        ]

    return action


async def _read(service: SessionAPI, found: Found, path: str, state: str) -> FileDownloadResponse:
    if state != "ok":
        return FileDownloadResponse(path=path, error=state)
    inside = _is_inside(path)
    passing = path if inside else f"{MOUNT}/{new_id(_PASSING)}"
    source, target = shlex.quote(path), shlex.quote(passing)
    try:
        if not inside:
            await _run(service, found, f"cp -- {source} {target}")
        async with service.open_file(found.id, passing) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        if not inside:
            await _run(service, found, f"rm -f {target}")
    except CIToolsError as error:
        return FileDownloadResponse(path=path, error=_to_error(error))
    return FileDownloadResponse(path=path, content=data)


def _is_inside(path: str) -> bool:
    return path.startswith(MOUNT + "/")


def _to_error(error: CIToolsError) -> str:
    """Return what deepagents calls an error; raise one that a new session can mend."""
    if isinstance(error, NotFoundError):
        if error.kind == "session":
            raise error
        return "file_not_found"
    return "invalid_path" if isinstance(error, InvalidPathError) else explain(error)
