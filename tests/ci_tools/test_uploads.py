from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, select, update

from ci_tools import (
    File,
    FileTooLargeError,
    InvalidPathError,
    LimitError,
    NotFoundError,
    SessionService,
    Settings,
    open_service,
    upkeep,
)
from ci_tools.kernel import WorkspaceRequest
from ci_tools.models import KernelRef
from ci_tools.stores.schema import loose_objects
from ci_tools.testing import FakeBackend, FakeKernel
from ci_tools.workspace import LocalWorkspace


async def read(service: SessionService, id: str | None, **part: int) -> bytes:
    assert id is not None
    async with service.uploads.open(id, **part) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def ids(service: SessionService, session_id: str) -> dict[str, str | None]:
    return {file.path: file.id for file in await service.list_files(session_id)}


async def add(service: SessionService, name: str, content: bytes) -> str:
    file = await service.uploads.add(name, content)
    assert file.id is not None
    return file.id


async def test_an_upload_is_kept_without_a_session(service: SessionService) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one,"
        yield b"two"

    file = await service.uploads.add("data/a.csv", chunks())

    assert file.id is not None and file.id.startswith("file-")
    assert (file.session_id, file.path, file.size, file.media_type) == (
        None,
        "data/a.csv",
        7,
        "text/csv",
    )
    assert await service.uploads.get(file.id) == file
    assert await read(service, file.id) == b"one,two"
    assert await read(service, file.id, offset=2, length=3) == b"e,t"


async def test_a_staged_upload_has_its_id_in_every_session(service: SessionService) -> None:
    first, second = await service.create_session(), await service.create_session()
    id = await add(service, "a.csv", b"1,2")

    staged = await service.uploads.stage(first.id, id)
    renamed = await service.uploads.stage(second.id, id, "in/b.csv")
    step = await service.run_code(second.id, "print(open('/mnt/data/in/b.csv').read())")

    assert (staged.id, staged.session_id, staged.path) == (id, first.id, "a.csv")
    assert (renamed.id, renamed.session_id, renamed.path) == (id, second.id, "in/b.csv")
    assert await ids(service, first.id) == {"a.csv": id}
    assert await ids(service, second.id) == {"in/b.csv": id}
    assert (await service.stat_file(second.id, "in/b.csv")).id == id
    assert (await service.uploads.find(second.id, id)).path == "in/b.csv"
    assert [output for output in step.outputs if getattr(output, "text", "") == "1,2\n"]


@pytest.mark.parametrize("content", ["4,5", "4,5,6"])
async def test_a_copy_that_code_changed_has_lost_the_id(
    service: SessionService, content: str
) -> None:
    session = await service.create_session()
    id = await add(service, "a.csv", b"1,2")
    await service.uploads.stage(session.id, id)

    await service.run_code(session.id, f"open('a.csv', 'w').write({content!r})")

    assert await ids(service, session.id) == {"a.csv": None}
    assert (await service.stat_file(session.id, "a.csv")).id is None
    with pytest.raises(NotFoundError):
        await service.uploads.find(session.id, id)
    assert await read(service, id) == b"1,2"
    again = await service.uploads.identify(session.id, "a.csv")
    assert again.id not in (None, id)


async def test_a_copy_that_code_only_touched_has_the_id_still(service: SessionService) -> None:
    session = await service.create_session()
    id = await add(service, "a.csv", b"1,2")
    await service.uploads.stage(session.id, id)

    await service.run_code(session.id, "open('a.csv', 'w').write('1,2')")

    assert await ids(service, session.id) == {"a.csv": id}


async def test_staging_replaces_the_upload_of_the_path(
    service: SessionService, settings: Settings
) -> None:
    session = await service.create_session()
    replaced = await service.upload_file(session.id, "a.csv", b"replaced by a staged file")
    id = await add(service, "a.csv", b"1,2")

    await service.uploads.stage(session.id, id)

    assert await ids(service, session.id) == {"a.csv": id}
    with pytest.raises(NotFoundError):
        await service.uploads.get(replaced.id or "")
    objects = settings.state_dir / "objects"
    assert [path.read_bytes() for path in objects.rglob("*") if path.is_file()] == [b"1,2"]


async def test_an_upload_of_a_session_can_be_staged_where_it_was_and_elsewhere(
    service: SessionService,
) -> None:
    first, second = await service.create_session(), await service.create_session()
    file = await service.upload_file(first.id, "a.csv", b"1,2")
    assert file.id is not None
    await service.run_code(first.id, "open('a.csv', 'w').write('spoilt')")

    await service.uploads.stage(first.id, file.id)
    await service.uploads.stage(second.id, file.id)

    assert await ids(service, first.id) == await ids(service, second.id) == {"a.csv": file.id}
    await service.close_session(first.id)
    assert await ids(service, second.id) == {"a.csv": None}


