"""Sessions on a file system with project quotas, whose folder `QUOTA_FOLDER` names.

These are no tests by themselves: `test_quotas.py` runs them beside such a file system.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from ci_tools_kernels import Policy, write_kernelspec
from ci_tools_kernels.extension import find_usage
from ci_tools_kernels.host import find_host
from ci_tools_kernels.probe import probe
from ci_tools_kernels.quotas import QuotaError, Quotas, count_limits, find_obstacle
from tests.kernels_sandbox.rig import SMALL, Result, Session, open_session
from tests.kernels_sandbox.test_bombs import (
    check_neighbours,
    find_traces,
    wait_until_gone,
)

FULL = ("Disk quota exceeded", "No space left on device")
"""What ext4 says, and what XFS says."""

BOMBS = {
    "disk": """
        number = written = 0
        while True:
            try:
                open(f"{number}", "wb").write(bytes(1 << 20))
                number += 1
            except OSError as exc:
                print(exc, flush=True)
                break
        for _ in range(3000):  # and goes on
            try:
                written += os.write(os.open("more", os.O_WRONLY | os.O_CREAT), bytes(4096))
            except OSError:
                pass
        """,
    "inode": """
        number = 0
        for number in range(5000):
            try:
                open(f"{number}", "w").close()
            except OSError as exc:
                said = str(exc)
        print(said, flush=True)
        """,
    "hidden disk": """
        kept = []
        while True:
            try:
                kept.append(open("hidden", "wb", buffering=0))
                os.unlink("hidden")
                kept[-1].write(bytes(1 << 20))
            except OSError as exc:
                print(exc, flush=True)
                break
        """,
    "mapped disk": """
        import mmap
        kept = []
        while True:
            try:
                fd = os.open("hidden", os.O_RDWR | os.O_CREAT)
                os.unlink("hidden")
                os.posix_fallocate(fd, 0, 1 << 20)
                kept.append(mmap.mmap(fd, 1 << 20))
                os.close(fd)
            except OSError as exc:
                print(exc, flush=True)
                break
        """,
}
"""Of these, what is deleted and only mapped is what no watcher finds."""


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder on the file system with quotas."""
    folder = Path(os.environ["QUOTA_FOLDER"]) / os.urandom(4).hex()
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def limited(kernelspecs: Path, place: Path) -> AsyncIterator[Session]:
    """A sandboxed kernel with small limits, its folder there."""
    async with open_session(kernelspecs, place / "mine", name="small") as session:
        yield session


async def wait_for_limits(place: Path, number: int) -> None:
    """Wait until there are so many: what a kernel had open is closed some time after its end."""
    with anyio.fail_after(20):
        while count_limits(str(place)) != number:
            find_host().quotas.give_back_removed()
            await anyio.sleep(0.05)


async def run(session: Session, code: str) -> Result:
    return await session.run("import os\n" + textwrap.dedent(code), timeout=120)


def test_probe_says_that_a_quota_holds(place: Path) -> None:
    mechanisms = {item.limit: item for item in probe(folder=place).mechanisms}

    assert find_obstacle(str(place)) is None
    assert "project quota" in mechanisms["disk"].mechanism
    assert mechanisms["disk"].reason == ""
    assert list(place.iterdir()) == []


async def test_bytes_past_the_limit_are_an_error_of_the_code(limited: Session) -> None:
    result = await run(limited, "for n in range(20):\n    open(f'{n}', 'wb').write(bytes(5 << 20))")
    usage = find_usage(limited.provisioner)
    after = await run(limited, "os.remove('0')\nopen('fits', 'wb').write(bytes(4 << 20))")

    assert any(text in result.error for text in FULL)
    assert usage is not None and usage["quota"]
    assert 35 << 20 < usage["size"] <= SMALL.disk
    assert after.status == "ok"
    assert limited.provisioner.last_excess is None


