import errno
import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from ci_tools import workspace as module
from ci_tools.errors import BackendError, InvalidPathError, LimitError, NotFoundError
from ci_tools.kernel import Workspace
from ci_tools.workspace import BLOCK, LocalWorkspace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX links and fifos")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return LocalWorkspace(root)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file beside the workspace that nobody may reach through it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder / "secret"


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def digest(content: bytes) -> str:
    """Stand for many bytes in a comparison, as pytest would take hours to show a difference."""
    return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}"


async def read(
    workspace: Workspace, path: str, offset: int = 0, length: int | None = None
) -> bytes:
    async with workspace.open_file(path, offset=offset, length=length) as blocks:
        return b"".join([block async for block in blocks])


async def listed(workspace: Workspace, limit: int = 1000) -> list[str]:
    return [file.path for file in await workspace.list_files(limit=limit)]


async def test_a_file_is_written_and_read_whole(workspace: Workspace, root: Path) -> None:
    content = os.urandom(3 * BLOCK + 5)

    await workspace.write("a/b/c.bin", chunks(content[:7], content[7:]))

    middle = content[BLOCK : 2 * BLOCK + 1]
    assert digest((root / "a/b/c.bin").read_bytes()) == digest(content)
    assert digest(await read(workspace, "/mnt/data/a/b/c.bin")) == digest(content)
    assert digest(await read(workspace, "a/b/c.bin", BLOCK, BLOCK + 1)) == digest(middle)
    assert await read(workspace, "a/b/c.bin", len(content)) == b""
    assert await read(workspace, "a/b/c.bin", 5, 0) == b""
    found = await workspace.stat("a/b/c.bin")
    assert (found.path, found.size) == ("a/b/c.bin", len(content))
    assert found.modified_at == (root / "a/b/c.bin").stat().st_mtime


@pytest.mark.parametrize("size", [0, 3, 100_000, 2 * BLOCK])
async def test_sha256_is_that_of_the_bytes(workspace: Workspace, root: Path, size: int) -> None:
    content = os.urandom(size)
    (root / "a").write_bytes(content)

    assert await workspace.sha256("a") == hashlib.sha256(content).hexdigest()


async def test_a_write_replaces_the_file_and_keeps_open_readers(
    workspace: Workspace, root: Path
) -> None:
    await workspace.write("a", chunks(b"old"))

    async with workspace.open_file("a") as blocks:
        await workspace.write("a", chunks(b"new"))
        assert b"".join([block async for block in blocks]) == b"old"

    assert await read(workspace, "a") == b"new"
    assert os.listdir(root) == ["a"]


async def test_a_source_is_copied_and_never_linked(
    workspace: Workspace, root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * BLOCK + 1))

    await workspace.write("a", chunks(), source=source)

    assert digest((root / "a").read_bytes()) == digest(source.read_bytes())
    assert not (root / "a").samefile(source)
    assert source.stat().st_nlink == 1


@pytest.mark.parametrize("error", [errno.EXDEV, errno.ENOSYS])
async def test_a_source_is_copied_where_the_system_cannot_help(
    workspace: Workspace, root: Path, tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(error, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2 * BLOCK + 1))

    await workspace.write("a", chunks(), source=source)

    assert digest((root / "a").read_bytes()) == digest(source.read_bytes())


async def test_files_are_listed_by_path_up_to_the_limit(workspace: Workspace, root: Path) -> None:
    paths = ["a-b", "a.b", "a/b", "a/c/d", "ab", "z", "ü", ".hidden"]
    for path in paths:
        await workspace.write(path, chunks(b"x"))
    (root / "empty").mkdir()

    assert await listed(workspace) == sorted(paths)
    assert await listed(workspace, 3) == sorted(paths)[:3]
    assert await listed(workspace, 0) == []


async def test_a_large_folder_is_listed_like_a_small_one(workspace: Workspace, root: Path) -> None:
    for number in range(700):
        (root / f"{number:03}").touch()

    assert await listed(workspace) == [f"{number:03}" for number in range(700)]
    assert await listed(workspace, 500) == [f"{number:03}" for number in range(500)]


