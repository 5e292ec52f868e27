"""Lists: which part is asked for, and how it is written."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from ci_tools_assistants.errors import NoSuchObject
from ci_tools_assistants.http.requests import Query
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.storage.records import Page


class PageQuery(Query):
    """The parameters of every list; `after` and `before` are ids, exclusive."""

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None


def to_list(page: Page) -> Object:
    """Return a page as the API writes it; an empty one has no ids."""
    data = page.data
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def page_of(kind: Kind, items: Sequence[Object], query: PageQuery) -> Page:
    """Return the page of a short list, oldest first, that is not stored as such.

    Raises:
        NoSuchObject: A cursor is not in it.
    """
    shown = list(items if query.order == "asc" else reversed(items))
    ids = [item["id"] for item in shown]
    start, end = 0, len(shown)
    if query.after is not None:
        start = _find(kind, ids, query.after) + 1
    if query.before is not None:
        end = _find(kind, ids, query.before)
    part = shown[start:end]
    from_end = query.before is not None and query.after is None
    page = part[-query.limit :] if from_end else part[: query.limit]
    return Page(data=page, has_more=len(part) > query.limit)


def _find(kind: Kind, ids: Sequence[str], cursor: str) -> int:
    try:
        return ids.index(cursor)
    except ValueError:
        raise NoSuchObject(kind, cursor) from None