async def test_a_deleted_upload_leaves_copies_without_an_id(service: SessionService) -> None:
    session = await service.create_session()
    id = await add(service, "a.csv", b"1,2")
    await service.uploads.stage(session.id, id)

    await service.uploads.delete(id)

    assert await ids(service, session.id) == {"a.csv": None}
    for call in (service.uploads.get(id), service.uploads.delete(id)):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotFoundError):
        await service.uploads.stage(session.id, id)
    with pytest.raises(NotFoundError):
        await read(service, id)


async def test_deleting_a_copy_keeps_the_upload(service: SessionService) -> None:
    session = await service.create_session()
    id = await add(service, "a.csv", b"1,2")
    await service.uploads.stage(session.id, id)

    await service.delete_file(session.id, "a.csv")

    assert await service.list_files(session.id) == []
    assert await read(service, id) == b"1,2"
    with pytest.raises(NotFoundError):
        await service.uploads.find(session.id, id)


async def test_an_identified_file_keeps_its_id_while_it_changes(service: SessionService) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "open('plot.png', 'w').write('one')")

    file = await service.uploads.identify(session.id, "/mnt/data/plot.png")
    again = await service.uploads.identify(session.id, "plot.png")
    await service.run_code(session.id, "open('plot.png', 'w').write('second')")
    found = await service.uploads.find(session.id, file.id or "")

    assert (file.session_id, file.path, file.size, file.media_type) == (
        session.id,
        "plot.png",
        3,
        "image/png",
    )
    assert file.id == again.id == found.id
    assert found.size == 6
    assert await ids(service, session.id) == {"plot.png": file.id}
    described = await service.stat_file(session.id, "plot.png")
    assert described.id == file.id and described.sha256 is not None
    with pytest.raises(NotFoundError):  # it is not kept
        await service.uploads.get(file.id or "")


async def test_a_kept_file_has_the_id_it_was_known_by_and_outlives_the_session(
    service: SessionService,
) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "open('out.txt', 'w').write('result')")
    handle = await service.uploads.identify(session.id, "out.txt")

    kept = await service.uploads.keep(session.id, "out.txt")
    again = await service.uploads.keep(session.id, "out.txt")

    assert kept == again
    assert (kept.id, kept.session_id, kept.path, kept.size) == (handle.id, None, "out.txt", 6)
    assert await ids(service, session.id) == {"out.txt": kept.id}
    await service.close_session(session.id)
    assert await read(service, kept.id) == b"result"
    assert await service.uploads.get(kept.id or "") == kept


async def test_an_id_stands_for_the_same_bytes_once_they_are_kept(service: SessionService) -> None:
    session = await service.create_session()
    await service.run_code(session.id, "open('out.txt', 'w').write('one')")
    first = await service.uploads.keep(session.id, "out.txt")
    await service.run_code(session.id, "open('out.txt', 'w').write('two')")

    second = await service.uploads.keep(session.id, "out.txt")

    assert first.id != second.id
    assert await read(service, first.id) == b"one"
    assert await read(service, second.id) == b"two"
    assert await ids(service, session.id) == {"out.txt": second.id}


async def test_bytes_changed_behind_an_unchanged_time_are_noticed_when_kept(
    service: SessionService,
) -> None:
    session = await service.create_session()
    first = await service.upload_file(session.id, "a.txt", b"one")
    await service.run_code(
        session.id,
        "import os\nat = os.stat('a.txt').st_mtime_ns\nopen('a.txt', 'w').write('two')\n"
        "os.utime('a.txt', ns=(at, at))",
    )

    second = await service.uploads.keep(session.id, "a.txt")

    assert second.id != first.id
    assert await read(service, second.id) == b"two"


async def test_keeping_an_upload_of_a_session_lets_it_outlive_the_session(
    service: SessionService, settings: Settings
) -> None:
    session = await service.create_session()
    file = await service.upload_file(session.id, "a.txt", b"once")

    kept = await service.uploads.keep(session.id, "a.txt")
    await service.delete_file(session.id, "a.txt")
    await service.close_session(session.id)

    assert kept == replace(file, session_id=None, modified_at=kept.modified_at)
    assert await read(service, kept.id) == b"once"
    objects = settings.state_dir / "objects"
    assert len([path for path in objects.rglob("*") if path.is_file()]) == 1


