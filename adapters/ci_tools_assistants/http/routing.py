"""Operations, how a request finds its own, and what its handler is given.

How this works: each owner lists its `Operation`s with paths as in the specification. The tree of
them is walked by the segments of a path, after the prefix of the alias has been cut off, so that
finding one does not take longer the more there are. A handler returns a wire object, which is
shown in the version that was asked for, or a response of its own.
"""

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from ci_tools import SessionService
from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.requests import validate_query
from ci_tools_assistants.objects import Object
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.versions import BodyKind, Version, to_wire

if TYPE_CHECKING:
    from ci_tools_assistants.app import Api

M = TypeVar("M", bound=BaseModel)

PREFIXES = ("/openai/v1", "/v1", "/openai", "")
"""Where the operations are: the original's, Azure's old and new addresses, and none."""

AZURE_V2 = "2024-05-01"
"""The date of Azure's API (`api-version`) with which its Assistants became version 2."""

_OTHER_APIS = re.compile(r"/(chat|completions|responses|embeddings|images|audio|moderations)(/|$)")
_ELSEWHERE = (
    "This service answers the Assistants API, files and containers. For OpenAI's other APIs use a "
    "second client, without this service's address."
)

_DATE = re.compile(r"20\d\d-\d\d-\d\d")

_PATH = ":path"
"""How the last segment of a path ends that may hold slashes."""


class JsonResponse(Response):
    """A wire object; ASCII, as not every text that was stored can be written in UTF-8."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Write compact JSON."""
        return json.dumps(content, separators=(",", ":")).encode()


@dataclass(kw_only=True)
class Call:
    """One request, on its way through a handler."""

    api: "Api"
    service: SessionService
    """Acts as the principal."""

    principal: str
    version: Version
    request: Request
    params: Mapping[str, str]
    """What stands for the names in the operation's path."""

    body: BaseModel | None = None
    response_headers: dict[str, str] = field(default_factory=dict)
    """More headers for the answer, if that is an object."""

    @property
    def records(self) -> Records:
        """The stored objects of all principals."""
        return self.api.records

    def body_as(self, model: type[M]) -> M:
        """Return the body, which the operation declares to be of that model."""
        assert isinstance(self.body, model)
        return self.body

    def query_as(self, model: type[M]) -> M:
        """Return the parameters in the URL."""
        return validate_query(model, self.request.query_params)

    def to_wire(self, item: Object) -> Object:
        """Return an object as this request's version shows it."""
        return to_wire(item, self.version, step_call_name=self.api.settings.step_call_name)


Handler: TypeAlias = Callable[[Call], Awaitable[Object | Response]]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One endpoint."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    """Without the prefix; `{name}` is a segment, and `{name:path}` at the end all that follow."""

    handler: Handler
    body: type[BaseModel] | None = None
    """What its JSON body is checked by; without, the handler reads the request itself."""

    body_kind: BodyKind | None = None
    """What a body in version 1 is about, if it is written differently there."""

    query: type[BaseModel] | None = None
    response: str = "object"
    """The name of the schema of its answer in the specification."""

    summary: str = ""
    tags: Sequence[str] = ()
    empty_body: bool = True
    """Whether no body at all is taken for an empty object."""

    is_remembered: bool = True
    """Whether a repetition gets the first answer; not where work ends with its client, or where
    requests name what they make."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in the path, from left to right."""
        segments = self.path.split("/")
        return tuple(
            segment[1:-1].removesuffix(_PATH) for segment in segments if segment.startswith("{")
        )


@dataclass
class _Node:
    fixed: "dict[str, _Node]" = field(default_factory=dict)
    named: "_Node | None" = None
    operations: dict[str, Operation] = field(default_factory=dict)
    trailing: dict[str, Operation] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """The operation of a request, and what stands for the names in its path."""

    operation: Operation
    params: Mapping[str, str]


