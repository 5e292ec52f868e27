import hashlib
import os
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest
from pydantic import SecretStr

from ci_tools.errors import ConfigurationError, NotFoundError, StoreError
from ci_tools.settings import Settings
from ci_tools.stores.blobs import BlobStore, create_store, open_blobs
from tests.ci_tools.stores.conftest import S3_KEYS, make_bucket

MEBIBYTE = 1 << 20


@pytest.fixture(params=["file", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    match request.param:
        case "file":
            return BlobStore(create_store((tmp_path / "a folder").as_uri(), {}))
        case "memory":
            return BlobStore(create_store("memory:///", {}))
        case _:
            endpoint: str = request.getfixturevalue("s3")
            bucket = make_bucket(endpoint)
            options = {"endpoint": endpoint, **S3_KEYS}
            return BlobStore(create_store(f"s3://{bucket}/a/prefix", options))


async def chunks(*sizes: int) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        yield bytes([number]) * size


def digest(content: bytes) -> str:
    """Stand for many bytes in a comparison, as pytest would take hours to show a difference."""
    return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"


async def read(blobs: BlobStore, key: str, offset: int = 0, length: int | None = None) -> bytes:
    async with blobs.open(key, offset=offset, length=length) as blocks:
        return b"".join([block async for block in blocks])


@pytest.mark.parametrize("sizes", [(), (0,), (3,), (100, 1, 0, 5), (9 * MEBIBYTE, MEBIBYTE)])
async def test_a_stream_is_read_back_whole(blobs: BlobStore, sizes: tuple[int, ...]) -> None:
    expected = b"".join([chunk async for chunk in chunks(*sizes)])

    key = await blobs.put(chunks(*sizes), principal="ada")

    assert await blobs.size(key) == len(expected)
    assert digest(await read(blobs, key)) == digest(expected)
    assert digest(await blobs.get_bytes(key)) == digest(expected)


async def test_a_range_is_read_as_asked(blobs: BlobStore) -> None:
    key = await blobs.put(chunks(4, 4), principal="ada")

    assert await read(blobs, key, 2, 4) == b"\x00\x00\x01\x01"
    assert await read(blobs, key, 6) == b"\x01\x01"
    assert await read(blobs, key, 6, 100) == b"\x01\x01"
    assert await read(blobs, key, 8) == b""
    assert await read(blobs, key, 100, 1) == b""
    assert await read(blobs, key, 1, 0) == b""


async def test_bytes_and_files_are_stored_too(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(9 * MEBIBYTE))

    small = await blobs.put_bytes(b"abc", principal="ada")
    large = await blobs.put_file(source, principal="ada")
    expected = digest(source.read_bytes())
    source.unlink()

    assert await blobs.get_bytes(small) == b"abc"
    assert digest(await read(blobs, large)) == expected


async def test_keys_are_new_and_do_not_show_the_principal(blobs: BlobStore) -> None:
    first, second = [await blobs.put_bytes(b"", principal="ada/../x") for _ in range(2)]
    other = await blobs.put_bytes(b"", principal="bob")

    assert first != second
    assert first.split("/")[0] == second.split("/")[0] != other.split("/")[0]
    assert "ada" not in first


async def test_deleted_and_unknown_keys_are_not_found(blobs: BlobStore) -> None:
    keys = [await blobs.put_bytes(b"x", principal="ada") for _ in range(40)]
    kept = await blobs.put_bytes(b"kept", principal="ada")

    await blobs.delete([*keys, "never/there"])
    await blobs.delete(keys)
    await blobs.delete([])

    for key in (keys[0], "never/there"):
        with pytest.raises(NotFoundError):
            await blobs.size(key)
        with pytest.raises(NotFoundError):
            await blobs.get_bytes(key)
        with pytest.raises(NotFoundError):
            async with blobs.open(key):
                pass
    assert await blobs.get_bytes(kept) == b"kept"


@pytest.mark.parametrize("error", [LookupError, TimeoutError, FileNotFoundError])
async def test_a_stream_that_fails_leaves_nothing(tmp_path: Path, error: type[Exception]) -> None:
    folder = tmp_path / "objects"
    blobs = BlobStore(create_store(folder.as_uri(), {}))

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 20 * MEBIBYTE
        raise error("the sender left")

    with pytest.raises(error, match="the sender left"):
        await blobs.put(failing(), principal="ada")

    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_a_cancelled_stream_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    blobs = BlobStore(create_store(folder.as_uri(), {}))
    waiting = anyio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * 20 * MEBIBYTE
        waiting.set()
        await anyio.sleep_forever()

    async def put() -> None:
        await blobs.put(stuck(), principal="ada")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            await waiting.wait()
            tasks.cancel_scope.cancel()

    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_a_stream_to_s3_that_fails_leaves_no_upload(s3: str) -> None:
    create = urllib.request.Request(f"{s3}/abandoned", method="PUT")
    urllib.request.urlopen(create).close()
    blobs = BlobStore(create_store("s3://abandoned", {"endpoint": s3, **S3_KEYS}))

    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 20 * MEBIBYTE
        raise LookupError("the sender left")

    with pytest.raises(LookupError):
        await blobs.put(failing(), principal="ada")

    with urllib.request.urlopen(f"{s3}/abandoned?uploads") as answer:
        uploads = ElementTree.fromstring(answer.read()).findall("{*}Upload")
    assert uploads == []


async def test_only_a_local_store_has_paths(blobs: BlobStore, tmp_path: Path) -> None:
    key = await blobs.put_bytes(b"abc", principal="ada")

    path = blobs.local_path(key)

    if (tmp_path / "a folder").exists():
        assert path is not None and path.read_bytes() == b"abc"
    else:
        assert path is None


async def test_objects_are_kept_in_the_state_directory(tmp_path: Path) -> None:
    async with open_blobs(Settings(state_dir=tmp_path / "state")) as blobs:
        key = await blobs.put_bytes(b"abc", principal="ada")

    async with open_blobs(Settings(state_dir=tmp_path / "state")) as blobs:
        assert await blobs.get_bytes(key) == b"abc"
    assert (tmp_path / "state" / "objects").stat().st_mode & 0o777 == 0o700


async def test_the_settings_name_another_store(tmp_path: Path) -> None:
    url = SecretStr(tmp_path.as_uri() + "/elsewhere")

    async with open_blobs(Settings(state_dir=tmp_path / "state", object_store_url=url)) as blobs:
        path = blobs.local_path(await blobs.put_bytes(b"abc", principal="ada"))

    assert path is not None and path.is_relative_to(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("nonsense", {}),
        ("ftp://host/path", {}),
        ("file:///proc/nowhere", {}),
        ("s3://bucket", {"no_such_option": "x"}),
    ],
)
def test_a_store_that_cannot_be_opened_is_a_configuration_error(
    url: str, options: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError):
        create_store(url, options)


async def test_a_missing_bucket_is_an_error_of_ours(s3: str) -> None:
    blobs = BlobStore(create_store("s3://no-such-bucket", {"endpoint": s3, **S3_KEYS}))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"

    with pytest.raises(StoreError, match="no such bucket.*CI_TOOLS_OBJECT_STORE_URL"):
        await blobs.put_bytes(b"abc", principal="ada")
    with pytest.raises(StoreError, match="no such bucket"):
        await blobs.put(chunks(), principal="ada")
