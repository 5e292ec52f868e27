"""A session's folder, wherever it is: on this machine, on a server, or behind its kernel only."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio

from ci_tools.engine import Engine
from ci_tools.errors import BackendError, CIToolsError, NotFoundError
from ci_tools.kernel import FileStat, Kernel, Workspace, WorkspaceRequest
from ci_tools.live import get_live
from ci_tools.models import Session
from ci_tools.workspace import LocalWorkspace

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class SessionFolder:
    """The files of one session; paths are checked already."""

    engine: Engine
    session: Session

    async def call(self, function: Callable[[Workspace], Awaitable[T]]) -> T:
        """Call `function` with the session's folder, through its kernel if it must be."""
        place = await self._find()
        if place is not None:
            return await function(place)
        return await self._through_kernel(function)

    @asynccontextmanager
    async def open_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        place = await self._find()
        if place is not None:
            async with place.open_file(path, offset=offset, length=length) as chunks:
                yield chunks
            return
        await self._through_kernel(lambda place: place.stat(path))
        async with self._read_through_kernel(path, offset, length) as chunks:
            yield chunks

    async def put(self, path: str, key: str, size: int) -> float:
        """Copy kept bytes into the folder; return when the copy was written."""
        blobs = self.engine.blobs

        async def write(place: Workspace) -> None:
            async with blobs.open(key) as chunks:
                await place.write(path, chunks, source=blobs.local_path(key))

        async def write_and_stat(place: Workspace) -> FileStat:
            await write(place)
            return await place.stat(path)

        place = await self._find()
        if place is None:
            return (await self._through_kernel(write_and_stat)).modified_at
        if not isinstance(place, LocalWorkspace) and await self._change_through_kernel(write):
            found = await _find_stat(place, path)
            if found is not None and found.size == size:  # else its code has lied
                return found.modified_at
        return (await write_and_stat(place)).modified_at

    async def delete(self, path: str) -> None:
        """Delete one file."""

        async def delete(place: Workspace) -> None:
            await place.delete(path)

        place = await self._find()
        if place is None:
            await self._through_kernel(delete)
        elif isinstance(place, LocalWorkspace):
            await place.delete(path)
        elif (
            not await self._change_through_kernel(delete)
            or await _find_stat(place, path) is not None
        ):
            await place.delete(path)

    async def _find(self) -> Workspace | None:
        return await self.engine.backend.open_workspace(WorkspaceRequest.of(self.session))

    async def _through_kernel(self, function: Callable[[Workspace], Awaitable[T]]) -> T:
        async def call(kernel: Kernel) -> T:
            if kernel.workspace is None:
                raise BackendError("The session's kernel cannot reach its files for us.")
            return await function(kernel.workspace)

        return await get_live(self.engine, self.session).call(call)

    @asynccontextmanager
    async def _read_through_kernel(
        self, path: str, offset: int, length: int | None
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
                await get_live(self.engine, self.session).call(read)
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

    async def _change_through_kernel(self, change: Callable[[Workspace], Awaitable[None]]) -> bool:
        """Change a file through the kernel if it is idle, or can be started; False if not.

        Other servers change files by a kernel anyhow, and would have to start another one.
        """
        scope = anyio.CancelScope()

        async def change_in_scope(place: Workspace) -> None:
            with scope:
                await change(place)

        if get_live(self.engine, self.session).busy:
            return False
        try:
            await self._through_kernel(change_in_scope)
        except CIToolsError as error:
            logger.info("session %s: no change through its kernel: %s", self.session.id, error)
            return False
        except BaseException:
            scope.cancel()  # it runs in the session's task
            raise
        return True


async def _find_stat(place: Workspace, path: str) -> FileStat | None:
    try:
        return await place.stat(path)
    except NotFoundError:
        return None