async def test_files_past_the_limit_are_an_error_of_the_code(limited: Session) -> None:
    result = await run(limited, "for n in range(500):\n    open(f'{n}', 'w').close()")
    after = await run(
        limited,
        """
        import time
        os.remove("0")
        for _ in range(100):
            try:
                open("fits", "w").close()
                break
            except OSError:
                time.sleep(0.1)  # XFS counts what was removed for a while
        len(os.listdir())
        """,
    )

    assert any(text in result.error for text in FULL)
    assert after.data[0]["text/plain"] == str(SMALL.files)


async def test_code_sees_how_much_space_it_has(limited: Session) -> None:
    result = await run(limited, "found = os.statvfs('.')\nfound.f_blocks * found.f_frsize")

    assert int(result.data[0]["text/plain"]) == SMALL.disk


async def test_code_cannot_leave_its_project(limited: Session) -> None:
    result = await run(
        limited,
        """
        import fcntl, struct
        os.mkdir("d")
        open("f", "w").close()
        for name in (".", "d", "f"):
            fd = os.open(name, os.O_RDONLY)
            values = list(struct.unpack("=IIIII8x", fcntl.ioctl(fd, 0x801C581F, bytes(28))))
            flags = struct.unpack("L", fcntl.ioctl(fd, 0x80086601, bytes(8)))[0]
            own = values[3]
            for project, kept in ((0, 0x200), (own + 1, 0x200), (own, 0)):
                values[3], values[0] = project, values[0] & ~0x200 | kept
                try:
                    fcntl.ioctl(fd, 0x401C5820, struct.pack("=IIIII8x", *values))
                except OSError:
                    pass
            try:
                fcntl.ioctl(fd, 0x40086602, struct.pack("L", flags & ~0x20000000))
            except OSError:
                pass
            after = struct.unpack("=IIIII8x", fcntl.ioctl(fd, 0x801C581F, bytes(28)))
            print(after[3] == own, bool(after[0] & 0x200))
        """,
    )

    assert result.text == "True True\nTrue True\nTrue False\n"


