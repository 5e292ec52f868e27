from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from ci_tools.models import new_id
from ci_tools.stores.database import Database
from ci_tools.stores.migrate import create, upgrade
from ci_tools.stores.steps import release_lease, take_lease
from ci_tools_assistants.errors import ApiError, NoSuchObject, ThreadBusy
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage import removal
from ci_tools_assistants.storage.records import CHAIN, Records, Remove, RunLost, Write, open_records
from ci_tools_assistants.storage.schema import metadata

ADA, BOB = "ada", "bob"


def make_assistant(**fields: Any) -> Object:
    return {"id": new_id("asst_"), "object": "assistant", "metadata": {}, **fields}


def make_thread(**fields: Any) -> Object:
    return {
        "id": new_id("thread_"),
        "object": "thread",
        "metadata": {},
        "tool_resources": {},
        **fields,
    }


def make_message(thread: Object, text: str = "hello", **fields: Any) -> Object:
    return {
        "id": new_id("msg_"),
        "thread_id": thread["id"],
        "run_id": None,
        "attachments": [],
        "metadata": {},
        "content": text,
        **fields,
    }


def make_run(thread: Object, **fields: Any) -> Object:
    return {
        "id": new_id("run_"),
        "thread_id": thread["id"],
        "status": "queued",
        "expires_at": 2_000_000_000,
        **fields,
    }


def make_step(run: Object, **fields: Any) -> Object:
    return {
        "id": new_id("step_"),
        "run_id": run["id"],
        "status": "in_progress",
        "metadata": None,
        **fields,
    }


def to_status(status: str) -> Any:
    return lambda run: {**run, "status": status}


@pytest.fixture
async def thread(records: Records) -> Object:
    return await records.add(Kind.THREAD, make_thread(), principal=ADA)


async def texts(records: Records, thread: Object, **query: Any) -> list[str]:
    page = await records.page(Kind.MESSAGE, principal=ADA, parent=thread["id"], **query)
    return [message["content"] for message in page.data]


async def test_migrations_make_the_tables_that_new_stores_have(database: Database) -> None:
    def compare(conn: Connection) -> list[object]:
        context = MigrationContext.configure(
            conn, opts={"include_name": lambda name, kind, _: kind != "table" or "api_" in name}
        )
        return list(compare_metadata(context, metadata))

    def sql(conn: Connection) -> list[str]:
        query = (
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name LIKE '%api%'"
            if conn.dialect.name == "sqlite"
            else "SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'api%' UNION SELECT "
            "pg_get_constraintdef(oid) FROM pg_constraint WHERE conname LIKE '%api%'"
        )
        rows = conn.execute(text(query + " ORDER BY 1"))
        return sorted(str(sorted(str(row[0]).replace(",", " ").split())) for row in rows)

    await database.write(lambda conn: upgrade(conn, CHAIN), bulk=True)
    assert await database.read(compare) == []
    migrated = await database.read(sql)
    await database.write(metadata.drop_all)
    await database.write(lambda conn: conn.execute(text(f"DROP TABLE {CHAIN.version_table}")))
    await database.write(lambda conn: create(conn, CHAIN), bulk=True)
    created = await database.read(sql)

    assert migrated == created


async def test_a_store_can_be_opened_again(database: Database) -> None:
    first = await open_records(database)
    assistant = await first.add(Kind.ASSISTANT, make_assistant(), principal=ADA)

    second = await open_records(database)

    assert await second.get(Kind.ASSISTANT, assistant["id"], principal=ADA) == assistant


async def test_objects_come_back_whole(records: Records) -> None:
    strange = make_assistant(name="a\x00b\ud800 'q\" 🦜", metadata={"k": None}, temperature=0.1)

    await records.add(Kind.ASSISTANT, strange, principal=ADA)

    assert await records.get(Kind.ASSISTANT, strange["id"], principal=ADA) == strange


