"""What every backend must do; the fake passes the same tests as the real ones."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from ci_tools.errors import (
    InvalidPathError,
    KernelDiedError,
    KernelLostError,
    KernelStartError,
    NotFoundError,
)
from ci_tools.kernel import (
    ClearOutput,
    DisplayUpdate,
    Kernel,
    KernelRequest,
    Workspace,
    WorkspaceRequest,
)
from ci_tools.models import DisplayOutput, ErrorOutput, KernelRef
from ci_tools.settings import Settings
from tests.kernels.rig import DEADLINE, Place, chunked, follow, run, wait_for_text

EMPTY = """
import os, shutil
for entry in os.scandir():
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)
"""


@asynccontextmanager
async def started(place: Place) -> AsyncIterator[KernelRef]:
    """Start a kernel for a new session."""
    request = KernelRequest(
        session_id=f"sess_{uuid4().hex}", server=place.server, kernelspec="", epoch=1
    )
    ref = await place.backend.start_kernel(request)
    try:
        yield ref
    finally:
        await place.backend.stop_kernel(ref)


@pytest.fixture(scope="module")
async def shared(place: Place) -> AsyncIterator[tuple[KernelRef, WorkspaceRequest]]:
    """A kernel for the tests that leave it as they found it, and whose folder it is in."""
    session_id = f"sess_{uuid4().hex}"
    request = KernelRequest(session_id=session_id, server=place.server, kernelspec="", epoch=1)
    ref = await place.backend.start_kernel(request)
    yield ref, WorkspaceRequest(session_id=session_id, server=place.server)
    await place.backend.stop_kernel(ref)


@pytest.fixture
async def kernel(place: Place, shared: tuple[KernelRef, WorkspaceRequest]) -> AsyncIterator[Kernel]:
    async with place.backend.connect(shared[0]) as kernel:
        yield kernel


@pytest.fixture
async def workspace(
    place: Place, shared: tuple[KernelRef, WorkspaceRequest], kernel: Kernel
) -> Workspace:
    """The folder of the shared kernel, however it is reached, and empty."""
    workspace = await place.backend.open_workspace(shared[1]) or kernel.workspace
    assert workspace is not None
    await run(kernel, EMPTY)
    return workspace


async def test_next_kernel_of_a_session_finds_its_files(place: Place) -> None:
    request = KernelRequest(
        session_id=f"sess_{uuid4().hex}", server=place.server, kernelspec="", epoch=1
    )
    for code in ("open('kept.txt', 'w').write('kept')", "print(open('kept.txt').read())"):
        ref = await place.backend.start_kernel(request)
        try:
            async with place.backend.connect(ref) as kernel:
                outcome = await run(kernel, code)
        finally:
            await place.backend.stop_kernel(ref)

    assert outcome.text() == "kept\n"


async def read(
    workspace: Workspace, path: str, *, offset: int = 0, length: int | None = None
) -> bytes:
    async with workspace.open_file(path, offset=offset, length=length) as chunks:
        return b"".join([chunk async for chunk in chunks])


# --- executions


async def test_variables_last_from_one_execution_to_the_next(kernel: Kernel) -> None:
    await run(kernel, "x = 20")

    outcome = await run(kernel, "x + 1")

    assert outcome.result == "21"
    assert outcome.done.status == "ok"


async def test_executions_are_counted(kernel: Kernel) -> None:
    first = await run(kernel, "1")
    second = await run(kernel, "2")

    assert first.done.execution_count is not None
    assert second.done.execution_count == first.done.execution_count + 1


async def test_both_streams_arrive_apart(kernel: Kernel) -> None:
    outcome = await run(kernel, "import sys\nprint('out é 🎈')\nprint('err', file=sys.stderr)")

    assert outcome.text("stdout") == "out é 🎈\n"
    assert outcome.text("stderr") == "err\n"


async def test_output_arrives_while_code_runs(kernel: Kernel) -> None:
    execution = await kernel.execute(
        "print('first', flush=True)\nimport time\ntime.sleep(60)", execution_id=uuid4().hex
    )

    await wait_for_text(execution, "first")
    await kernel.interrupt()

    assert (await follow(execution)).done.status == "error"


async def test_an_exception_is_output_and_the_kernel_goes_on(kernel: Kernel) -> None:
    outcome = await run(kernel, "print('before')\n1 / 0")
    after = await run(kernel, "'after'")

    (error,) = [event for event in outcome.events if isinstance(event, ErrorOutput)]
    assert error.name == "ZeroDivisionError"
    assert error.message == "division by zero"
    assert "ZeroDivisionError" in error.traceback
    assert outcome.text() == "before\n"
    assert outcome.done.status == "error"
    assert after.result == "'after'"


async def test_code_that_is_no_code_is_an_error(kernel: Kernel) -> None:
    outcome = await run(kernel, "def (")

    assert outcome.error == "SyntaxError"
    assert outcome.done.status == "error"


async def test_displays_carry_their_bundle_and_id(kernel: Kernel) -> None:
    outcome = await run(
        kernel,
        "from IPython.display import HTML, display, update_display\n"
        "display(HTML('<b>1</b>'), display_id='one')\n"
        "update_display(HTML('<b>2</b>'), display_id='one')\n",
    )

    (display,) = [event for event in outcome.events if isinstance(event, DisplayOutput)]
    (update,) = [event for event in outcome.events if isinstance(event, DisplayUpdate)]
    assert display.kind == "display"
    assert display.display_id == "one"
    assert display.data["text/html"] == "<b>1</b>"
    assert update.display_id == "one"
    assert update.data["text/html"] == "<b>2</b>"


@pytest.mark.parametrize("wait", [True, False])
async def test_clearing_output_is_an_event(kernel: Kernel, wait: bool) -> None:
    outcome = await run(
        kernel,
        "from IPython.display import clear_output\n"
        f"print('gone')\nclear_output(wait={wait})\nprint('kept')",
    )

    assert ClearOutput(wait=wait) in outcome.events
    assert outcome.text() == "gone\nkept\n"


async def test_ten_megabytes_arrive_whole(place: Place, kernel: Kernel) -> None:
    if place.name in ("remote", "gateway"):
        pytest.skip("a stock server limits the rate")

    outcome = await run(kernel, "for i in range(1000):\n    print(str(i % 10) * 9999)")

    expected = "".join(str(i % 10) * 9999 + "\n" for i in range(1000))
    assert outcome.text() == expected


async def test_thousands_of_small_outputs_arrive_whole(place: Place, kernel: Kernel) -> None:
    if place.name in ("remote", "gateway"):
        pytest.skip("a stock server limits the rate")

    outcome = await run(kernel, "for i in range(3500):\n    print(i, flush=True)")

    assert outcome.text() == "".join(f"{i}\n" for i in range(3500))


async def test_asking_for_input_fails_at_once(kernel: Kernel) -> None:
    outcome = await run(kernel, "input('name? ')")

    assert outcome.done.status == "error"
    assert outcome.error in ("StdinNotImplementedError", "NotImplementedError")


async def test_a_child_that_holds_stdout_open_does_not_hold_the_execution(kernel: Kernel) -> None:
    outcome = await run(
        kernel,
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])\n"
        "'left'",
    )
    ended = await run(kernel, "child.kill(); child.wait(); 'ended'")

    assert outcome.result == "'left'"
    assert ended.result == "'ended'"


async def test_cancelling_a_receive_loses_nothing(kernel: Kernel) -> None:
    execution = await kernel.execute(
        "import time\nfor i in range(50):\n    print(i, flush=True)\n    time.sleep(0.002)",
        execution_id=uuid4().hex,
    )
    text = ""
    outcome = None
    with anyio.fail_after(DEADLINE):
        while outcome is None:
            with anyio.move_on_after(0.003):
                event = await execution.receive()
                if hasattr(event, "text"):
                    text += event.text
                else:
                    outcome = event

    assert text == "".join(f"{i}\n" for i in range(50))


# --- interrupts


async def test_an_interrupt_ends_the_code_and_keeps_variables(kernel: Kernel) -> None:
    await run(kernel, "kept = 'kept'")
    execution = await kernel.execute(
        "print('busy', flush=True)\nwhile True: pass", execution_id=uuid4().hex
    )
    await wait_for_text(execution, "busy")

    await kernel.interrupt()
    outcome = await follow(execution)

    assert outcome.error == "KeyboardInterrupt"
    assert (await run(kernel, "kept")).result == "'kept'"


async def test_the_execution_after_an_interrupt_is_not_eaten(kernel: Kernel) -> None:
    for number in range(5):
        execution = await kernel.execute(
            "print('busy', flush=True)\nimport time\ntime.sleep(60)", execution_id=uuid4().hex
        )
        await wait_for_text(execution, "busy")
        await kernel.interrupt()
        await follow(execution)

        outcome = await run(kernel, str(number))

        assert outcome.result == str(number)
        assert outcome.done.status == "ok"


async def test_an_interrupt_of_an_idle_kernel_does_not_hit_what_comes_next(kernel: Kernel) -> None:
    await run(kernel, "1")

    await kernel.interrupt()
    outcome = await run(kernel, "sum(range(1000))")

    assert outcome.result == "499500"


# --- kernels come and go


async def test_another_connection_finds_the_variables(place: Place) -> None:
    async with started(place) as ref:
        async with place.backend.connect(ref) as kernel:
            await run(kernel, "x = 'still here'")

        async with place.backend.connect(ref) as kernel:
            outcome = await run(kernel, "x")

    assert outcome.result == "'still here'"


async def test_two_connections_to_one_kernel_do_not_mix(
    place: Place, kernel: Kernel, shared: tuple[KernelRef, WorkspaceRequest]
) -> None:
    if place.name == "fake":
        pytest.skip("the fake answers one connection at a time")
    other = replace(
        shared[0], channel_id=uuid4().hex + "." + shared[0].channel_id.partition(".")[2]
    )
    async with place.backend.connect(other) as second:
        mine = await kernel.execute("print('mine')", execution_id=uuid4().hex)
        theirs = await second.execute("print('theirs')", execution_id=uuid4().hex)

        assert (await follow(mine)).text() == "mine\n"
        assert (await follow(theirs)).text() == "theirs\n"


async def test_sessions_do_not_share_variables_or_folders(place: Place, kernel: Kernel) -> None:
    await run(kernel, "open('mine.txt', 'w').close()\nmine = 1")
    async with started(place) as ref, place.backend.connect(ref) as other:
        outcome = await run(other, "import os\n('mine' in globals(), os.listdir())")

    assert outcome.result == "(False, [])"


async def test_a_stopped_kernel_is_lost(place: Place) -> None:
    async with started(place) as ref:
        await place.backend.stop_kernel(ref)

        with pytest.raises(KernelLostError):
            async with place.backend.connect(ref):
                pass


async def test_an_unknown_kernel_is_lost(
    place: Place, shared: tuple[KernelRef, WorkspaceRequest]
) -> None:
    unknown = replace(shared[0], kernel_id="00000000-0000-4000-8000-000000000000")

    with pytest.raises(KernelLostError):
        async with place.backend.connect(unknown):
            pass
    await place.backend.stop_kernel(unknown)


async def test_an_unknown_kernelspec_does_not_start(place: Place) -> None:
    request = KernelRequest(
        session_id="sess_none", server=place.server, kernelspec="cobol", epoch=1
    )

    with pytest.raises(KernelStartError):
        await place.backend.start_kernel(request)


async def test_a_kernel_that_ends_itself_has_died(place: Place) -> None:
    async with started(place) as ref:
        async with place.backend.connect(ref) as kernel:
            execution = await kernel.execute(
                "import os\nprint('bye', flush=True)\nos._exit(1)", execution_id=uuid4().hex
            )
            with pytest.raises(KernelDiedError):
                await follow(execution)
            with pytest.raises(KernelLostError):
                await kernel.execute("1", execution_id=uuid4().hex)

        with pytest.raises(KernelLostError):
            async with place.backend.connect(ref):
                pass


async def test_the_place_says_what_it_offers(place: Place) -> None:
    specs = await place.backend.list_kernelspecs(place.server)

    assert place.server in place.backend.servers()
    assert specs[0].language == "python"
    expected = {
        "fake": ("none",),
        "unsandboxed": ("none",),
        "embedded": (Settings().isolation, "namespaces", "bubblewrap"),
    }
    assert place.backend.isolation(place.server) in expected.get(place.name, ("remote",))


# --- files


async def test_code_and_workspace_see_the_same_folder(kernel: Kernel, workspace: Workspace) -> None:
    await workspace.write("in.txt", chunked(b"from outside"))

    outcome = await run(
        kernel,
        "import os\nprint(open('in.txt').read())\nos.makedirs('a/b')\n"
        "open('a/b/out.txt', 'w').write('from inside')\nos.getcwd()",
    )

    assert outcome.text() == "from outside\n"
    assert outcome.result == repr(workspace.root)
    assert [file.path for file in await workspace.list_files(limit=10)] == ["a/b/out.txt", "in.txt"]
    assert await read(workspace, "a/b/out.txt") == b"from inside"


async def test_a_large_file_travels_both_ways_unchanged(
    kernel: Kernel, workspace: Workspace
) -> None:
    content = hashlib.sha256(b"seed").digest() * 300_000  # 9.6 MB
    digest = hashlib.sha256(content).hexdigest()

    await workspace.write("folder/large file é.bin", chunked(content))

    assert (await workspace.stat("folder/large file é.bin")).size == len(content)
    assert await workspace.sha256("folder/large file é.bin") == digest
    assert await read(workspace, "folder/large file é.bin") == content
    outcome = await run(
        kernel,
        "import hashlib\nhashlib.sha256(open('folder/large file é.bin','rb').read()).hexdigest()",
    )
    assert outcome.result == repr(digest)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 4 << 20])
async def test_files_of_any_size_are_written_whole(workspace: Workspace, size: int) -> None:
    await workspace.write("file.bin", chunked(b"x" * size, 700_000))

    assert (await workspace.stat("file.bin")).size == size
    assert await read(workspace, "file.bin") == b"x" * size


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, None, b"0123456789"), (3, 4, b"3456"), (8, 10, b"89"), (10, None, b""), (20, 5, b"")],
)
async def test_a_part_of_a_file_can_be_read(
    workspace: Workspace, offset: int, length: int | None, expected: bytes
) -> None:
    await workspace.write("digits", chunked(b"0123456789"))

    assert await read(workspace, "digits", offset=offset, length=length) == expected


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_writing_again_replaces_a_file(workspace: Workspace, size: int) -> None:
    await workspace.write("file", chunked(b"old" * 1_000_000))

    await workspace.write("file", chunked(b"n" * size))

    assert await read(workspace, "file") == b"n" * size
    assert [file.path for file in await workspace.list_files(limit=10)] == ["file"]


async def test_an_upload_that_fails_leaves_nothing(workspace: Workspace) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        raise ConnectionError("the uploader went away")

    with pytest.raises(ConnectionError):
        await workspace.write("file", broken())

    assert list(await workspace.list_files(limit=10)) == []


async def test_a_deleted_file_is_missing(workspace: Workspace) -> None:
    await workspace.write("file", chunked(b"content"))

    await workspace.delete("file")

    for verb in (workspace.stat, workspace.delete, workspace.sha256):
        with pytest.raises(NotFoundError):
            await verb("file")
    with pytest.raises(NotFoundError):
        await read(workspace, "file")


async def test_a_folder_is_no_file(kernel: Kernel, workspace: Workspace) -> None:
    await run(kernel, "import os\nos.makedirs('folder', exist_ok=True)")

    with pytest.raises(NotFoundError):
        await workspace.stat("folder")
    with pytest.raises(NotFoundError):
        await workspace.delete("folder")
    with pytest.raises(InvalidPathError):
        await workspace.write("folder", chunked(b"x"))


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a\0b"])
async def test_paths_out_of_the_folder_are_refused(workspace: Workspace, path: str) -> None:
    with pytest.raises(InvalidPathError):
        await workspace.stat(path)
    with pytest.raises(InvalidPathError):
        await workspace.write(path, chunked(b"x"))
    with pytest.raises(InvalidPathError):
        await workspace.delete(path)


def canaries(tmp_path: Path) -> Path:
    """Make a folder that links may lead to: one of the test's own, never one of the machine."""
    folder = tmp_path / "canaries"
    (folder / "inner").mkdir(parents=True)
    for name in ("one", "inner/two"):
        (folder / name).write_text(f"canary {name}")
    return folder


