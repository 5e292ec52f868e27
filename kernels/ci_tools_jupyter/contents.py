"""A session's folder on a remote server, read through its contents API.

How this works: files come down as streams from `/files/`, whatever the kernel is doing. Nothing is
ever changed this way: the API follows symbolic links, with the rights of the server, and shows none
as what it is. Files are written and deleted by a Python kernel, the session's own or a second one,
that opens folder by folder and follows no link. The one thing that is asked of the API is to delete
the whole folder: servers delete or move a tree without following the links in it.

A stock server does not serve hidden files (names with a leading dot), so they are left out of
listings everywhere.
https://jupyter-server.readthedocs.io/en/latest/developers/contents.html
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import httpx2

from ci_tools.errors import BackendError, InvalidPathError, NotFoundError
from ci_tools.kernel import FileStat, Workspace
from ci_tools.paths import DEPTH_LIMIT, check_path
from ci_tools_jupyter.download import open_body
from ci_tools_jupyter.remote import RemoteServer
from ci_tools_jupyter.server import JupyterServer, quote_path, to_object

LARGE = 1 << 20
"""Bytes from which a download has a connection of its own."""

HASH_LIMIT = 64 << 20
"""Bytes of a file that is downloaded only to compute its SHA-256."""

PART = ".ci-tools-part"
"""The end of the names of files that are not complete yet."""

UNKNOWN_ROOT = "/mnt/data"
"""What code is told to use while no kernel has said where the folder really is."""

FOLDERS_LISTED = 1000
"""Folders that one listing looks into; a link may lead to any number of them."""

KernelOpener: TypeAlias = Callable[[], AbstractAsyncContextManager[Workspace]]
"""Starts a kernel in the session's folder, and yields that folder as the kernel reaches it."""