@pytest.mark.parametrize("id", ["asst_unknown", "", "a\x00b", "🦜", "a\nb"])
async def test_an_unknown_id_is_named(records: Records, id: str) -> None:
    with pytest.raises(NoSuchObject) as caught:
        await records.get(Kind.ASSISTANT, id, principal=ADA)

    assert caught.value.status == 404
    assert caught.value.message == f"No assistant found with id '{id}'."


async def test_nothing_of_another_principal_can_be_reached(
    records: Records, thread: Object
) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    mine = [
        (Kind.THREAD, thread, None),
        (Kind.RUN, run, thread["id"]),
        (
            Kind.MESSAGE,
            await records.add(
                Kind.MESSAGE, make_message(thread), principal=ADA, parent=thread["id"]
            ),
            thread["id"],
        ),
        (
            Kind.STEP,
            await records.add(Kind.STEP, make_step(run), principal=ADA, parent=run["id"]),
            run["id"],
        ),
    ]

    for kind, item, parent in mine:
        for call in (
            records.get(kind, item["id"], principal=BOB),
            records.change(kind, item["id"], dict, principal=BOB),
            records.delete(kind, item["id"], principal=BOB),
            records.get_private(kind, item["id"], principal=BOB),
            records.change_private(kind, item["id"], dict, principal=BOB),
        ):
            with pytest.raises(NoSuchObject):
                await call
        if parent is not None:
            with pytest.raises(NoSuchObject):
                await records.page(kind, principal=BOB, parent=parent)
            with pytest.raises(NoSuchObject):
                await records.add(kind, {**item, "id": "other"}, principal=BOB, parent=parent)
    with pytest.raises(NoSuchObject):
        await records.add_message(make_message(thread), principal=BOB)
    with pytest.raises(NoSuchObject):
        await records.start_run(make_run(thread), [], principal=BOB, lease="lease_1")
    with pytest.raises(NoSuchObject):
        await records.change_run(run["id"], dict, principal=BOB)
    with pytest.raises(NoSuchObject):
        await records.find_active_run(thread["id"], principal=BOB)
    assert (await records.page(Kind.THREAD, principal=BOB)).data == []
    with pytest.raises(NoSuchObject):
        await records.page(Kind.THREAD, principal=BOB, after=thread["id"])


async def test_a_message_belongs_to_its_thread_only(records: Records, thread: Object) -> None:
    other = await records.add(Kind.THREAD, make_thread(), principal=ADA)
    message = await records.add_message(make_message(thread), principal=ADA)

    with pytest.raises(NoSuchObject):
        await records.get(Kind.MESSAGE, message["id"], principal=ADA, parent=other["id"])
    with pytest.raises(NoSuchObject):
        await records.page(Kind.MESSAGE, principal=ADA, parent=other["id"], after=message["id"])


async def test_pages_are_in_the_order_of_creation(records: Records, thread: Object) -> None:
    made = [
        await records.add_message(make_message(thread, str(number)), principal=ADA)
        for number in range(6)
    ]
    ids = [message["id"] for message in made]

    assert await texts(records, thread) == ["5", "4", "3", "2", "1", "0"]
    assert await texts(records, thread, order="asc", limit=2) == ["0", "1"]
    assert await texts(records, thread, limit=2, after=ids[4]) == ["3", "2"]
    assert await texts(records, thread, limit=2, order="asc", after=ids[4]) == ["5"]
    assert await texts(records, thread, limit=2, before=ids[1]) == ["3", "2"]
    assert await texts(records, thread, limit=2, order="asc", before=ids[4]) == ["2", "3"]
    assert await texts(records, thread, after=ids[5], before=ids[2]) == ["4", "3"]


async def test_a_page_says_whether_there_is_more(records: Records, thread: Object) -> None:
    made = [await records.add_message(make_message(thread), principal=ADA) for _ in range(3)]

    async def more(**query: Any) -> bool:
        page = await records.page(Kind.MESSAGE, principal=ADA, parent=thread["id"], **query)
        return page.has_more

    assert await more(limit=2) is True
    assert await more(limit=3) is False
    assert await more(limit=1, before=made[0]["id"]) is True
    assert await more(limit=2, before=made[0]["id"]) is False