class Router:
    """All operations, under every prefix."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.operations = tuple(operations)
        self._root = _Node()
        for operation in self.operations:
            self._add(operation)

    def match(self, method: str, path: str) -> Match:
        """Return the operation of a request.

        Raises:
            ApiError: 404: there is nothing at that path, or 405: not for that method.
        """
        method = "GET" if method == "HEAD" else method
        found = self._find(path)
        for operations, values in found:
            if operation := operations.get(method):
                return Match(operation, dict(zip(operation.names, values, strict=True)))
        if found:
            raise ApiError(
                405,
                f"Not allowed to {method} on {path[:200]}. "
                "(HINT: Perhaps you meant to use a different HTTP method?)",
                code="method_not_supported",
            )
        hint = f". {_ELSEWHERE}" if _OTHER_APIS.search(path) else ""
        raise ApiError(404, f"Invalid URL ({method} {path[:200]}){hint}")

    def methods_of(self, path: str) -> set[str]:
        """Return the methods that a path takes, none for an unknown one."""
        return {method for operations, _ in self._find(path) for method in operations}

    def pattern_of(self, method: str, path: str) -> str | None:
        """Return the path of the request's operation, with names instead of what was asked for."""
        method = "GET" if method == "HEAD" else method
        for operations, _ in self._find(path):
            if operation := operations.get(method):
                return operation.path
        return None

    def _add(self, operation: Operation) -> None:
        node = self._root
        *segments, last = operation.path.strip("/").split("/")
        for segment in segments:
            node = _step(node, segment)
        if last.endswith(_PATH + "}"):
            node.trailing[operation.method] = operation
        else:
            node = _step(node, last)
            if operation.method in node.operations:
                raise ValueError(f"{operation.method} {operation.path} is there twice.")
            node.operations[operation.method] = operation

    def _find(self, path: str) -> list[tuple[dict[str, Operation], tuple[str, ...]]]:
        """Return what is at a path, the most literal first."""
        for prefix in PREFIXES:
            if path.startswith(prefix + "/"):
                segments = path[len(prefix) + 1 :].split("/")
                found: list[tuple[dict[str, Operation], tuple[str, ...]]] = []
                _collect(self._root, segments, 0, (), found)
                if found:
                    return found
        return []


def _step(node: _Node, segment: str) -> _Node:
    if not segment.startswith("{"):
        return node.fixed.setdefault(segment, _Node())
    if node.named is None:
        node.named = _Node()
    return node.named


def _collect(
    node: _Node,
    segments: Sequence[str],
    depth: int,
    values: tuple[str, ...],
    found: list[tuple[dict[str, Operation], tuple[str, ...]]],
) -> None:
    if depth == len(segments):
        if node.operations:
            found.append((node.operations, values))
        return
    segment = segments[depth]
    if (fixed := node.fixed.get(segment)) is not None:
        _collect(fixed, segments, depth + 1, values, found)
    if node.named is not None and segment:
        _collect(node.named, segments, depth + 1, (*values, segment), found)
    if node.trailing and segment:
        found.append((node.trailing, (*values, "/".join(segments[depth:]))))


def version_of(request: Request) -> Version:
    """Return the version that a request asks for; without the header it is the newer one.

    Requests that were printed for Azure have no header, but the date of its API.
    """
    header = request.headers.get("openai-beta", "")
    if "assistants=" not in header:
        date = request.query_params.get("api-version", "")
        return "v1" if _DATE.match(date) and date < AZURE_V2 else "v2"
    return "v1" if "assistants=v1" in header else "v2"


def new_request_id() -> str:
    """Return an id by which a request can be found in the log."""
    return "req_" + secrets.token_hex(16)


def answer_headers(request_id: str, version: Version, started: float) -> dict[str, str]:
    """Return the headers of every answer; `started` is of the monotonic clock."""
    return {
        "x-request-id": request_id,
        "openai-version": "2020-10-01",
        "openai-beta": f"assistants={version}",
        "openai-processing-ms": str(int((time.monotonic() - started) * 1000)),
    }