async def test_only_regular_files_with_sane_names_are_listed(
    workspace: Workspace, root: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # the path of a socket must be short
    (root / "link").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "loop").symlink_to(".")
    os.mkfifo(root / "fifo")
    (root / "back\\slash").touch()
    (root / "new\nline").touch()
    (root / ".ci-tools-part-1").touch()
    os.close(os.open(os.fsencode(root) + b"/\xff", os.O_CREAT))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        (root / "file").touch()

        assert await listed(workspace) == ["file"]


async def test_folders_deeper_than_paths_may_be_are_left_out(
    workspace: Workspace, root: Path
) -> None:
    folder = root
    for _ in range(70):
        folder = folder / "d"
        folder.mkdir()
        (folder / "f").touch()

    found = await listed(workspace)

    assert len(found) == 63
    assert await read(workspace, found[-1]) == b""


@pytest.mark.parametrize("path", ["link", "folder/secret", "up/outside/secret"])
async def test_links_are_not_followed_by_readers(
    workspace: Workspace, root: Path, secret: Path, path: str
) -> None:
    (root / "link").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "up").symlink_to("..")

    for attempt in (workspace.stat, workspace.sha256, workspace.delete):
        with pytest.raises(NotFoundError):
            await attempt(path)
    with pytest.raises(NotFoundError):
        await read(workspace, path)
    assert secret.read_text() == "secret"


async def test_links_are_not_followed_by_writers(
    workspace: Workspace, root: Path, secret: Path
) -> None:
    (root / "link").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "dangling").symlink_to(secret.parent / "new")

    await workspace.write("link", chunks(b"mine"))
    with pytest.raises(InvalidPathError):
        await workspace.write("folder/secret", chunks(b"mine"))
    with pytest.raises(InvalidPathError):
        await workspace.write("dangling/file", chunks(b"mine"))

    assert secret.read_text() == "secret"
    assert os.listdir(secret.parent) == ["secret"]
    assert not (root / "link").is_symlink()
    assert await read(workspace, "link") == b"mine"


async def test_a_root_that_became_a_link_is_not_followed(
    workspace: Workspace, root: Path, secret: Path
) -> None:
    root.rmdir()
    root.symlink_to(secret.parent)

    assert await listed(workspace) == []
    with pytest.raises(NotFoundError):
        await workspace.stat("secret")
    with pytest.raises(InvalidPathError):
        await workspace.write("new", chunks(b"mine"))
    assert os.listdir(secret.parent) == ["secret"]


async def test_a_folder_that_becomes_a_link_during_a_write_gets_nothing(
    workspace: Workspace, root: Path, secret: Path
) -> None:
    async def swapping() -> AsyncIterator[bytes]:
        (root / "folder").rename(root / "moved")
        (root / "folder").symlink_to(secret.parent)
        yield b"mine"

    await workspace.write("folder/file", swapping())

    assert os.listdir(secret.parent) == ["secret"]
    assert (root / "moved" / "file").read_bytes() == b"mine"