async def test_a_list_can_be_emptied_while_it_is_paged_through(
    records: Records, thread: Object
) -> None:
    made = [
        await records.add_message(make_message(thread, str(number)), principal=ADA)
        for number in range(4)
    ]
    for message in made[2:]:
        await records.delete(Kind.MESSAGE, message["id"], principal=ADA)

    assert await texts(records, thread, after=made[2]["id"]) == ["1", "0"]


async def test_an_unknown_cursor_is_named(records: Records, thread: Object) -> None:
    with pytest.raises(NoSuchObject, match="msg_unknown"):
        await records.page(Kind.MESSAGE, principal=ADA, parent=thread["id"], after="msg_unknown")


async def test_messages_are_found_by_their_run(records: Records, thread: Object) -> None:
    for run_id in (None, "run_1", "run_2", "run_1"):
        await records.add(
            Kind.MESSAGE,
            make_message(thread, str(run_id), run_id=run_id),
            principal=ADA,
            parent=thread["id"],
        )

    assert await texts(records, thread, run_id="run_1") == ["run_1", "run_1"]


async def test_threads_are_found_by_their_metadata(records: Records) -> None:
    async def found(**pairs: str) -> list[str]:
        page = await records.page(Kind.THREAD, principal=ADA, metadata=pairs)
        return [thread["id"] for thread in page.data]

    long = "ä" * 512
    first = make_thread(metadata={"user": "1", "room": "a"})
    second = make_thread(metadata={"user": "1", "room": "b", "long": long})
    for item in (first, second):
        await records.add(Kind.THREAD, item, principal=ADA)
    await records.add(Kind.THREAD, make_thread(metadata={"user": "1"}), principal=BOB)

    assert await found(user="1") == [second["id"], first["id"]]
    assert await found(user="1", room="a") == [first["id"]]
    assert await found(long=long) == [second["id"]]
    assert await found(user="a") == []

    await records.change(
        Kind.THREAD, first["id"], lambda old: {**old, "metadata": {"user": "2"}}, principal=ADA
    )
    await records.delete_thread(second["id"], principal=ADA)

    assert await found(user="1") == []
    assert await found(user="2") == [first["id"]]


async def test_a_change_that_raises_changes_nothing(records: Records, thread: Object) -> None:
    def refuse(old: Object) -> Object:
        raise ApiError(400, "no")

    with pytest.raises(ApiError):
        await records.change(Kind.THREAD, thread["id"], refuse, principal=ADA)

    assert await records.get(Kind.THREAD, thread["id"], principal=ADA) == thread


async def test_changes_do_not_lose_each_other(records: Records, thread: Object) -> None:
    async def count(_: int) -> None:
        await records.change(
            Kind.THREAD,
            thread["id"],
            lambda old: {**old, "count": old.get("count", 0) + 1},
            principal=ADA,
        )

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(count, number)

    assert (await records.get(Kind.THREAD, thread["id"], principal=ADA))["count"] == 10


async def test_the_private_part_is_kept_beside_the_object(records: Records, thread: Object) -> None:
    assert await records.get_private(Kind.THREAD, thread["id"], principal=ADA) == {}

    await records.change_private(
        Kind.THREAD, thread["id"], lambda old: {**old, "session": "sess_1"}, principal=ADA
    )
    await records.change(
        Kind.THREAD, thread["id"], lambda old: {**old, "metadata": {"a": "b"}}, principal=ADA
    )

    private = await records.get_private(Kind.THREAD, thread["id"], principal=ADA)
    assert private == {"session": "sess_1"}


async def test_a_thread_has_one_active_run(records: Records, thread: Object) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")

    with pytest.raises(ThreadBusy) as second:
        await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    with pytest.raises(ThreadBusy) as message:
        await records.add_message(make_message(thread), principal=ADA)

    assert second.value.message == f"Thread {thread['id']} already has an active run {run['id']}."
    assert message.value.message == (
        f"Can't add messages to {thread['id']} while a run {run['id']} is active."
    )
    assert await records.find_active_run(thread["id"], principal=ADA) == run["id"]


