from ci_tools.models import new_id
from ci_tools_assistants.conversations.attachments import ATTACHED, code_file_ids
from ci_tools_assistants.files.detaching import delete_file
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.storage.records import Records

FILE, OTHER = "file-a%_b", "file-other"
"""The first holds what LIKE takes for more than itself."""


def owner(kind: Kind, *file_ids: str) -> Object:
    return {
        "id": new_id("asst_" if kind is Kind.ASSISTANT else "thread_"),
        "created_at": now(),
        "metadata": {},
        "tool_resources": {
            "code_interpreter": {"file_ids": list(file_ids)},
            "file_search": {"vector_store_ids": []},
        },
    }


async def add_file(records: Records, id: str) -> None:
    file = {"id": id, "object": "file", "filename": "a.csv", "purpose": "assistants"}
    await records.add(Kind.FILE, file, principal="ada")


async def test_a_deleted_file_is_detached_from_every_owner_of_its_principal(
    records: Records,
) -> None:
    await add_file(records, FILE)
    await add_file(records, OTHER)
    owners = {
        kind: await records.add(
            kind,
            owner(kind, FILE, OTHER),
            principal="ada",
            private={ATTACHED: [FILE, OTHER], "session_id": "sess_1"},
        )
        for kind in (Kind.ASSISTANT, Kind.THREAD)
    }
    foreign = await records.add(Kind.THREAD, owner(Kind.THREAD, FILE), principal="eve")

    known = await records.write(lambda conn: delete_file(conn, FILE, principal="ada"))
    again = await records.write(lambda conn: delete_file(conn, FILE, principal="ada"))

    assert (known, again) == (True, False)
    for kind, item in owners.items():
        stored = await records.get(kind, item["id"], principal="ada")
        private = await records.get_private(kind, item["id"], principal="ada")
        assert code_file_ids(stored) == [OTHER]
        assert stored["tool_resources"]["file_search"] == {"vector_store_ids": []}
        assert private == {ATTACHED: [OTHER], "session_id": "sess_1"}
    assert await records.get(Kind.THREAD, foreign["id"], principal="eve") == foreign


async def test_files_that_only_look_alike_stay_attached(records: Records) -> None:
    thread = await records.add(Kind.THREAD, owner(Kind.THREAD, "file-axxb"), principal="ada")

    assert not await records.write(lambda conn: delete_file(conn, FILE, principal="ada"))

    assert await records.get(Kind.THREAD, thread["id"], principal="ada") == thread
