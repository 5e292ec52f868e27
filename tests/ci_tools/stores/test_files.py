from dataclasses import replace

import anyio
import pytest

from ci_tools.errors import LimitError, NotFoundError
from ci_tools.models import File, Session, new_id
from ci_tools.stores.nouns import StoredFile
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


async def test_a_file_is_found_by_id_and_by_path(store: RecordStore, session: Session) -> None:
    file, replaced = await store.put_file(new_file(session.id, "ü/a.csv"), key="k", limit=100)

    assert replaced is None
    assert file.modified_at > 1_700_000_000
    assert file.id is not None
    stored = StoredFile(file=file, key="k")
    assert await store.get_file(file.id, principal="ada") == stored
    assert await store.find_file(session.id, "ü/a.csv", principal="ada") == stored
    assert await store.find_file(session.id, "a.csv", principal="ada") is None


async def test_files_are_listed_by_path(store: RecordStore, session: Session) -> None:
    for path in ("b", "a/z", "a.b", "Ä", "B"):
        await store.put_file(new_file(session.id, path), key=path, limit=100)

    listed = await store.list_stored_files(session.id, principal="ada")

    assert [stored.key for stored in listed] == ["B", "a.b", "a/z", "b", "Ä"]


async def test_a_file_replaces_that_of_the_same_path_and_its_bytes(
    store: RecordStore, session: Session
) -> None:
    await store.put_file(new_file(session.id, "a", size=60), key="old", limit=100)

    file, replaced = await store.put_file(new_file(session.id, "a", size=90), key="new", limit=100)

    assert replaced == "old"
    assert await store.stored_bytes(principal="ada") == 90
    assert await store.list_stored_files(session.id, principal="ada") == [
        StoredFile(file=file, key="new")
    ]


async def test_bytes_are_limited_for_each_principal(store: RecordStore, session: Session) -> None:
    await store.touch_session(session.id, workspace_bytes=50)
    await store.put_file(new_file(session.id, "a", size=40), key="a", limit=100)

    with pytest.raises(LimitError):
        await store.put_file(new_file(session.id, "b", size=11), key="b", limit=100)
    with pytest.raises(LimitError):
        await store.put_file(new_file(session.id, "a", size=51), key="b", limit=100)
    for name, size in (("b", 11), ("a", 51)):
        with pytest.raises(LimitError):
            await store.check_room(new_file(session.id, name, size=size), limit=100)
    await store.check_room(new_file(session.id, "a", size=50), limit=100)

    assert await store.stored_bytes(principal="ada") == 90
    found = await store.find_file(session.id, "a", principal="ada")
    assert found is not None and found.key == "a"


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

    assert await store.find_file(session.id, "a", principal="bob") is None
    for lookup in (
        store.get_file(file.id, principal="bob"),
        store.delete_file(file.id, principal="bob"),
        store.get_file("file-\x00", principal="ada"),
        store.delete_file("file-gone", principal="ada"),
        store.list_stored_files(session.id, principal="bob"),
        store.put_file(replace(new_file(session.id, "b"), principal="bob"), key="b", limit=100),
    ):
        with pytest.raises(NotFoundError):
            await lookup
