"""Lists: which part is asked for, and how it is written."""

from typing import Literal

from pydantic import Field

from ci_tools_assistants.objects import Object
from ci_tools_assistants.records import Page
from ci_tools_assistants.requests import Query


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
