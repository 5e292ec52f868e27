"""Export and import of assistants and threads as JSON Lines, one wire object in each line.

Beyond the original. An import keeps ids: what was saved from another server of this API is found
here under the ids that its users know. What the principal has already is left as it is, so that an
import which was cut short can be repeated; an id that somebody else has refuses all of it. The
bytes of files are not part of it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from anyio import to_thread
from sqlalchemy import Connection
from starlette.responses import Response, StreamingResponse

from ci_tools import StoreError
from ci_tools_assistants.conversations.attachments import attach_files
from ci_tools_assistants.errors import ApiError, NoSuchObject
from ci_tools_assistants.http.requests import Query, read_content
from ci_tools_assistants.http.routing import Call, Operation
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage import removal, rows
from ci_tools_assistants.transfer.dumps import in_order, read_dump

MEDIA_TYPE = "application/jsonl"

IMPORT_LIMIT = 64 * 1024 * 1024
"""Bytes of one import; more comes in several, thread by thread."""

_BATCH = 500
"""Objects that are stored at once; other requests wait meanwhile."""

Placed: TypeAlias = tuple[Kind, Object, str | None]
"""An object with its kind and its parent's id."""

_PAGE = 100
"""Objects that are read at once."""


class ExportQuery(Query):
    """What is exported: all, or one sort of it, or some threads only."""

    object: Literal["all", "assistants", "threads"] = "all"
    thread_id: list[str] = []


def operations() -> Sequence[Operation]:
    """Return the operations of export and import."""
    return [
        Operation(
            method="GET",
            path="/export",
            handler=export,
            query=ExportQuery,
            response="JsonLines",
            summary="Export assistants and threads as JSON Lines",
            tags=("Transfer",),
        ),
        Operation(
            method="POST",
            path="/import",
            handler=import_dump,
            response="ImportObject",
            summary="Import assistants and threads from JSON Lines, keeping their ids",
            tags=("Transfer",),
        ),
    ]


async def export(call: Call) -> Response:
    """Stream the principal's objects, parents before what is in them, the oldest first."""
    query = call.query_as(ExportQuery)
    for thread_id in query.thread_id:
        await call.records.get(Kind.THREAD, thread_id, principal=call.principal)
    return StreamingResponse(
        _lines(call, query),
        media_type=MEDIA_TYPE,
        headers={"content-disposition": 'attachment; filename="export.jsonl"'},
    )


async def _lines(call: Call, query: ExportQuery) -> AsyncIterator[bytes]:
    if query.object != "threads" and not query.thread_id:
        async for assistants in _pages(call, Kind.ASSISTANT):
            yield _to_lines(call, assistants)
    if query.thread_id:
        for thread_id in query.thread_id:
            thread = await call.records.get(Kind.THREAD, thread_id, principal=call.principal)
            async for chunk in _thread_lines(call, thread):
                yield chunk
    elif query.object != "assistants":
        async for threads in _pages(call, Kind.THREAD):
            for thread in threads:
                async for chunk in _thread_lines(call, thread):
                    yield chunk


async def _thread_lines(call: Call, thread: Object) -> AsyncIterator[bytes]:
    try:
        yield _to_lines(call, [thread])
        async for messages in _pages(call, Kind.MESSAGE, thread["id"]):
            yield _to_lines(call, messages)
        async for runs in _pages(call, Kind.RUN, thread["id"]):
            for run in runs:
                yield _to_lines(call, [run])
                async for steps in _pages(call, Kind.STEP, run["id"]):
                    yield _to_lines(call, steps)
    except NoSuchObject:  # it was deleted meanwhile
        return


async def _pages(call: Call, kind: Kind, parent: str | None = None) -> AsyncIterator[list[Object]]:
    after: str | None = None
    while True:
        page = await call.records.page(
            kind,
            principal=call.principal,
            parent=parent,
            limit=_PAGE,
            order="asc",
            after=after,
        )
        if page.data:
            yield page.data
        if not page.has_more:
            return
        after = page.data[-1]["id"]


def _to_lines(call: Call, items: Iterable[Object]) -> bytes:
    lines = (json.dumps(call.to_wire(item), separators=(",", ":")) for item in items)
    return "".join(line + "\n" for line in lines).encode()


