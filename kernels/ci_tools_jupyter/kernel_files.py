"""A session's folder through its kernel: where the server has no file API, and for large uploads.

How this works: `kernel_side.py`, installed in the kernel when it started, answers comm messages.
File bytes travel as raw buffers in blocks of 4 MB, ten times faster than as text in code and four
times faster than through the contents API. This needs a Python kernel that is idle.
"""

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from anyio import to_thread

from ci_tools.errors import BackendError, InvalidPathError, NotFoundError
from ci_tools.kernel import FileStat
from ci_tools.workspace import check_path
from ci_tools_jupyter.events import to_file_stats
from ci_tools_jupyter.exchange import Inquiry
from ci_tools_jupyter.greeting import HELLO
from ci_tools_jupyter.kernel import JupyterKernel
from ci_tools_jupyter.kernel_side import COMM_TARGET
from ci_tools_jupyter.remote import ask
from ci_tools_jupyter.wire import Message

BLOCK = 4 << 20
"""Bytes of a file in one message; servers close connections on messages above 10 MiB."""

WINDOW = 3
"""Messages with blocks that are under way together."""

STALL_TIMEOUT = 30.0
"""Seconds without an answer after which a file goes another way, where there is one."""

UNKNOWN_ROOT = "/mnt/data"
"""What code is told to use while the kernel has not said where the folder really is."""

CLEANUP_GRACE = 5.0
"""Seconds to remove what a failed upload has left."""


class KernelWorkspace:
    """A session's folder; implements `ci_tools.kernel.Workspace`."""

    def __init__(self, kernel: JupyterKernel, *, language: str, waits: bool = True) -> None:
        """`waits` tells whether to wait for a busy kernel before a file is written."""
        self.root = UNKNOWN_ROOT
        self._waits = waits
        self._kernel = kernel
        self._language = language
        self._comm_id: str | None = None

    async def open(self) -> None:
        """Learn where the folder is, if the kernel is idle."""
        self.root = await ask(self._kernel, HELLO) or UNKNOWN_ROOT

    async def list_files(self, *, limit: int) -> Sequence[FileStat]:
        """List the regular files, recursively, sorted by path; at most `limit`."""
        rows, _ = await self._do("", {"do": "list", "limit": limit})
        return to_file_stats(rows) or ()

    async def stat(self, path: str) -> FileStat:
        """Describe one regular file."""
        path = check_path(path)
        row, _ = await self._do(path, {"do": "stat", "path": path})
        stats = to_file_stats([row])
        if stats is None:
            raise _unusable()
        return stats[0]

    async def sha256(self, path: str) -> str | None:
        """Return the file's SHA-256 in hex, computed in the kernel."""
        path = check_path(path)
        digest, _ = await self._do(path, {"do": "sha256", "path": path})
        if not isinstance(digest, str):
            raise _unusable()
        return digest

    @asynccontextmanager
    async def open_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        stat = await self.stat(path)
        end = stat.size if length is None else min(stat.size, offset + length)
        yield self._read(stat.path, offset, end)

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, source: Path | None = None
    ) -> None:
        """Write a file whole, creating its folders; it appears under its name only when complete.

        `source` is read in place of `chunks`, if given: that is faster.
        """
        path = check_path(path)
        if not self._waits and await ask(self._kernel, HELLO) is None:
            raise _busy()
        part, _ = await self._do(path, {"do": "begin", "path": path})
        try:
            async with aclosing(_in_blocks(chunks) if source is None else _read(source)) as blocks:
                digest = await self._append(path, part, blocks)
            await self._do(path, {"do": "commit", "part": part, "sha256": digest})
        except BaseException:
            with anyio.move_on_after(CLEANUP_GRACE, shield=True), suppress(BackendError):
                await self._do(path, {"do": "abort", "part": part})
            raise

    async def _append(self, path: str, part: Any, blocks: AsyncIterator[bytes]) -> str:
        """Send blocks, a few of them ahead of the kernel's answers, and return their SHA-256."""
        digest = hashlib.sha256()
        sent: deque[Inquiry] = deque()
        try:
            async for block in blocks:
                sent.append(await self._begin({"do": "append", "part": part}, (block,)))
                # In a thread, which needs no lock of Python's for it: the block goes out meanwhile.
                await to_thread.run_sync(digest.update, block)
                if len(sent) == WINDOW:
                    _to_answer(path, await self._take(sent.popleft()))
            while sent:
                _to_answer(path, await self._take(sent.popleft()))
        finally:
            for inquiry in sent:
                self._kernel.forget_inquiry(inquiry)
        return digest.hexdigest()

    async def delete(self, path: str) -> None:
        """Delete one regular file."""
        path = check_path(path)
        await self._do(path, {"do": "delete", "path": path})

    async def _read(self, path: str, offset: int, end: int) -> AsyncIterator[bytes]:
        while offset < end:
            wanted = min(BLOCK, end - offset)
            request = {"do": "read", "path": path, "offset": offset, "length": wanted}
            _, buffers = await self._do(path, request)
            block = b"".join(buffers)
            if not block or len(block) > wanted:
                return
            yield block
            offset += len(block)

    async def _do(
        self, path: str, request: dict[str, Any], buffers: tuple[bytes, ...] = ()
    ) -> tuple[Any, tuple[bytes, ...]]:
        """Let the kernel do something with a file and return its answer."""
        return _to_answer(path, await self._take(await self._begin(request, buffers)))

    async def _take(self, inquiry: Inquiry) -> list[Message]:
        try:
            with anyio.move_on_after(None if self._waits else STALL_TIMEOUT):
                return await inquiry.wait()
        finally:
            self._kernel.forget_inquiry(inquiry)
        raise _busy()

    async def _begin(self, request: dict[str, Any], buffers: tuple[bytes, ...]) -> Inquiry:
        """Send the kernel a request."""
        if self._language != "python":
            raise BackendError(
                f"Files need a Python kernel on this server, which has no file API; this session's"
                f" kernel runs {self._language or 'another language'}."
            )
        if self._comm_id is None:
            comm_id = uuid4().hex
            target = {"comm_id": comm_id, "target_name": COMM_TARGET, "data": {}}
            await self._kernel.inquire("comm_open", target)
            self._comm_id = comm_id
        content = {"comm_id": self._comm_id, "data": request}
        return await self._kernel.begin_inquiry("comm_msg", content, buffers=buffers)


async def _read(source: Path) -> AsyncGenerator[bytes, None]:
    async with await anyio.open_file(source, "rb", buffering=0) as file:
        while block := await file.read(BLOCK):
            yield block


async def _in_blocks(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= BLOCK:
            yield bytes(buffer[:BLOCK])
            del buffer[:BLOCK]
    if buffer:
        yield bytes(buffer)


def _to_answer(path: str, messages: list[Message]) -> tuple[Any, tuple[bytes, ...]]:
    for message in messages:
        data = message.content.get("data")
        if message.type == "comm_msg" and isinstance(data, dict):
            if "error" in data:
                raise _to_error(path, str(data["error"]))
            return data.get("answer"), message.buffers
    raise _unusable()


def _to_error(path: str, error: str) -> Exception:
    match error:
        case "missing":
            return NotFoundError("file", path)
        case "place taken":
            return InvalidPathError(path, "a file or folder is in its place")
        case _:
            return BackendError(f"The kernel could not use the file {path!r} ({error[:80]}).")


def _busy() -> BackendError:
    return BackendError("The kernel is busy.")


def _unusable() -> BackendError:
    return BackendError("The kernel does not answer to file requests; restart the session.")