class ContentsWorkspace:
    """A session's folder; implements `ci_tools.kernel.Workspace`."""

    def __init__(self, remote: RemoteServer, session_id: str, *, open_kernel: KernelOpener) -> None:
        self._open_kernel = open_kernel
        self._remote = remote
        self._server = remote.server
        self._session_id = session_id
        self._folder = remote.to_folder(session_id)

    @property
    def root(self) -> str:
        """The absolute path of the folder, once a kernel of this server has told it."""
        if self._remote.root is None or self._session_id in self._remote.mounted:
            return UNKNOWN_ROOT
        return f"{self._remote.root.rstrip('/')}/{self._folder}"

    @root.setter
    def root(self, value: str) -> None:
        raise AttributeError("the root is where the server has it")

    async def list_files(self, *, limit: int) -> Sequence[FileStat]:
        """List the regular files, recursively, sorted by path; at most `limit`."""
        found: list[FileStat] = []
        async for path, model in self._walk():
            found.append(_to_stat(path, model))
            if len(found) >= limit:
                break
        return found[:limit]

    async def stat(self, path: str) -> FileStat:
        """Describe one regular file."""
        path = check_path(path)
        return _to_stat(path, await self._get_file(path))

    async def sha256(self, path: str) -> str | None:
        """Return the file's SHA-256 in hex.

        A Python kernel has told it for files that its last execution changed; that of others is
        computed while they are streamed here, and is None above `HASH_LIMIT`.
        """
        stat = await self.stat(path)
        told = self._remote.find_digest(f"{self.root}/{stat.path}", stat)
        if told is not None or stat.size > HASH_LIMIT:
            return told
        digest = hashlib.sha256()
        async with self.open_file(path) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        return digest.hexdigest()

    @asynccontextmanager
    async def open_file(
        self, path: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a file's bytes, or `length` of them from `offset`."""
        path = check_path(path)
        size = (await self._get_file(path))["size"]
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            yield _nothing()
            return
        headers = {"Range": f"bytes={offset}-{end - 1}", "Accept-Encoding": "identity"}
        url = quote_path(f"files/{self._folder}/{path}")
        if end - offset >= LARGE:
            async with open_body(self._server.address, url, headers) as body:
                if body is not None:
                    skip = offset if body.status == 200 else 0
                    yield self._checked(_cut(body.chunks, skip, end - offset))
                    return
        try:
            async with self._server.stream(url, headers) as response:
                if response.status_code not in (200, 206):
                    raise self._server.to_error(response)
                skip = offset if response.status_code == 200 else 0
                yield _cut(response.aiter_raw(), skip, end - offset)
        except httpx2.HTTPError as exc:
            raise self._server.to_unavailable(exc) from exc

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, source: Path | None = None
    ) -> None:
        """Write a file whole, creating its folders; it appears under its name only when complete.

        `source` is read in place of `chunks`, if given: that is faster.
        """
        path = _check_shown(path)
        async with self._open_kernel() as place:
            await place.write(path, chunks, source=source)

    async def delete(self, path: str) -> None:
        """Delete one regular file."""
        path = _check_shown(path)
        await self._get_file(path)
        async with self._open_kernel() as place:
            await place.delete(path)

    async def _checked(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except OSError as exc:  # also of time
            raise self._server.to_unavailable(exc) from exc

    async def _get_file(self, path: str) -> dict[str, Any]:
        model = await find_model(self._server, f"{self._folder}/{path}")
        if model is None or model.get("type") == "directory":
            if model is None and _is_hidden(path):
                raise _hidden(path)
            raise NotFoundError("file", path)
        if not isinstance(model.get("size"), int):
            raise BackendError(f"The Jupyter Server does not tell the size of {path!r}.")
        return model

    async def _walk(self) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Yield each file's path, relative to the session's folder, and its model, sorted."""
        pending: list[tuple[str, Mapping[str, Any] | None]] = [("", None)]
        looked_into = 0
        while pending:
            path, model = pending.pop()
            if model is not None:
                yield path, model
                continue
            looked_into += 1
            if looked_into > FOLDERS_LISTED or path.count("/") > DEPTH_LIMIT:
                continue
            place = f"{self._folder}/{path}".rstrip("/")
            folder = await find_model(self._server, place, content=True)
            entries = [
                (f"{path}{entry['name']}/", None)
                if entry["type"] == "directory"
                else (f"{path}{entry['name']}", entry)
                for entry in (folder or {}).get("content") or ()
                if not entry["name"].startswith(".") and not entry["name"].endswith(PART)
            ]
            # The slash makes a folder sort as its files do: "a.b" before "a/b".
            pending += sorted(entries, key=itemgetter(0), reverse=True)


async def make_folder(server: JupyterServer, place: str) -> None:
    """Make a folder, and those that it is in, if it is missing."""
    if await find_model(server, place) is not None:
        return
    parts = place.split("/")
    for end in range(1, len(parts) + 1):
        response = await server.request(
            "PUT",
            "api/contents/" + quote_path("/".join(parts[:end])),
            content=b'{"type":"directory"}',
        )
        if response.status_code not in (200, 201):
            raise server.to_error(response)


async def remove_folder(server: JupyterServer, place: str) -> bool:
    """Delete a folder with all in it, in one request; False if the server does not."""
    response = await server.request("DELETE", "api/contents/" + quote_path(place))
    return response.status_code in (204, 404)


async def find_model(
    server: JupyterServer, place: str, *, content: bool = False
) -> dict[str, Any] | None:
    """Return what the server says about a file or folder, with what is in it if asked for."""
    response = await server.request(
        "GET",
        "api/contents/" + quote_path(place),
        params={"content": "1" if content else "0"} | ({"type": "directory"} if content else {}),
    )
    if response.status_code == 404:
        return None
    if response.status_code != 200:
        raise server.to_error(response)
    return to_object(response)


def _to_stat(path: str, model: Mapping[str, Any]) -> FileStat:
    modified = datetime.fromisoformat(str(model["last_modified"]))
    size = model.get("size")
    return FileStat(
        path=path,
        size=size if isinstance(size, int) else 0,
        modified_at=modified.timestamp(),
    )


async def _cut(chunks: AsyncIterator[bytes], skip: int, length: int) -> AsyncIterator[bytes]:
    """Leave out `skip` bytes and what is beyond the next `length`."""
    async for chunk in chunks:
        piece = chunk[skip : skip + length]
        skip = max(0, skip - len(chunk))
        length -= len(piece)
        if piece:
            yield piece
        if length <= 0:
            return


async def _nothing() -> AsyncIterator[bytes]:
    blocks: tuple[bytes, ...] = ()
    for block in blocks:
        yield block


def _check_shown(path: str) -> str:
    path = check_path(path)
    if _is_hidden(path):
        raise _hidden(path)
    return path


def _is_hidden(path: str) -> bool:
    return any(name.startswith(".") for name in path.split("/"))


def _hidden(path: str) -> InvalidPathError:
    return InvalidPathError(
        path, "the Jupyter Server does not serve hidden files (names with a leading dot)"
    )
