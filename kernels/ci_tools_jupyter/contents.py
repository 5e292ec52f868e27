"""A session's folder on a remote server, through its contents API.

How this works: files go up in chunks of 1 MB, base64 in JSON, to a temporary name, and are renamed
when complete; they come down as streams from `/files/`. A stock server neither shows nor takes
hidden files (names with a leading dot), so they are left out of listings everywhere. It follows
symbolic links that code made; code has the server's own rights anyway. It may move what is deleted
to a trash folder, so files are emptied first.
https://jupyter-server.readthedocs.io/en/latest/developers/contents.html
"""

import base64
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2

from ci_tools.errors import BackendError, InvalidPathError, NotFoundError
from ci_tools.kernel import FileStat
from ci_tools.workspace import check_path
from ci_tools_jupyter.download import open_body
from ci_tools_jupyter.remote import RemoteServer
from ci_tools_jupyter.server import quote_path, to_object

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
"""Bytes of a file in one request; larger ones are slower and cost the server memory."""

LARGE = 1 << 20
"""Bytes from which a download has a connection of its own."""

HASH_LIMIT = 64 << 20
"""Bytes of a file that is downloaded only to compute its SHA-256."""

PART = ".ci-tools-part"
"""The end of the names of files that are not complete yet."""

UNKNOWN_ROOT = "/mnt/data"
"""What code is told to use while no kernel has said where the folder really is."""

CLEANUP_GRACE = 5.0
"""Seconds to remove what a failed upload has left."""

_EMPTY = b'{"type":"file","format":"base64","content":""}'