async def test_code_cannot_change_its_limit(limited: Session) -> None:
    result = await run(
        limited,
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        for number in (443, 179):
            libc.syscall(number, os.open(".", os.O_RDONLY), 0x80000802, 0, None)
            print(ctypes.get_errno())
        """,
    )

    assert result.text == "1\n1\n"


async def test_what_was_there_before_the_first_kernel_counts(
    kernelspecs: Path, place: Path
) -> None:
    below = place / "mine" / "a" / "b"
    below.mkdir(parents=True)
    (below / "uploaded").write_bytes(bytes(30 << 20))
    (below / "link").symlink_to(place)
    os.mkfifo(below / "fifo")
    async with open_session(kernelspecs, place / "mine", name="small") as session:
        result = await run(session, "open('x', 'wb').write(bytes(15 << 20))")

    assert any(text in result.error for text in FULL)


async def test_restarted_kernel_keeps_the_limit(limited: Session) -> None:
    await run(limited, "open('kept', 'wb').write(bytes(30 << 20))")
    await limited.manager.restart_kernel(now=True)
    await limited.client.wait_for_ready(timeout=60)

    result = await run(limited, "open('x', 'wb').write(bytes(15 << 20))")

    assert any(text in result.error for text in FULL)
    await wait_for_limits(limited.folder, 1)  # not another one


async def test_kernel_from_the_pool_is_limited(kernelspecs: Path, place: Path) -> None:
    policy = Policy(preload=("numpy",), limits=SMALL, pool=1)
    write_kernelspec(kernelspecs, name="pooled", python=sys.executable, policy=policy)
    async with open_session(kernelspecs, place / "first", name="pooled") as first:
        key = first.provisioner.pool_key()
        with anyio.fail_after(30):
            while find_host().pool.count_of(key) == 0:
                await anyio.sleep(0.05)
    async with open_session(kernelspecs, place / "second", name="pooled") as second:
        result = await run(
            second, "for n in range(20):\n    open(f'{n}', 'wb').write(bytes(5 << 20))"
        )

    assert any(text in result.error for text in FULL)


async def test_limit_is_given_back_with_the_folder(kernelspecs: Path, place: Path) -> None:
    await wait_for_limits(place, 0)
    folder = place / "mine"
    async with open_session(kernelspecs, folder, name="small") as session:
        await run(session, "open('x', 'w').close()")
    kept = count_limits(str(place))
    shutil.rmtree(folder)

    assert kept == 1
    await wait_for_limits(place, 0)


async def test_limits_that_a_killed_server_left_are_given_back(place: Path) -> None:
    await wait_for_limits(place, 0)
    code = (
        "import os, sys\nfrom ci_tools_kernels.quotas import Quotas\n"
        "Quotas().limit(sys.argv[1], size=1 << 20, files=5)\nos._exit(1)"
    )
    gone, there = place / "gone", place / "there"
    for folder in (gone, there):
        folder.mkdir()
        subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    before = count_limits(str(place))
    gone.rmdir()
    mine = place / "mine"
    mine.mkdir()
    find_host().quotas.limit(str(mine), size=1 << 20, files=5)

    assert before == 2
    await wait_for_limits(place, 2)


def test_project_of_somebody_else_is_left_alone(place: Path) -> None:
    theirs = place / "theirs"
    theirs.mkdir()
    subprocess.run(["chattr", "+P", "-p", "7", str(theirs)], check=True)
    mine = theirs / "mine"
    mine.mkdir()

    with pytest.raises(QuotaError):
        Quotas().limit(str(mine), size=1 << 20, files=5)

    assert "project 7" in str(find_obstacle(str(theirs)))


def test_upload_that_does_not_fit_says_so(place: Path) -> None:
    # Whose root may ignore limits (CAP_SYS_RESOURCE) is not told; a service in a container may not.
    code = """
        import sys
        from pathlib import Path
        import anyio
        from ci_tools.errors import LimitError
        from ci_tools.workspace import LocalWorkspace
        from ci_tools_kernels.quotas import Quotas

        folder = Path(sys.argv[1])
        Quotas().limit(str(folder), size=4 << 20, files=50)
        place = LocalWorkspace(folder)

        async def main():
            async def chunks():
                yield bytes(6 << 20)
            source = folder.parent / "source"
            source.write_bytes(bytes(6 << 20))
            for kept in (None, source):
                try:
                    await place.write("large.bin", chunks(), source=kept)
                except LimitError as exc:
                    print(exc)
            async def small():
                yield bytes(1 << 20)
            await place.write("small.bin", small())
            print(sorted(path.name for path in folder.iterdir()))

        anyio.run(main)
        """
    folder = place / "mine"
    folder.mkdir()
    command = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    said = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(code), str(folder)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    assert len(said) == 3
    assert all("large.bin" in line and "full" in line for line in said[:2])
    assert said[2] == "['small.bin']"


@pytest.mark.parametrize("name", BOMBS)
async def test_bomb_is_refused_and_its_kernel_lives(
    name: str,
    kernelspecs: Path,
    place: Path,
    neighbours: list[Session],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results: list[Result] = []
    async with open_session(kernelspecs, place / "bomb", name="small") as session:
        traces = find_traces(session)

        async def go_off() -> None:
            results.append(await run(session, BOMBS[name]))

        async with anyio.create_task_group() as group:
            group.start_soon(go_off)
            await check_neighbours(f"{name} (quota)", neighbours, capsys)
        after = await run(session, "1 + 1")
        usage = find_usage(session.provisioner)

    assert any(text in results[0].text for text in FULL)
    assert after.data[0]["text/plain"] == "2"
    assert session.provisioner.last_excess is None
    assert usage is not None
    assert usage["size"] <= SMALL.disk and usage["files"] <= SMALL.files
    await wait_until_gone(traces)