async def test_of_many_runs_at_once_one_starts(records: Records, thread: Object) -> None:
    refused: list[str] = []

    async def start(_: int) -> None:
        try:
            await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
        except ThreadBusy as busy:
            refused.append(busy.run_id)

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(start, number)

    assert len(refused) == 7
    assert len(set(refused)) == 1


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired", "incomplete"])
async def test_a_final_run_frees_its_thread(records: Records, thread: Object, status: str) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")

    await records.change_run(run["id"], to_status(status), principal=ADA)

    assert await records.find_active_run(thread["id"], principal=ADA) is None
    await records.add_message(make_message(thread), principal=ADA)
    await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")


async def test_additional_messages_come_before_the_run_or_not_at_all(
    records: Records, thread: Object
) -> None:
    extra = make_message(thread, "more")
    await records.start_run(make_run(thread), [extra], principal=ADA, lease="lease_1")

    with pytest.raises(ThreadBusy):
        await records.start_run(
            make_run(thread), [make_message(thread, "again")], principal=ADA, lease="lease_1"
        )

    assert await texts(records, thread) == ["more"]


async def test_a_transition_writes_run_messages_and_steps_together(
    records: Records, thread: Object
) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    step = make_step(run)
    message = make_message(thread, "", run_id=run["id"])
    await records.save(
        [Write(Kind.STEP, step, run["id"]), Write(Kind.MESSAGE, message, thread["id"])],
        principal=ADA,
    )

    await records.change_run(
        run["id"],
        to_status("completed"),
        principal=ADA,
        also=[
            Write(Kind.MESSAGE, {**message, "content": "done"}, thread["id"]),
            Remove(Kind.STEP, step["id"]),
            Remove(Kind.STEP, "step_unknown"),
        ],
    )

    assert await texts(records, thread) == ["done"]
    assert (await records.page(Kind.STEP, principal=ADA, parent=run["id"])).data == []


async def test_a_refused_transition_writes_nothing(records: Records, thread: Object) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")

    def refuse(run: Object) -> Object:
        raise ApiError(400, "no")

    with pytest.raises(ApiError):
        await records.change_run(
            run["id"],
            refuse,
            principal=ADA,
            also=[Write(Kind.MESSAGE, make_message(thread), thread["id"])],
        )

    assert await texts(records, thread) == []


async def test_runs_whose_process_is_gone_are_found_and_adopted_once(
    records: Records, database: Database, thread: Object
) -> None:
    await database.write(lambda conn: take_lease(conn, "lease_1", seconds=60))
    await database.write(lambda conn: take_lease(conn, "lease_2", seconds=60))
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    assert await records.list_orphaned_runs() == []
    assert await records.adopt_run(run["id"], lease="lease_2") is False

    await database.write(lambda conn: release_lease(conn, "lease_1"))

    assert await records.list_orphaned_runs() == [(ADA, run)]
    assert await records.adopt_run(run["id"], lease="lease_2") is True
    assert await records.adopt_run(run["id"], lease="lease_2") is False
    assert await records.list_orphaned_runs() == []


async def test_a_run_that_waits_for_outputs_needs_no_process(
    records: Records, thread: Object
) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_gone")

    await records.change_run(run["id"], to_status("requires_action"), principal=ADA)

    assert await records.list_orphaned_runs() == []
    assert await records.find_active_run(thread["id"], principal=ADA) == run["id"]


async def test_overdue_and_cancelling_runs_are_found(records: Records, thread: Object) -> None:
    run = await records.start_run(
        make_run(thread, expires_at=100), [], principal=ADA, lease="lease_1"
    )
    assert await records.list_overdue_runs(99) == []
    assert await records.list_overdue_runs(100) == [(ADA, run)]
    assert await records.list_cancelling_runs(lease="lease_1") == []

    await records.change_run(run["id"], to_status("cancelling"), principal=ADA)

    assert await records.list_cancelling_runs(lease="lease_1") == [run["id"]]
    assert await records.list_cancelling_runs(lease="lease_2") == []
    await records.change_run(run["id"], to_status("cancelling"), principal=ADA, lease="lease_2")
    assert await records.list_cancelling_runs(lease="lease_2") == [run["id"]]


