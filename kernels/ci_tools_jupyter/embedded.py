"""The embedded Jupyter Server, as its parent sees it: starting it, finding it, ending it.

Each service process has its own, which ends with it. While it lives, `run/<id>.json` in the state
directory tells other service processes of the same user how to reach it.
"""

import errno
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from ci_tools.errors import ConfigurationError, KernelLostError, ServerUnavailableError
from ci_tools_jupyter.sandbox import EmbeddedKernels
from ci_tools_jupyter.server import JupyterServer, ServerAddress

logger = logging.getLogger(__name__)

PREFIX = "embedded:"
"""What `KernelRef.server` begins with for kernels on an embedded server."""

NAME = "The embedded Jupyter Server"

SOCKET_PATH_LIMIT = 100
"""Bytes of a unix socket's path; macOS takes 104, Linux 108."""

_SOCKET_NAME, _KERNEL_SOCKET_NAME = 2, 46
"""Bytes of the socket's path below its folder: the server's own, and those of sandboxed kernels."""

START_TIMEOUT = 60.0
"""Seconds that the server may take to start."""

STOP_TIMEOUT = 5.0
"""Seconds that the server has to end itself and its kernels."""

_HIDDEN_VARIABLES = ("CI_TOOLS_", "JUPYTERHUB_", "JPY_")
"""Variables that the server and its kernels do not inherit: our secrets and others' servers."""

_HIDDEN_NAMES = frozenset(
    {
        "MPLBACKEND",
        "JUPYTER_TOKEN",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_CONFIG_PATH",
        "JUPYTER_NO_CONFIG",
    }
)

_SHORT_FOLDER = "ci-tools-"
"""What the names of folders begin with that hold the sockets where the server's own is too long."""

_HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX") and sys.platform != "win32"


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where the files of one embedded server are."""

    run: Path
    id: str

    @property
    def folder(self) -> Path:
        return self.run / self.id

    @property
    def record(self) -> Path:
        return self.run / f"{self.id}.json"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


class EmbeddedServer:
    """The embedded server of this process, started on first need."""

    def __init__(self, state_dir: Path, *, kernels: EmbeddedKernels, cull_after: float) -> None:
        self._state_dir = state_dir
        self._kernels = kernels
        self._cull_after = cull_after
        self._lock = anyio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._server: JupyterServer | None = None
        self._files: _Files | None = None
        self._socket_folder: str | None = None
        self.preparation: str | None = None
        """What the first start waits for, while that takes minutes."""

    @property
    def id(self) -> str | None:
        """Its id, if it has been started."""
        return self._files.id if self._files else None

    async def get(self) -> JupyterServer:
        """Return the server, started if it does not run.

        Raises:
            ServerUnavailableError: It did not start; the message says where its log is.
        """
        async with self._lock:
            if self._server is not None and self._has_ended():
                logger.warning("the embedded server %s has ended", self.id)
                await self._stop()
            if self._server is None:
                self._server = await self._start()
            return self._server

    def find(self, server_id: str) -> JupyterServer | None:
        """Return the server if it has that id.

        Raises:
            KernelLostError: It has, and has ended.
        """
        if self._server is None or self.id != server_id:
            return None
        if self._has_ended():
            raise KernelLostError(f"{NAME} {server_id} has ended, and its kernels with it.")
        return self._server

    async def aclose(self) -> None:
        """End the server and every process below it."""
        async with self._lock:
            await self._stop()

    def _report(self, doing: str) -> None:
        self.preparation = (
            "The environment for kernels is being built, which is done once and takes some "
            f"minutes. Now: {doing}"
        )

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def _start(self) -> JupyterServer:
        files = _Files(run=self._state_dir / "run", id=secrets.token_hex(6))
        self._files = files
        for folder in (self._state_dir / "sessions", files.run, files.folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_stale_records(files.run)
        _check_neighbours(files.run, sandboxed=self._kernels.sandboxed)
        try:
            python = await self._kernels.find_python(self._state_dir, report=self._report)
        finally:
            self.preparation = None
        sockets = self._make_socket_folder(files)
        options: dict[str, Any] = {
            **self._kernels.to_options(python),
            "parent": os.getpid(),
            "folder": str(files.folder),
            "root": str(self._state_dir / "sessions"),
            "sockets": sockets,
            "socket": os.path.join(sockets, "s") if _HAS_UNIX_SOCKETS else None,
            "token": secrets.token_urlsafe(32),
            "cull_after": self._cull_after,
        }
        started = False
        try:
            self._process = _spawn(files, options)
            answer = await self._wait_until_ready(files)
            started = True
        finally:
            if not started:
                with anyio.CancelScope(shield=True):
                    await self._stop()
        address = _to_address(files.id, options["socket"], answer.get("port"), options["token"])
        _write_record(files, address, sandboxed=self._kernels.sandboxed)
        logger.info("the embedded server %s has started", files.id)
        return JupyterServer(address, has_ended=self._has_ended)

    async def _wait_until_ready(self, files: _Files) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdout is not None
        line = b""
        with anyio.move_on_after(START_TIMEOUT):
            line = await anyio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        if not line:
            raise ServerUnavailableError(
                f"{NAME} did not start. Its last words: {_read_last_line(files.log)}"
            )
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def _make_socket_folder(self, files: _Files) -> str:
        room = _KERNEL_SOCKET_NAME if self._kernels.sandboxed else _SOCKET_NAME
        path = str(files.folder)
        if len(os.fsencode(path)) + room <= SOCKET_PATH_LIMIT:
            return path
        self._socket_folder = tempfile.mkdtemp(prefix=_SHORT_FOLDER)  # mode 0700
        return self._socket_folder

    async def _stop(self) -> None:
        process, self._process = self._process, None
        server, self._server = self._server, None
        if server is not None:
            await server.aclose()
        if process is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_end_process, process)
        if self._files is not None:
            _remove_files(self._files)
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None


def find_server(state_dir: Path, server_id: str) -> JupyterServer:
    """Return the embedded server of another service process with the same state directory.

    Raises:
        KernelLostError: It has ended, and its kernels with it.
    """
    files = _Files(run=state_dir / "run", id=server_id)
    address = _read_record(files)
    if address is None or not _answers(address):
        raise KernelLostError(
            f"The embedded Jupyter Server {server_id} has ended, and its kernels with it."
        )
    return JupyterServer(address, has_ended=lambda: not _answers(address))


def is_sandboxed(state_dir: Path, server_id: str) -> bool | None:
    """Tell whether another process's embedded server has a sandbox; None if it does not say."""
    try:
        record = json.loads((state_dir / "run" / f"{server_id}.json").read_text(encoding="utf-8"))
        return bool(record["sandboxed"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_neighbours(run: Path, *, sandboxed: bool) -> None:
    """Refuse to run beside services whose kernels see their folders elsewhere than ours would."""
    for record in run.glob("*.json"):
        if is_sandboxed(run.parent, record.stem) not in (None, sandboxed):
            raise ConfigurationError(
                f"Another service with the state directory {run.parent} runs code"
                f" {'without a' if sandboxed else 'in a'} sandbox, and they would use each other's"
                " sessions. Set the same CI_TOOLS_ISOLATION for both, or another"
                " CI_TOOLS_STATE_DIR."
            )


def remove_stale_records(run: Path) -> None:
    """Remove what embedded servers have left that were killed."""
    for record in run.glob("*.json"):
        files = _Files(run=run, id=record.stem)
        address = _read_record(files)
        if address is None or not _answers(address):
            logger.info("removing what the embedded server %s has left", files.id)
            _remove_files(files)
            if address is not None and address.socket_path is not None:
                folder = Path(address.socket_path).parent
                if folder.name.startswith(_SHORT_FOLDER):
                    shutil.rmtree(folder, ignore_errors=True)


def _spawn(files: _Files, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_HIDDEN_VARIABLES) and name not in _HIDDEN_NAMES
    }
    log = os.open(files.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ci_tools_jupyter.embedded_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=options["root"],
            env=variables,
            start_new_session=True,  # a Ctrl-C in the terminal is for us to handle
        )
    finally:
        os.close(log)
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(options).encode() + b"\n")
        process.stdin.flush()
    return process


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which ends the server; kill it if it does not."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _remove_files(files: _Files) -> None:
    with suppress(OSError):
        files.record.unlink()
    shutil.rmtree(files.folder, ignore_errors=True)


def _to_address(
    server_id: str, socket_path: str | None, port: int | None, token: str
) -> ServerAddress:
    host = "localhost" if socket_path is not None else f"127.0.0.1:{port}"
    return ServerAddress(
        name=f"{NAME} {server_id}", url=f"http://{host}/", token=token, socket_path=socket_path
    )


def _write_record(files: _Files, address: ServerAddress, *, sandboxed: bool) -> None:
    record = {
        "id": files.id,
        "pid": os.getpid(),
        "url": address.url,
        "socket": address.socket_path,
        "token": address.token,
        "sandboxed": sandboxed,
    }
    part = files.folder / "record"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(part, files.record)


def _read_record(files: _Files) -> ServerAddress | None:
    try:
        record = json.loads(files.record.read_text(encoding="utf-8"))
        return ServerAddress(
            name=f"{NAME} {files.id}",
            url=str(record["url"]),
            token=str(record["token"]),
            socket_path=None if record["socket"] is None else str(record["socket"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answers(address: ServerAddress) -> bool:
    """Tell whether anybody listens at an address of this machine."""
    if address.socket_path is not None:
        connection = socket.socket(socket.AF_UNIX)
        target: Any = address.socket_path
    else:
        connection = socket.socket(socket.AF_INET)
        target = ("127.0.0.1", int(address.url.rstrip("/").rpartition(":")[2]))
    with connection:
        connection.settimeout(1.0)
        try:
            connection.connect(target)
        except OSError as exc:
            return exc.errno not in (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTSOCK)
    return True


def _read_last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1][:300]
    return "none."