def find_harm(folder: Path) -> dict[str, str | None]:
    """Return what `folder` holds: the content of each file, and None for each folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def make_links(folder: Path) -> str:
    """Return code that links its folder to `folder` in every way."""
    return (
        "import os\n"
        f"os.symlink({str(folder)!r}, 'folder_link')\n"
        f"os.symlink({str(folder / 'one')!r}, 'link')\n"
        "os.makedirs('sub', exist_ok=True)\n"
        f"os.symlink({str(folder / 'inner')!r}, 'sub/deeper')\n"
        f"os.symlink({str(folder / 'inner' / 'two')!r}, 'sub/file')\n"
        f"os.symlink({str(folder / 'new')!r}, 'dangling')\n"
        f"os.symlink({str(folder)!r}, '.ipynb_checkpoints')\n"
    )


@asynccontextmanager
async def linked(place: Place, folder: Path) -> AsyncIterator[tuple[Workspace, WorkspaceRequest]]:
    """A session of its own with links to `folder`; it is removed at the end, whatever happens."""
    request = KernelRequest(
        session_id=f"sess_{uuid4().hex}", server=place.server, kernelspec="", epoch=1
    )
    where = WorkspaceRequest(session_id=request.session_id, server=place.server)
    ref = await place.backend.start_kernel(request)
    try:
        async with place.backend.connect(ref) as kernel:
            outcome = await run(kernel, make_links(folder))
            assert outcome.done.status == "ok", outcome.error
            workspace = await place.backend.open_workspace(where) or kernel.workspace
            assert workspace is not None
            yield workspace, where
    finally:
        await place.backend.stop_kernel(ref)
        await place.backend.remove_workspace(where)


async def test_symbolic_links_are_not_followed(place: Place, tmp_path: Path) -> None:
    folder = canaries(tmp_path)
    before = find_harm(folder)

    async with linked(place, folder) as (workspace, _):
        for path in ("folder_link/new", "sub/deeper/two", "folder_link/made/new"):
            with pytest.raises(InvalidPathError):
                await workspace.write(path, chunked(b"x"))
        for path in ("link", "folder_link/one", "sub/deeper/two", "sub/file", "dangling"):
            with pytest.raises(NotFoundError):
                await workspace.delete(path)
        assert find_harm(folder) == before
        if place.name != "remote":  # whose contents API cannot tell links: see docs/security.md
            assert list(await workspace.list_files(limit=10)) == []
            for path in ("link", "folder_link/one"):
                with pytest.raises(NotFoundError):
                    await workspace.stat(path)
                with pytest.raises(NotFoundError):
                    await read(workspace, path)
        await workspace.write("link", chunked(b"in the place of the link"))
        await workspace.write("sub/file", chunked(b"y" * 3_000_000))
        await workspace.write("dangling", chunked(b"z"))
        assert await read(workspace, "link") == b"in the place of the link"
        assert [file.size for file in [await workspace.stat("sub/file")]] == [3_000_000]
        await workspace.delete("link")

    assert find_harm(folder) == before


async def test_removing_a_folder_of_links_removes_only_the_links(
    place: Place, tmp_path: Path
) -> None:
    folder = canaries(tmp_path)
    before = find_harm(folder)

    with pytest.raises(AssertionError, match="in between"):
        async with linked(place, folder):
            raise AssertionError("in between")
    async with linked(place, folder) as (_, where):
        pass

    assert find_harm(folder) == before
    ref = await place.backend.start_kernel(
        KernelRequest(session_id=where.session_id, server=place.server, kernelspec="", epoch=1)
    )
    async with place.backend.connect(ref) as kernel:
        left = await run(kernel, "import os\nprint(os.listdir())")
    await place.backend.stop_kernel(ref)
    await place.backend.remove_workspace(where)
    assert left.text() == "[]\n"


async def test_a_listing_stops_at_its_limit(kernel: Kernel, workspace: Workspace) -> None:
    await run(kernel, "for i in range(30): open(f'{i:02}', 'w').close()")

    files = await workspace.list_files(limit=7)

    assert len(files) == 7


async def test_a_listing_that_comes_with_the_reply_is_that_of_the_workspace(
    kernel: Kernel, workspace: Workspace
) -> None:
    outcome = await run(
        kernel, "import os\nos.makedirs('d', exist_ok=True)\nopen('d/f', 'w').write('x')"
    )

    listed = await workspace.list_files(limit=10)

    assert [file.path for file in listed] == ["d/f"]
    assert outcome.done.files in (None, tuple(listed))


async def test_the_digest_of_a_changed_file_is_that_of_its_bytes(
    kernel: Kernel, workspace: Workspace
) -> None:
    for content in ("one", "two"):
        await run(kernel, f"open('f', 'w').write({content!r})")

        assert await workspace.sha256("f") == hashlib.sha256(content.encode()).hexdigest()
    await workspace.write("f", chunked(b"three"))

    assert await workspace.sha256("f") == hashlib.sha256(b"three").hexdigest()


async def test_a_removed_workspace_is_empty_when_it_is_opened_again(place: Place) -> None:
    session_id = f"sess_{uuid4().hex}"
    request = WorkspaceRequest(session_id=session_id, server=place.server)
    for content in ("one", "two"):
        ref = await place.backend.start_kernel(
            KernelRequest(session_id=session_id, server=place.server, kernelspec="", epoch=1)
        )
        async with place.backend.connect(ref) as kernel:
            outcome = await run(
                kernel,
                "import os\nprint(os.listdir())\nos.makedirs('d/e')\n"
                f"open('d/e/f', 'w').write({content!r})\nopen('.hidden', 'w').write('x')",
            )
        await place.backend.stop_kernel(ref)
        await place.backend.remove_workspace(request)

        assert outcome.text() == "[]\n"
    await place.backend.remove_workspace(request)