async def test_a_write_does_not_reach_through_a_hard_link(
    workspace: Workspace, root: Path, secret: Path
) -> None:
    os.link(secret, root / "linked")

    await workspace.write("linked", chunks(b"mine"))

    assert secret.read_text() == "secret"


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "missing", "file/below"])
async def test_what_is_no_regular_file_is_not_found_at_once(
    workspace: Workspace, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # the path of a socket must be short
    os.mkfifo(root / "fifo")
    (root / "folder").mkdir()
    (root / "file").touch()
    with socket.socket(socket.AF_UNIX) as server, anyio.fail_after(5):
        server.bind("socket")

        for attempt in (workspace.stat, workspace.sha256, workspace.delete):
            with pytest.raises(NotFoundError):
                await attempt(kind)
        with pytest.raises(NotFoundError):
            await read(workspace, kind)


async def test_a_fifo_in_the_place_of_a_checked_file_does_not_block(
    workspace: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a").touch()
    stat = os.stat

    def swap(*args: object, **kwargs: object) -> os.stat_result:
        found = stat(root / "a")
        (root / "a").unlink()
        os.mkfifo(root / "a")
        return found

    monkeypatch.setattr(os, "stat", swap)
    with anyio.fail_after(5), pytest.raises(NotFoundError):
        await workspace.stat("a")


async def test_a_write_onto_a_folder_or_below_a_file_is_refused(
    workspace: Workspace, root: Path
) -> None:
    (root / "folder").mkdir()
    (root / "file").touch()

    for path in ("folder", "file/below"):
        with pytest.raises(InvalidPathError):
            await workspace.write(path, chunks(b"x"))

    assert sorted(os.listdir(root)) == ["file", "folder"]


async def test_a_fifo_is_replaced_by_a_write(workspace: Workspace, root: Path) -> None:
    os.mkfifo(root / "a")

    with anyio.fail_after(5):
        await workspace.write("a", chunks(b"x"))

    assert await read(workspace, "a") == b"x"


async def test_a_write_that_fails_leaves_what_was_there(workspace: Workspace, root: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x" * 2 * BLOCK
        raise ConnectionError("the sender left")

    await workspace.write("a", chunks(b"old"))
    with pytest.raises(ConnectionError):
        await workspace.write("a", failing())

    assert os.listdir(root) == ["a"]
    assert await read(workspace, "a") == b"old"


async def test_a_cancelled_write_leaves_nothing(workspace: Workspace, root: Path) -> None:
    waiting = anyio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        waiting.set()
        await anyio.sleep_forever()

    async def write() -> None:
        await workspace.write("a", stuck())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await waiting.wait()
            assert await listed(workspace) == []
            tasks.cancel_scope.cancel()

    assert os.listdir(root) == []


async def test_a_file_that_grows_is_read_to_where_it_ended(
    workspace: Workspace, root: Path
) -> None:
    (root / "a").write_bytes(b"x" * (BLOCK + 1))

    read = b""
    async with workspace.open_file("a") as blocks:
        async for block in blocks:
            read += block
            with (root / "a").open("ab") as file:
                file.write(b"y" * BLOCK)

    assert digest(read) == digest(b"x" * (BLOCK + 1))


async def test_a_file_that_shrinks_ends_early(workspace: Workspace, root: Path) -> None:
    (root / "a").write_bytes(b"x" * 3 * BLOCK)

    sizes = []
    async with workspace.open_file("a") as blocks:
        async for block in blocks:
            sizes.append(len(block))
            os.truncate(root / "a", BLOCK)

    assert sizes == [BLOCK]


async def test_a_decomposed_name_is_found_under_its_composed_one(
    workspace: Workspace, root: Path
) -> None:
    (root / "u\u0308.txt").write_bytes(b"x")
    (found,) = await workspace.list_files(limit=9)

    assert await read(workspace, found.path) == b"x"
    assert (await workspace.stat("ü.txt")).path == "ü.txt"
    await workspace.delete("ü.txt")

    assert os.listdir(root) == []


async def test_a_root_that_is_gone_is_empty_and_made_again_by_a_write(
    workspace: Workspace, root: Path
) -> None:
    root.rmdir()

    assert await listed(workspace) == []
    with pytest.raises(NotFoundError):
        await workspace.stat("a")
    await workspace.write("a", chunks(b"x"))

    assert await listed(workspace) == ["a"]


async def test_a_bad_name_is_refused_by_every_verb(workspace: Workspace) -> None:
    for attempt in (workspace.stat, workspace.sha256, workspace.delete):
        with pytest.raises(InvalidPathError):
            await attempt("../outside/secret")
    with pytest.raises(InvalidPathError):
        await read(workspace, "../outside/secret")
    with pytest.raises(InvalidPathError):
        await workspace.write("../new", chunks(b"x"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errno.EIO, BackendError),
        (errno.EACCES, InvalidPathError),
        (errno.ENOSPC, LimitError),
        (getattr(errno, "EDQUOT", errno.ENOSPC), LimitError),
    ],
)
async def test_what_the_system_refuses_is_an_error_of_ours(
    workspace: Workspace,
    root: Path,
    error: int,
    expected: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(module, "_write_all", refuse)
    with pytest.raises(expected):
        await workspace.write("a", chunks(b"x"))

    assert os.listdir(root) == []


async def test_a_removed_file_is_gone(workspace: Workspace, root: Path) -> None:
    await workspace.write("a/b", chunks(b"x"))

    await workspace.delete("a/b")

    assert await listed(workspace) == []
    with pytest.raises(NotFoundError):
        await workspace.delete("a/b")