async def test_limits_hold_for_files_without_a_session(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", file_limit=10, bytes_per_principal=15)
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        await service.run_code(session.id, "open('big', 'w').write('x' * 11)")
        await service.run_code(session.id, "open('small', 'w').write('x' * 3)")

        with pytest.raises(FileTooLargeError):
            await service.uploads.add("a", b"x" * 11)
        with pytest.raises(FileTooLargeError):
            await service.uploads.keep(session.id, "big")
        with pytest.raises(LimitError):
            await service.uploads.keep(session.id, "small")
        with pytest.raises(LimitError):
            await service.uploads.add("a", b"x" * 3)
        with pytest.raises(InvalidPathError):
            await service.uploads.add("../a", b"x")
        await service.uploads.add("a", b"x")

    objects = tmp_path / "state" / "objects"
    assert len([path for path in objects.rglob("*") if path.is_file()]) == 1


async def test_nothing_of_another_principal_can_be_had(service: SessionService) -> None:
    ada, bob = service.act_as("ada"), service.act_as("bob")
    mine, foreign = await ada.create_session(), await bob.create_session()
    id = await add(bob, "a.txt", b"of bob")
    await bob.uploads.stage(foreign.id, id)

    for call in (
        ada.uploads.get(id),
        ada.uploads.delete(id),
        ada.uploads.stage(mine.id, id),
        ada.uploads.stage(foreign.id, await add(ada, "b.txt", b"of ada")),
        ada.uploads.keep(foreign.id, "a.txt"),
        ada.uploads.identify(foreign.id, "a.txt"),
        ada.uploads.find(foreign.id, id),
        ada.uploads.find(mine.id, id),
        ada.uploads.get("file-\x00"),
    ):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotFoundError):
        await read(ada, id)
    assert await read(bob, id) == b"of bob"


async def test_erasing_a_principal_erases_its_uploads_and_asks_adapters_to(
    service: SessionService,
) -> None:
    ada = service.act_as("ada")
    id = await add(ada, "a.txt", b"of ada")
    asked: list[str] = []

    async def erase(principal: str) -> None:
        asked.append(principal)

    service.on_erase(erase)

    await ada.erase_principal()

    assert asked == ["ada"]
    with pytest.raises(NotFoundError):
        await ada.uploads.get(id)


class Gateway(FakeBackend):
    """Kernels in front of a folder that only they reach."""

    folder: Path

    async def open_workspace(self, request: WorkspaceRequest) -> None:
        return None

    @asynccontextmanager
    async def connect(self, ref: KernelRef) -> AsyncIterator[FakeKernel]:
        async with super().connect(ref) as kernel:
            vars(kernel)["workspace"] = LocalWorkspace(self.folder)
            yield kernel


@pytest.fixture
async def gateway(settings: Settings, tmp_path: Path) -> AsyncIterator[SessionService]:
    """A service of one session, whose files can be reached through its kernel only."""
    backend = Gateway(tmp_path / "folders")
    async with open_service(settings, backend=backend) as service:
        session = await service.create_session()
        backend.folder = tmp_path / "folders" / session.id
        yield service


async def test_no_object_is_left_loose_in_the_course_of_things(
    service: SessionService, settings: Settings
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError

    session = await service.create_session()
    kept = await add(service, "a.csv", b"1")
    for content in (b"2", b"3"):
        await service.upload_file(session.id, "b.csv", content)
    await service.uploads.keep(session.id, "b.csv")
    await service.uploads.stage(session.id, kept, "b.csv")
    await service.delete_file(session.id, "b.csv")
    await service.uploads.delete(kept)
    await service.run_code(session.id, f"print('x' * {settings.text_limit + 1})")
    await service.close_session(session.id)
    with pytest.raises(LookupError):
        await service.uploads.add("c.csv", broken())

    def read_loose(conn: Connection) -> list[str | None]:
        return list(conn.scalars(select(loose_objects.c.lease)))

    # The one that failed is looked at again, in case something of it was left.
    assert await service.database.read(read_loose) == [None]


async def test_upkeep_deletes_what_a_dead_process_wrote_and_not_what_a_live_one_writes(
    service: SessionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_LOOSE_TIME", 0)
    engine = service._engine
    left = await engine.blobs.put_bytes(b"left behind", principal="ada")
    dead = update(loose_objects).values(lease="lease_of_the_dead")
    await service.database.write(lambda conn: conn.execute(dead))
    begun, swept = anyio.Event(), anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"abc"
        begun.set()
        await swept.wait()
        yield b"def"

    ids: list[str | None] = []

    async def upload() -> None:
        ids.append((await service.uploads.add("a.csv", slow())).id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upload)
            await begun.wait()
            await upkeep.sweep_objects(engine)
            swept.set()

    assert await read(service, ids[0]) == b"abcdef"
    with pytest.raises(NotFoundError):
        await engine.blobs.size(left)


async def test_files_go_through_the_kernel_where_they_must(gateway: SessionService) -> None:
    [session] = await gateway.list_sessions()
    id = await add(gateway, "in.txt", b"in")

    await gateway.uploads.stage(session.id, id)
    await gateway.run_code(session.id, "open('out.txt', 'w').write(open('in.txt').read() + '!')")
    kept: File = await gateway.uploads.keep(session.id, "out.txt")

    assert await ids(gateway, session.id) == {"in.txt": id, "out.txt": kept.id}
    assert await read(gateway, kept.id) == b"in!"
