"""SQL that deletes a file and takes its id from all that gives it to code."""

from sqlalchemy import Connection, Text, or_, select, type_coerce

from ci_tools_assistants.conversations.attachments import ATTACHED, code_file_ids
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage import rows
from ci_tools_assistants.storage.schema import TABLES


def delete_file(conn: Connection, file_id: str, *, principal: str) -> bool:
    """Delete a file's object and detach the file everywhere; tell whether it had an object.

    What messages, annotations and steps say of it stays.
    """
    rows.check_id(Kind.FILE, file_id)
    for kind in (Kind.ASSISTANT, Kind.THREAD):
        for owner_id in _find_owners(conn, kind, file_id, principal):
            _detach(conn, kind, owner_id, file_id, principal)
    row = rows.find_own(conn, Kind.FILE, file_id, principal=principal, lock=True)
    if row is not None:
        rows.remove_row(conn, Kind.FILE, row)
    return row is not None


def _find_owners(conn: Connection, kind: Kind, file_id: str, principal: str) -> list[str]:
    """Return the ids of assistants or threads whose stored text names the file."""
    table = TABLES[kind]
    named = [
        type_coerce(column, Text).contains(file_id, autoescape=True)
        for column in (table.c.data, table.c.private)
    ]
    query = select(table.c.id).where(table.c.principal == principal, or_(*named))
    return list(conn.scalars(query))


def _detach(conn: Connection, kind: Kind, owner_id: str, file_id: str, principal: str) -> None:
    row = rows.find_own(conn, kind, owner_id, principal=principal, lock=True)
    if row is None:
        return
    if file_id in code_file_ids(row.data):
        rows.replace_row(conn, kind, row, _without(row.data, file_id))
    private = row.private or {}
    if file_id in private.get(ATTACHED, ()):
        attached = [id for id in private[ATTACHED] if id != file_id]
        rows.set_private(conn, kind, row, {**private, ATTACHED: attached})


def _without(owner: Object, file_id: str) -> Object:
    resources = owner["tool_resources"]
    kept = [id for id in code_file_ids(owner) if id != file_id]
    code = {**resources["code_interpreter"], "file_ids": kept}
    return {**owner, "tool_resources": {**resources, "code_interpreter": code}}