class ContentsWorkspace:
    """A session's folder; implements `ci_tools.kernel.Workspace`."""

    def __init__(self, remote: RemoteServer, session_id: str) -> None:
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

    async def create(self) -> None:
        """Make the folder if it is missing."""
        if await self._find_model(self._folder) is None:
            parts = self._folder.split("/")
            for end in range(1, len(parts) + 1):
                await self._make_folder("/".join(parts[:end]))

    async def remove(self) -> bool:
        """Delete the folder and all in it; False if something remains that the API hides."""
        return await self._remove_folder(self._folder)

    async def list_files(self, *, limit: int) -> Sequence[FileStat]:
        """List the regular files, recursively, sorted by path; at most `limit`."""
        found: list[FileStat] = []
        async for path, model in self._walk(self._folder):
            found.append(_to_stat(path, model))
        found.sort(key=lambda file: file.path)
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
                    raise self._to_error(path, response)
                skip = offset if response.status_code == 200 else 0
                yield _cut(response.aiter_raw(), skip, end - offset)
        except httpx2.HTTPError as exc:
            raise self._server.to_unavailable(exc) from exc

    async def write(
        self, path: str, chunks: AsyncIterator[bytes], *, source: Path | None = None
    ) -> None:
        """Write a file whole, creating its folders; it appears under its name only when complete.

        `source` is not used.
        """
        path = check_path(path)
        parents = path.split("/")[:-1]
        for end in range(1, len(parents) + 1):
            await self._make_folder(f"{self._folder}/{'/'.join(parents[:end])}", shown=path)
        blocks = _in_blocks(chunks)
        first = await anext(blocks, b"")
        second = await anext(blocks, None)
        if second is None:  # the server itself replaces a file that comes in one piece
            await self._put(path, path, _to_body(first, None))
            return
        part = "/".join([*parents, f"upload-{secrets.token_hex(8)}{PART}"])
        try:
            await self._put_blocks(path, part, first, second, blocks)
            await self._rename(part, path)
        except BaseException:
            with anyio.move_on_after(CLEANUP_GRACE, shield=True):
                await self._request("DELETE", part)
            raise

    async def delete(self, path: str) -> None:
        """Delete one regular file."""
        path = check_path(path)
        await self._get_file(path)
        await self._delete_file(f"{self._folder}/{path}")

    async def _checked(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except OSError as exc:  # also of time
            raise self._server.to_unavailable(exc) from exc

    # --- files

    async def _get_file(self, path: str) -> dict[str, Any]:
        model = await self._find_model(f"{self._folder}/{path}")
        if model is None or model.get("type") == "directory":
            if model is None and _is_hidden(path):
                raise _hidden(path)
            raise NotFoundError("file", path)
        if not isinstance(model.get("size"), int):
            raise BackendError(f"The Jupyter Server does not tell the size of {path!r}.")
        return model

    async def _put_blocks(
        self, path: str, part: str, first: bytes, second: bytes, rest: AsyncIterator[bytes]
    ) -> None:
        await self._put(path, part, _to_body(first, 1))
        number, block = 2, second
        async for following in rest:
            await self._put(path, part, _to_body(block, number))
            number, block = number + 1, following
        await self._put(path, part, _to_body(block, -1))

    async def _put(self, path: str, target: str, body: bytes) -> None:
        response = await self._request("PUT", target, body)
        if response.status_code not in (200, 201):
            model = await self._find_model(f"{self._folder}/{target}")
            if model is not None and model.get("type") == "directory":
                raise InvalidPathError(path, "a folder is in its place")
            raise self._to_error(path, response)

    async def _rename(self, part: str, path: str) -> None:
        body = _to_json({"path": f"{self._folder}/{path}"})
        response = await self._request("PATCH", part, body)
        if response.status_code == 409:  # the API does not replace
            await self.delete(path)
            response = await self._request("PATCH", part, body)
        if response.status_code != 200:
            raise self._to_error(path, response)

    async def _delete_file(self, place: str) -> None:
        url = "api/contents/" + quote_path(place)
        await self._server.request("PUT", url, content=_EMPTY)
        response = await self._server.request("DELETE", url)
        if response.status_code not in (204, 404):
            raise self._server.to_error(response)

    # --- folders

    async def _make_folder(self, place: str, *, shown: str = "") -> None:
        response = await self._server.request(
            "PUT", "api/contents/" + quote_path(place), content=b'{"type":"directory"}'
        )
        if response.status_code not in (200, 201):
            raise self._to_error(shown, response)

    async def _walk(self, folder: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Yield each file's path, relative to the session's folder, and its model."""
        folders = [folder]
        while folders:
            place = folders.pop()
            model = await self._find_model(place, content=True)
            for entry in (model or {}).get("content") or ():
                name = str(entry["name"])
                if name.startswith(".") or name.endswith(PART):
                    continue
                if entry["type"] == "directory":
                    folders.append(f"{place}/{name}")
                else:
                    yield f"{place}/{name}".removeprefix(self._folder + "/"), entry

    async def _remove_folder(self, place: str) -> bool:
        model = await self._find_model(place, content=True)
        if model is None:
            return True
        whole = True
        for entry in model.get("content") or ():
            inner = f"{place}/{entry['name']}"
            if entry["type"] == "directory":
                whole = await self._remove_folder(inner) and whole
            else:
                await self._delete_file(inner)
        response = await self._server.request("DELETE", "api/contents/" + quote_path(place))
        return whole and response.status_code in (204, 404)

    async def _find_model(self, place: str, *, content: bool = False) -> dict[str, Any] | None:
        response = await self._server.request(
            "GET",
            "api/contents/" + quote_path(place),
            params={"content": "1" if content else "0"}
            | ({"type": "directory"} if content else {}),
        )
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise self._server.to_error(response)
        return to_object(response)

    async def _request(
        self, method: str, path: str, content: bytes | None = None
    ) -> httpx2.Response:
        url = "api/contents/" + quote_path(f"{self._folder}/{path}")
        return await self._server.request(method, url, content=content)

    def _to_error(self, path: str, response: httpx2.Response) -> BackendError | InvalidPathError:
        if response.status_code in (400, 404) and _is_hidden(path):
            return _hidden(path)
        if response.status_code in (400, 409):
            return InvalidPathError(path, "a file or folder is in its place")
        return self._server.to_error(response)


def _to_stat(path: str, model: Mapping[str, Any]) -> FileStat:
    modified = datetime.fromisoformat(str(model["last_modified"]))
    size = model.get("size")
    return FileStat(
        path=path,
        size=size if isinstance(size, int) else 0,
        modified_at=modified.timestamp(),
    )


def _to_body(block: bytes, chunk: int | None) -> bytes:
    number = b"" if chunk is None else b'"chunk":%d,' % chunk
    return b'{"type":"file","format":"base64",%b"content":"%b"}' % (
        number,
        base64.b64encode(block),
    )


def _to_json(value: dict[str, str]) -> bytes:
    return httpx2.Request("PATCH", "http://x/", json=value).content


async def _in_blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Regroup chunks of any size into blocks of `CHUNK` bytes and a rest."""
    buffer = bytearray()
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)


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


def _is_hidden(path: str) -> bool:
    return any(name.startswith(".") for name in path.split("/"))


def _hidden(path: str) -> InvalidPathError:
    return InvalidPathError(
        path, "the Jupyter Server does not serve hidden files (names with a leading dot)"
    )