async def test_deleting_a_thread_deletes_what_is_in_it(records: Records, thread: Object) -> None:
    message = await records.add_message(make_message(thread), principal=ADA)
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    step = await records.add(Kind.STEP, make_step(run), principal=ADA, parent=run["id"])

    await records.delete_thread(thread["id"], principal=ADA)

    for kind, item in (
        (Kind.THREAD, thread),
        (Kind.MESSAGE, message),
        (Kind.RUN, run),
        (Kind.STEP, step),
    ):
        with pytest.raises(NoSuchObject):
            await records.get(kind, item["id"], principal=ADA)


@pytest.fixture
async def large(records: Records) -> list[tuple[Kind, Object]]:
    """A thread with so much in it that it is not deleted at once, and some of that."""
    thread = make_thread(metadata={"size": "large"})
    many = [make_message(thread) for _ in range(300)]
    await records.add_thread(thread, many, principal=ADA)
    ended = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    step = await records.add(Kind.STEP, make_step(ended), principal=ADA, parent=ended["id"])
    await records.change_run(ended["id"], to_status("completed"), principal=ADA)
    active = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    return [
        (Kind.THREAD, thread),
        (Kind.MESSAGE, many[-1]),
        (Kind.RUN, ended),
        (Kind.STEP, step),
        (Kind.RUN, active),
    ]


async def test_nothing_of_a_large_thread_is_seen_while_it_is_being_deleted(
    records: Records, database: Database, large: list[tuple[Kind, Object]]
) -> None:
    thread, run = large[0][1], large[2][1]

    assert await records.delete_thread(thread["id"], principal=ADA)

    assert await _count(database, "api_messages") == 300
    for kind, item in large:
        with pytest.raises(NoSuchObject):
            await records.get(kind, item["id"], principal=ADA)
    for kind, parent in ((Kind.MESSAGE, thread), (Kind.RUN, thread), (Kind.STEP, run)):
        with pytest.raises(NoSuchObject):
            await records.page(kind, principal=ADA, parent=parent["id"])
    with pytest.raises(NoSuchObject):
        await records.add_message(make_message(thread), principal=ADA)
    assert (await records.page(Kind.THREAD, principal=ADA)).data == []
    by_metadata = await records.page(Kind.THREAD, principal=ADA, metadata={"size": "large"})
    assert by_metadata.data == []
    assert await records.list_orphaned_runs() == []
    after = await records.page(Kind.THREAD, principal=ADA, after=thread["id"])
    assert after.data == []