@dataclass
class Dump:
    """The objects of a dump by their place, in the order in which they were made."""

    assistants: list[Object] = field(default_factory=list)
    threads: dict[str, Object] = field(default_factory=dict)
    messages: dict[str, list[Object]] = field(default_factory=lambda: defaultdict(list))
    runs: dict[str, list[Object]] = field(default_factory=lambda: defaultdict(list))
    steps: dict[str, list[Object]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, content: bytes) -> "Dump":
        """Return what is in a dump; of objects with one id the last one counts.

        Threads that it only mentions are made as old as the first thing in them.
        """
        found: dict[str, tuple[Kind, Object]] = {}
        for kind, item in read_dump(content):
            found[item["id"]] = kind, item
        dump = cls()
        by_kind: dict[Kind, list[Object]] = defaultdict(list)
        for kind, item in found.values():
            by_kind[kind].append(item)
        dump.assistants = in_order(by_kind[Kind.ASSISTANT])
        dump.threads = {item["id"]: item for item in in_order(by_kind[Kind.THREAD])}
        for kind, groups, place in (
            (Kind.MESSAGE, dump.messages, "thread_id"),
            (Kind.RUN, dump.runs, "thread_id"),
            (Kind.STEP, dump.steps, "run_id"),
        ):
            for item in by_kind[kind]:
                groups[item[place]].append(item)
            for name, items in groups.items():
                groups[name] = in_order(items)
        for thread_id in (*dump.messages, *dump.runs):
            dump.threads.setdefault(thread_id, dump._mentioned(thread_id))
        dump._check_steps()
        return dump

    def ids(self) -> list[tuple[Kind, str]]:
        """Return the ids of all objects."""
        groups: list[tuple[Kind, Iterable[Object]]] = [
            (Kind.ASSISTANT, self.assistants),
            (Kind.THREAD, self.threads.values()),
            *((Kind.MESSAGE, items) for items in self.messages.values()),
            *((Kind.RUN, items) for items in self.runs.values()),
            *((Kind.STEP, items) for items in self.steps.values()),
        ]
        return [(kind, item["id"]) for kind, items in groups for item in items]

    def inside(self, thread_id: str) -> list[Placed]:
        """Return what is in a thread, parents before what is in them."""
        found: list[Placed] = [
            (Kind.MESSAGE, message, thread_id) for message in self.messages.get(thread_id, ())
        ]
        for run in self.runs.get(thread_id, ()):
            found.append((Kind.RUN, run, thread_id))
            found += [(Kind.STEP, step, run["id"]) for step in self.steps.get(run["id"], ())]
        return found

    def _mentioned(self, thread_id: str) -> Object:
        inside = (*self.messages.get(thread_id, ()), *self.runs.get(thread_id, ()))
        return {
            "id": thread_id,
            "object": "thread",
            "created_at": min(item["created_at"] for item in inside),
            "metadata": {},
            "tool_resources": {},
        }

    def _check_steps(self) -> None:
        """Refuse steps without their run; a step is in the thread of its run, whatever it says."""
        runs = {run["id"]: run for items in self.runs.values() for run in items}
        for run_id, steps in self.steps.items():
            if run_id not in runs:
                raise ApiError(400, f"There are steps of the run {run_id}, which is missing.")
            for step in steps:
                step["thread_id"] = runs[run_id]["thread_id"]


async def import_dump(call: Call) -> Object:
    """Store the objects of a dump; tell how many of each sort were new."""
    content = await read_content(call.request, limit=IMPORT_LIMIT)
    dump = await to_thread.run_sync(Dump.read, content)
    if await call.records.read(partial(removal.is_any_deleted, thread_ids=list(dump.threads))):
        await call.records.purge()  # what was deleted a moment ago comes home
    await call.records.read(
        partial(_refuse_foreign, ids=dump.ids(), principal=call.principal), bulk=True
    )
    counts: Counter[Kind] = Counter()

    async def store(work: Callable[..., Counter[Kind]], **what: object) -> None:
        stored = partial(work, principal=call.principal, **what)
        try:
            new = await call.records.write(stored, bulk=True)
        except StoreError:
            # On PostgreSQL another import may have been first with an id, which is seen only now.
            new = await call.records.write(stored, bulk=True)
        counts.update(new)

    for assistants in _in_batches([(Kind.ASSISTANT, item, None) for item in dump.assistants]):
        await store(_add_missing, items=assistants)
    for thread in dump.threads.values():
        await store(_add_thread, thread=thread, messages=dump.messages.get(thread["id"], ()))
        for items in _in_batches(dump.inside(thread["id"])):
            await store(_add_missing, items=items, thread_id=thread["id"])
    return {
        "object": "import",
        "assistants": counts[Kind.ASSISTANT],
        "threads": counts[Kind.THREAD],
        "messages": counts[Kind.MESSAGE],
        "runs": counts[Kind.RUN],
        "run_steps": counts[Kind.STEP],
        "skipped": len(dump.ids()) - sum(counts.values()),
    }


def _refuse_foreign(conn: Connection, ids: Sequence[tuple[Kind, str]], *, principal: str) -> None:
    """Refuse a dump with an id that another principal has."""
    for kind, id in ids:
        if rows.find_own(conn, kind, id, principal=principal) is None:
            _check_free(conn, kind, id)


def _check_free(conn: Connection, kind: Kind, id: str) -> None:
    if rows.is_taken(conn, kind, id):
        raise ApiError(
            409, f"The {kind} {id} cannot be imported: its id is taken.", code="id_taken"
        )


def _in_batches(items: Sequence[Placed]) -> Iterator[Sequence[Placed]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _add_thread(
    conn: Connection, *, principal: str, thread: Object, messages: Sequence[Object]
) -> Counter[Kind]:
    """Store a thread, without what is in it, unless it is there; return how many were new."""
    if rows.find_own(conn, Kind.THREAD, thread["id"], principal=principal) is not None:
        return Counter()
    _check_free(conn, Kind.THREAD, thread["id"])  # somebody may have taken it since
    stored, private = attach_files(thread, {}, messages, limit=None)
    rows.add_row(conn, Kind.THREAD, stored, principal=principal, private=private or None)
    return Counter({Kind.THREAD: 1})


def _add_missing(
    conn: Connection, *, principal: str, items: Sequence[Placed], thread_id: str | None = None
) -> Counter[Kind]:
    """Store what is not there yet; return how many of each kind were new."""
    counts: Counter[Kind] = Counter()
    if thread_id is not None:  # it may have been deleted since the batch before
        rows.find_row(conn, Kind.THREAD, thread_id, principal=principal, lock=True)
    for kind, item, parent in items:
        counts[kind] += _add(conn, kind, item, principal=principal, parent=parent)
    return counts


def _add(
    conn: Connection, kind: Kind, item: Object, *, principal: str, parent: str | None = None
) -> bool:
    """Store an object unless it is there; tell whether it was new."""
    if rows.find_own(conn, kind, item["id"], principal=principal) is not None:
        return False
    _check_free(conn, kind, item["id"])
    rows.add_row(conn, kind, item, principal=principal, parent=parent)
    return True
