"""Files under ids, over HTTP."""

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager

from ci_tools.models import File
from ci_tools.paths import check_path
from ci_tools.wire import file_from_item
from ci_tools_client.addresses import to_segment
from ci_tools_client.connection import Connection


class RemoteUploads:
    """Files of one principal under ids; as `ci_tools.Uploads`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def add(self, name: str, content: bytes | AsyncIterable[bytes]) -> File:
        """Keep a file that is in no session; `name` is its path where it will be staged."""
        params = {"path": check_path(name)}
        return file_from_item(await self._connection.send("/kept_files", content, params=params))

    async def get(self, file_id: str) -> File:
        """Return a kept file."""
        return file_from_item(await self._connection.get(_kept(file_id)))

    def open(
        self, file_id: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream a kept file's bytes, or `length` of them from `offset`."""
        return self._connection.open_bytes(
            f"{_kept(file_id)}/content", offset=offset, length=length
        )

    async def delete(self, file_id: str) -> None:
        """Delete a kept file; copies in sessions stay, and are known by no id from then on."""
        await self._connection.delete(_kept(file_id))

    async def stage(self, session_id: str, file_id: str, path: str | None = None) -> File:
        """Copy a kept file into a session, by default under its own path."""
        body = {"file_id": file_id, **({} if path is None else {"path": check_path(path)})}
        return _file(await self._connection.post(f"{_container(session_id)}/files", body))

    async def keep(self, session_id: str, path: str) -> File:
        """Keep a copy of a session's file, which outlives the session."""
        body = {"path": check_path(path)}
        kept = await self._connection.post(f"{_container(session_id)}/keep", body, quiet=None)
        return file_from_item(kept)

    async def identify(self, session_id: str, path: str) -> File:
        """Return a session's file with an id, which it gets if it has none."""
        body = {"path": check_path(path)}
        return _file(await self._connection.post(f"{_container(session_id)}/identify", body))

    async def find(self, session_id: str, file_id: str) -> File:
        """Return the file of a session that is known by an id."""
        path = f"{_container(session_id)}/files/{to_segment('file', file_id)}"
        return _file(await self._connection.get(path))


def _kept(file_id: str) -> str:
    return f"/kept_files/{to_segment('file', file_id)}"


def _container(session_id: str) -> str:
    return f"/containers/{to_segment('session', session_id)}"


def _file(item: dict[str, dict[str, object]]) -> File:
    return file_from_item(item["file"])
