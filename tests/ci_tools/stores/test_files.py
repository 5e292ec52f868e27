from collections.abc import Callable
from dataclasses import replace

import anyio
import pytest

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import File, Session, new_id
from ci_tools.stores.nouns import Placement, StoredFile
from ci_tools.stores.records import RecordStore


def new_file(session_id: str | None, path: str, *, size: int = 10, principal: str = "ada") -> File:
    return File(
        id=new_id("file-"),
        principal=principal,
        session_id=session_id,
        path=path,
        size=size,
        sha256="ab" * 32,
        media_type="text/csv",
        modified_at=0,
    )


async def test_a_file_is_found_by_id_and_its_path_has_the_id(
    store: RecordStore, session: Session
) -> None:
    file, replaced = await store.put_file(
        new_file(session.id, "ü/a.csv"), key="k", limit=100, modified_at=2.5
    )

    assert replaced is None
    assert file.modified_at > 1_700_000_000
    assert file.id is not None
    stored = StoredFile(file=file, key="k")
    assert await store.get_file(file.id, principal="ada") == stored
    assert await store.find_placement(session.id, "ü/a.csv", principal="ada") == Placement(
        session_id=session.id,
        path="ü/a.csv",
        file_id=file.id,
        size=10,
        sha256="ab" * 32,
        modified_at=2.5,
    )
    assert await store.find_placement(session.id, "a.csv", principal="ada") is None


async def test_placements_are_listed_by_path(store: RecordStore, session: Session) -> None:
    for path in ("b", "a/z", "a.b", "Ä", "B"):
        await store.put_file(new_file(session.id, path), key=path, limit=100)

    listed = await store.list_placements(session.id, principal="ada")

    assert [placement.path for placement in listed] == ["B", "a.b", "a/z", "b", "Ä"]


async def test_a_file_replaces_that_of_the_same_path_and_its_bytes(
    store: RecordStore, session: Session
) -> None:
    await store.put_file(new_file(session.id, "a", size=60), key="old", limit=100)

    file, replaced = await store.put_file(new_file(session.id, "a", size=90), key="new", limit=100)

    assert replaced == "old"
    assert await store.stored_bytes(principal="ada") == 90
    [placement] = await store.list_placements(session.id, principal="ada")
    assert placement.file_id == file.id


async def test_bytes_are_limited_for_each_principal(store: RecordStore, session: Session) -> None:
    await store.touch_session(session.id, workspace_bytes=50)
    kept, _ = await store.put_file(new_file(session.id, "a", size=40), key="a", limit=100)

    with pytest.raises(LimitError):
        await store.put_file(new_file(session.id, "b", size=11), key="b", limit=100)
    with pytest.raises(LimitError):
        await store.put_file(new_file(session.id, "a", size=51), key="b", limit=100)
    for name, size in (("b", 11), ("a", 51)):
        with pytest.raises(LimitError):
            await store.check_room(new_file(session.id, name, size=size), limit=100)
    await store.check_room(new_file(session.id, "a", size=50), limit=100)

    assert await store.stored_bytes(principal="ada") == 90
    found = await store.find_placement(session.id, "a", principal="ada")
    assert found is not None and found.file_id == kept.id


async def test_the_limit_of_bytes_holds_for_calls_at_once(
    store: RecordStore, session: Session
) -> None:
    async def put(number: int) -> None:
        try:
            await store.put_file(new_file(session.id, f"f{number}"), key="k", limit=35)
        except LimitError:
            pass

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(put, number)

    assert await store.stored_bytes(principal="ada") == 30


async def test_a_file_may_be_in_no_session(store: RecordStore) -> None:
    first, _ = await store.put_file(new_file(None, "a"), key="1", limit=100)
    _, replaced = await store.put_file(new_file(None, "a"), key="2", limit=100)

    assert replaced is None
    assert first.id is not None
    assert await store.delete_file(first.id, principal="ada") == "1"
    assert await store.stored_bytes(principal="ada") == 10


