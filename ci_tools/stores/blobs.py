"""Bytes in an object store: a local folder, S3 or memory.

How this works: uploads are pushed through obstore's writer, which keeps a few parts in memory and
takes everything back when it is left with an error. Downloads ask for one range after another:
obstore's own stream reads ahead without a bound, and on a local disk it is ten times slower.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import anyio
import obstore
from anyio import to_thread
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from ci_tools.errors import ConfigurationError, NotFoundError, StoreError
from ci_tools.settings import Settings
from ci_tools.stores.multipart import find_bucket

logger = logging.getLogger(__name__)

_PART = 8 << 20
"""Bytes in one part of an upload (S3 takes no less than 5 MiB, and 10,000 parts)."""

_PARTS_AT_ONCE = 2
"""Parts of one upload that are under way together."""

_LOCAL_BLOCK = 1 << 20
"""Bytes of one read from a local disk or memory."""

_REMOTE_BLOCK = 8 << 20
"""Bytes of one read over the network."""

_RETRY_TIME = timedelta(seconds=30)
"""How long a request to a remote store is tried again."""

_CLEAN_UP = 10.0
"""Seconds to take back what was written of an upload that failed."""

_FINISH = 120.0
"""Seconds to send the last parts of an upload and have it made an object."""

_DELETES_AT_ONCE = 16
"""Requests to delete that are under way together."""


class Journal(Protocol):
    """Notes of the objects that no record names, so that none stays when a process is killed."""

    async def announce(self, key: str) -> None:
        """Note that something is about to be written under a key."""
        ...

    async def give_up(self, key: str) -> None:
        """Note that what was written under a key is to go."""
        ...

    async def forget(self, keys: Sequence[str]) -> None:
        """Note that there is nothing under these keys."""
        ...


class BlobStore:
    """Bytes under keys; a key is made here, never given by a user."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.journal: Journal | None = None
        self._folder = (
            Path(store.prefix) if isinstance(store, LocalStore) and store.prefix else None
        )
        self._block = _REMOTE_BLOCK if isinstance(store, S3Store) else _LOCAL_BLOCK

    async def put(self, chunks: AsyncIterator[bytes], *, principal: str) -> str:
        """Store a stream and return its key; on an error nothing of it is kept."""
        async with self._new_object(principal) as key, self._open_writer(key) as write:
            async for chunk in chunks:
                await write(chunk)
        return key

    @asynccontextmanager
    async def _new_object(self, principal: str) -> AsyncIterator[str]:
        """Yield the key of an object that is to be written in the block."""
        key = _new_key(principal)
        if self.journal is None:
            yield key
            return
        await self.journal.announce(key)
        try:
            yield key
        except BaseException:
            # Nothing should be there any more; who knows.
            with suppress(StoreError), anyio.move_on_after(_CLEAN_UP, shield=True):
                await self.journal.give_up(key)
            raise

    @asynccontextmanager
    async def _open_writer(self, key: str) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """Yield what takes bytes; the object is there when the block has ended without error."""
        writer = obstore.open_writer_async(
            self._store, key, buffer_size=_PART, max_concurrency=_PARTS_AT_ONCE
        )

        async def write(chunk: bytes) -> None:
            with _write_errors(key):
                await writer.write(chunk)

        await writer.__aenter__()
        try:
            yield write
        except BaseException as exc:
            # Shielded: cancelled once more, it would leave its parts behind.
            with suppress(BaseError), anyio.move_on_after(_CLEAN_UP, shield=True):
                await writer.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        with _write_errors(key), anyio.fail_after(_FINISH, shield=True):
            await writer.__aexit__(None, None, None)

    async def put_bytes(self, content: bytes, *, principal: str) -> str:
        """Store a few bytes and return their key."""
        async with self._new_object(principal) as key:
            await self._put(key, content)
        return key

    async def put_file(self, source: Path, *, principal: str) -> str:
        """Store a local file and return its key.

        Nothing may be written to it later: on the same disk both names are then one file.
        """
        async with self._new_object(principal) as key:
            path = self.local_path(key)
            if path is None or not await to_thread.run_sync(_link, source, path):
                await self._put(key, source)
        return key

    async def _put(self, key: str, content: bytes | Path) -> None:
        with _write_errors(key):
            await obstore.put_async(
                self._store, key, content, chunk_size=_PART, max_concurrency=_PARTS_AT_ONCE
            )

    async def size(self, key: str) -> int:
        """Return how many bytes a key holds.

        Raises:
            NotFoundError: There is nothing under that key.
        """
        with _store_errors(key):
            return int((await obstore.head_async(self._store, key))["size"])

    async def get_bytes(self, key: str) -> bytes:
        """Return all bytes of a key, for what is known to be small."""
        with _store_errors(key):
            return bytes(await (await obstore.get_async(self._store, key)).bytes_async())

    @asynccontextmanager
    async def open(
        self, key: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a key's bytes, or `length` of them from `offset`.

        Raises:
            NotFoundError: There is nothing under that key.
        """
        size = await self.size(key)
        end = size if length is None else min(size, offset + length)
        async with aclosing(self._read(key, offset, end)) as blocks:
            yield blocks

    async def _read(self, key: str, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        while offset < end:
            length = min(self._block, end - offset)
            with _store_errors(key):
                block = await obstore.get_range_async(self._store, key, start=offset, length=length)
            yield bytes(block)
            offset += length

    async def delete(self, keys: Iterable[str]) -> None:
        """Delete keys; those that do not exist any more are no error."""
        limiter = anyio.Semaphore(_DELETES_AT_ONCE)
        deleted: list[str] = []
        failed: list[StoreError] = []

        async def delete_one(key: str) -> None:
            async with limiter:
                try:
                    with _store_errors(key):
                        await obstore.delete_async(self._store, key)
                except NotFoundError:
                    pass
                except StoreError as exc:
                    failed.append(exc)
                    return
                deleted.append(key)

        async with anyio.create_task_group() as tasks:
            for key in keys:
                tasks.start_soon(delete_one, key)
        if self.journal is not None and deleted:
            await self.journal.forget(deleted)
        if failed:
            raise failed[0]

    async def sweep(self, key: str) -> None:
        """Delete a key with what is left of writing it when a process was killed meanwhile."""
        if (path := self.local_path(key)) is not None:
            await to_thread.run_sync(_remove_staged, path)
        elif isinstance(self._store, S3Store):
            await to_thread.run_sync(_abort_uploads, self._store, key)
        await self.delete([key])

    def local_path(self, key: str) -> Path | None:
        """Return the file that holds a key's bytes, never to be written; None if it is remote."""
        return None if self._folder is None else self._folder / key


@asynccontextmanager
async def open_blobs(settings: Settings) -> AsyncIterator[BlobStore]:
    """Open the object store that the settings name; by default a folder in the state directory."""
    if settings.object_store_url is not None:
        url = settings.object_store_url.get_secret_value()
        yield BlobStore(create_store(url, settings.object_store_options))
    else:
        folder = settings.state_dir / "objects"
        yield BlobStore(await to_thread.run_sync(_create_local, folder))


def create_store(url: str, options: dict[str, str]) -> ObjectStore:
    """Return the store at `file:///…`, `s3://bucket/prefix` or `memory:///`.

    Raises:
        ConfigurationError: The URL or an option cannot work.
    """
    parts = urlsplit(url)
    try:
        match parts.scheme:
            case "file":
                return _create_local(Path(url2pathname(parts.path)))
            case "memory":
                return MemoryStore()
            case "s3":
                plain = options.get("endpoint", "").startswith("http://")
                return S3Store.from_url(
                    url,
                    config=options,  # type: ignore[arg-type] # obstore checks the names
                    client_options={"allow_http": plain},
                    retry_config={"max_retries": 5, "retry_timeout": _RETRY_TIME},
                )
            case _:
                raise ConfigurationError(
                    f"object_store_url: {parts.scheme!r} is not one of file, s3 and memory."
                )
    except (BaseError, OSError) as exc:
        message = str(exc).split("\n")[0]
        raise ConfigurationError(f"The object store cannot be opened: {message}.") from exc


def _create_local(folder: Path) -> LocalStore:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return LocalStore(folder)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where that cannot be done."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def _remove_staged(path: Path) -> None:
    """Delete the files in which obstore collects a local object before it gets its name."""
    for staged in path.parent.glob(f"{path.name}#*"):
        staged.unlink(missing_ok=True)


def _abort_uploads(store: S3Store, key: str) -> None:
    bucket = find_bucket(store.config)
    if bucket is None:
        logger.debug("object %s: without static keys only S3 can abort an upload", key)
        return
    bucket.abort_uploads(f"{store.prefix}/{key}" if store.prefix else key)


def _new_key(principal: str) -> str:
    """Make a key: the principal's hash, and a random name in one of 256 folders."""
    owner = hashlib.sha256(principal.encode()).hexdigest()[:32]
    name = secrets.token_hex(16)
    return f"{owner}/{name[:2]}/{name}"


@contextmanager
def _write_errors(key: str) -> Iterator[None]:
    """The same for what makes an object: there nothing can be missing but the place itself."""
    try:
        with _store_errors(key):
            yield
    except NotFoundError as exc:
        raise StoreError(
            "The object store has no such bucket or folder: make it, or check "
            "CI_TOOLS_OBJECT_STORE_URL."
        ) from exc


@contextmanager
def _store_errors(key: str) -> Iterator[None]:
    """Turn obstore's errors into ours; it reports a missing key as FileNotFoundError."""
    try:
        yield
    except FileNotFoundError as exc:
        raise NotFoundError("object", key) from exc
    except (BaseError, TimeoutError) as exc:
        # Only the kind: the text may hold an address with its signature.
        raise StoreError(f"The object store failed: {type(exc).__name__}.") from exc