async def test_a_large_thread_is_deleted_in_small_steps_that_any_process_goes_on_with(
    records: Records,
    database: Database,
    large: list[tuple[Kind, Object]],
    thread: Object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = await records.add_message(make_message(thread), principal=ADA)
    monkeypatch.setattr(removal, "TURN", 0)
    await records.delete_thread(large[0][1]["id"], principal=ADA)

    await records.write(removal.purge, bulk=True)
    left = await _count(database, "api_messages")
    await Records(database).purge()

    assert left == 301 - 20
    counts = [await _count(database, f"api_{name}s") for name in ("thread", "message", "run")]
    assert counts == [1, 1, 0]
    assert await _count(database, "api_steps") == 0
    assert await records.get(Kind.MESSAGE, kept["id"], principal=ADA) == kept


async def _count(database: Database, table: str) -> int:
    query = text(f"SELECT count(*) FROM {table}")
    return await database.read(lambda conn: conn.execute(query).scalar_one())


async def test_files_of_messages_are_attached_to_their_thread(
    records: Records, thread: Object
) -> None:
    def attach(*ids: str, tool: str = "code_interpreter") -> Object:
        attachments = [{"file_id": id, "tools": [{"type": tool}]} for id in ids]
        return make_message(thread, attachments=attachments)

    await records.add_message(attach("file-1", "file-2"), principal=ADA)
    await records.add_message(attach("file-2"), principal=ADA)
    await records.add_message(attach("file-3", tool="file_search"), principal=ADA)
    await records.start_run(make_run(thread), [attach("file-4")], principal=ADA, lease="l")

    stored = await records.get(Kind.THREAD, thread["id"], principal=ADA)
    assert stored["tool_resources"] == {
        "code_interpreter": {"file_ids": ["file-1", "file-2", "file-4"]}
    }


async def test_more_files_than_a_thread_may_have_are_refused(
    records: Records, thread: Object
) -> None:
    def attach(count: int) -> Object:
        return make_message(
            thread,
            attachments=[
                {"file_id": f"file-{number}", "tools": [{"type": "code_interpreter"}]}
                for number in range(count)
            ],
        )

    with pytest.raises(ApiError, match="maximum length 20"):
        await records.add_message(attach(21), principal=ADA, file_limit=20)
    await records.add_message(attach(21), principal=ADA)

    stored = await records.get(Kind.THREAD, thread["id"], principal=ADA)
    private = await records.get_private(Kind.THREAD, thread["id"], principal=ADA)
    assert len(stored["tool_resources"]["code_interpreter"]["file_ids"]) == 20
    assert len(private["attached_file_ids"]) == 21


async def test_a_principal_can_be_erased(
    records: Records, database: Database, thread: Object
) -> None:
    await records.add_message(make_message(thread), principal=ADA)
    await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    kept = await records.add(Kind.THREAD, make_thread(), principal=BOB)

    await records.erase(ADA)

    assert (await records.page(Kind.THREAD, principal=ADA)).data == []
    assert (await records.page(Kind.THREAD, principal=BOB)).data == [kept]
    assert await _count(database, "api_messages") + await _count(database, "api_runs") == 0


async def test_a_write_keeps_metadata_that_was_changed_meanwhile(
    records: Records, thread: Object
) -> None:
    message = make_message(thread, "", run_id="run_1")
    await records.save([Write(Kind.MESSAGE, message, thread["id"])], principal=ADA)
    await records.change(
        Kind.MESSAGE, message["id"], lambda old: {**old, "metadata": {"a": "b"}}, principal=ADA
    )

    await records.save(
        [Write(Kind.MESSAGE, {**message, "content": "done"}, thread["id"], {"x": 1})],
        principal=ADA,
    )

    stored = await records.get(Kind.MESSAGE, message["id"], principal=ADA)
    assert stored == {**message, "content": "done", "metadata": {"a": "b"}}
    assert await records.get_private(Kind.MESSAGE, message["id"], principal=ADA) == {"x": 1}


async def test_a_process_that_lost_its_run_cannot_change_it(
    records: Records, thread: Object
) -> None:
    run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")

    with pytest.raises(RunLost):
        await records.change_run(
            run["id"], to_status("completed"), principal=ADA, held_by="lease_2"
        )
    await records.change_run(run["id"], to_status("completed"), principal=ADA, held_by="lease_1")


async def test_the_context_of_a_run_is_messages_and_steps_of_their_runs(
    records: Records, thread: Object
) -> None:
    made = []
    for number in range(3):
        run = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
        step = make_step(run)
        message = make_message(thread, str(number), run_id=run["id"])
        await records.change_run(
            run["id"],
            to_status("completed"),
            principal=ADA,
            also=[Write(Kind.STEP, step, run["id"]), Write(Kind.MESSAGE, message, thread["id"])],
        )
        made.append((message, step))
    last = await records.start_run(make_run(thread), [], principal=ADA, lease="lease_1")
    step = await records.add(Kind.STEP, make_step(last), principal=ADA, parent=last["id"])

    messages, steps = await records.load_context(thread["id"], principal=ADA, limit=2)

    assert messages == [made[1][0], made[2][0]]
    assert steps == [made[1][1], made[2][1], step]