async def test_foreign_and_unknown_files_are_not_found(
    store: RecordStore, session: Session
) -> None:
    file, _ = await store.put_file(new_file(session.id, "a"), key="a", limit=100)
    assert file.id is not None

    for lookup in (
        store.get_file(file.id, principal="bob"),
        store.delete_file(file.id, principal="bob"),
        store.get_file("file-\x00", principal="ada"),
        store.delete_file("file-gone", principal="ada"),
        store.find_placement(session.id, "a", principal="bob"),
        store.list_placements(session.id, principal="bob"),
        store.list_placements(session.id, principal="ada", file_id="file-\x00"),
        store.remove_path(session.id, "a", principal="bob"),
        store.release_file(file.id, principal="bob"),
        store.place_file(
            Placement(session_id=session.id, path="a", file_id="file-x"), principal="bob"
        ),
        store.keep_file(
            replace(new_file(None, "b"), principal="bob"),
            session_id=session.id,
            key="b",
            limit=100,
            modified_at=None,
        ),
        store.put_file(replace(new_file(session.id, "b"), principal="bob"), key="b", limit=100),
    ):
        with pytest.raises(NotFoundError):
            await lookup


async def test_an_id_is_forgotten_everywhere_with_its_file(
    store: RecordStore, session: Session, new_session: Callable[..., Session]
) -> None:
    other = await store.add_session(new_session(), limit=10)
    deleted, _ = await store.put_file(new_file(session.id, "a"), key="a", limit=100)
    closed, _ = await store.put_file(new_file(session.id, "b"), key="b", limit=100)
    replaced, _ = await store.put_file(new_file(session.id, "c"), key="c", limit=100)
    kept, _ = await store.put_file(new_file(None, "d"), key="d", limit=100)
    for file in (deleted, closed, replaced, kept):
        await store.place_file(
            Placement(session_id=other.id, path=file.path, file_id=file.id or ""), principal="ada"
        )

    async def paths() -> list[str]:
        found = await store.list_placements(other.id, principal="ada")
        return [placement.path for placement in found]

    assert await paths() == ["a", "b", "c", "d"]
    await store.delete_file(deleted.id or "", principal="ada")
    assert await paths() == ["b", "c", "d"]
    await store.put_file(new_file(session.id, "c"), key="c2", limit=100)
    assert await paths() == ["b", "d"]
    assert sorted(await store.delete_session(session.id, principal="ada")) == ["b", "c2"]
    assert await paths() == ["d"]


async def test_a_path_takes_one_name_from_those_who_give_it_one_at_once(
    store: RecordStore, session: Session
) -> None:
    names: list[str] = []

    async def name(number: int) -> None:
        placement = Placement(session_id=session.id, path="a", file_id=f"file-{number}")
        names.append(await store.name_file(placement, principal="ada", instead=None))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(name, number)

    found = await store.find_placement(session.id, "a", principal="ada")
    assert found is not None and set(names) == {found.file_id}


async def test_a_file_that_is_kept_twice_under_one_id_is_kept_once(
    store: RecordStore, session: Session
) -> None:
    file = new_file(None, "a")

    async def keep(file: File, key: str) -> tuple[File, str | None]:
        return await store.keep_file(
            file, session_id=session.id, key=key, limit=100, modified_at=None
        )

    first, garbage = await keep(file, "1")
    again, garbage_again = await keep(file, "2")
    changed, none = await keep(replace(file, sha256="cd" * 32), "3")

    assert first == again
    assert (garbage, garbage_again, none) == (None, "2", None)
    assert changed.id not in (None, first.id)
    assert await store.stored_bytes(principal="ada") == 20
    found = await store.find_placement(session.id, "a", principal="ada")
    assert found is not None and found.file_id == changed.id


async def test_a_released_file_outlives_its_session(store: RecordStore, session: Session) -> None:
    file, _ = await store.put_file(new_file(session.id, "a"), key="a", limit=100)
    assert file.id is not None

    released = await store.release_file(file.id, principal="ada")

    assert released == replace(file, session_id=None)
    assert await store.delete_session(session.id, principal="ada") == []
    assert (await store.get_file(file.id, principal="ada")).key == "a"
