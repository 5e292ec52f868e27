"""An app between a client and ours that compares every answer with the specifications."""

import json
import re
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.adapters.assistants.contract import streams
from tests.adapters.assistants.contract.specification import Operation, Specification, load

PREFIXES = re.compile(r"^(/openai/v1|/openai|/v1)(?=/)")
"""Where the same operations are mounted; a bare path is one, too."""

STREAM = "text/event-stream"

IDS = {
    "assistant": "asst_",
    "thread": "thread_",
    "thread.message": "msg_",
    "thread.run": "run_",
    "thread.run.step": "step_",
    "file": "file-",
    "upload": "upload_",
    "upload.part": "part_",
}
"""How ids begin; letters and digits follow, for clients take them out of texts by such patterns."""


class Watch:
    """Wraps an app; `problems` says what its answers did not share with the specifications.

    `seen` holds the names of the operations that were answered with success, `calls` the ids of
    all that were answered, in order.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.problems: list[str] = []
        self.seen: set[str] = set()
        self.calls: list[str] = []
        self.streams: list[list[streams.Event]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer()

        async def send_and_keep(message: Message) -> None:
            answer.add(message)
            if answer.complete:
                # Before its end is sent: a test looks as soon as it has the answer.
                self._note(scope, answer)
            await send(message)

        await self._app(scope, receive, send_and_keep)

    def _note(self, scope: Scope, answer: "_Answer") -> None:
        self.problems += [
            f"{scope['method']} {scope['path']} {answer.status}: {problem}"
            for problem in self._check(scope, answer)
        ]

    def _check(self, scope: Scope, answer: "_Answer") -> list[str]:
        path = PREFIXES.sub("", scope["path"])
        version = version_of(Headers(scope=scope), path, scope["query_string"].decode())
        specification = load(version)
        operation = specification.find_operation(scope["method"], path)
        if operation is not None:
            self.calls.append(operation.id)
        problems = [] if answer.headers.get("x-request-id") else ["no x-request-id"]
        if answer.status >= 400:
            # What only we have tells errors as containers do.
            ours = specification if operation is not None else load("containers")
            return problems + self._check_error(ours, answer)
        if operation is None:
            return []  # one of ours
        self.seen.add(operation.name)
        if answer.headers.get("content-type", "").startswith(STREAM):
            return problems + self._check_stream(specification, answer)
        return problems + self._check_object(specification, operation, answer)

    def _check_error(self, specification: Specification, answer: "_Answer") -> list[str]:
        if answer.status in (422, 500):
            return [f"answered {answer.status}: {answer.body[:300]!r}"]
        try:
            value = json.loads(answer.body)
        except ValueError:
            return [f"an error that is no JSON: {answer.body[:300]!r}"]
        return specification.check_named("ErrorResponse", value)

    def _check_object(
        self, specification: Specification, operation: Operation, answer: "_Answer"
    ) -> list[str]:
        if operation.answer is None or operation.path.endswith("/content"):
            return []
        if answer.headers.get("content-type") != "application/json":
            return [f"content-type {answer.headers.get('content-type')}"]
        value = json.loads(answer.body)
        return specification.check(operation.answer, value) + check_ids(value)

    def _check_stream(self, specification: Specification, answer: "_Answer") -> list[str]:
        try:
            events = streams.parse(answer.body.decode())
        except ValueError as error:
            return [str(error)]
        self.streams.append(events)
        problems = [
            f"{name}: {problem}"
            for name, data in events
            for problem in check_event(specification, name, data)
        ]
        return problems + streams.check_order(events)


def check_ids(value: Any) -> list[str]:
    """Return the ids of objects that clients would not know as such."""
    if isinstance(value, list):
        return [problem for one in value for problem in check_ids(one)]
    if not isinstance(value, dict):
        return []
    problems = [problem for one in value.values() for problem in check_ids(one)]
    prefix = IDS.get(str(value.get("object")))
    if prefix is not None and not value.get("deleted"):
        if re.fullmatch(f"{prefix}[A-Za-z0-9]+", str(value["id"])) is None:
            problems.append(f"the id {value['id']!r} of a {value['object']}")
    return problems


def check_event(specification: Specification, name: str, data: Any) -> list[str]:
    """Return what an event does not share with the specification."""
    if name == "error":
        # The official clients raise an error only for data with a key `error`.
        return specification.check_named("ErrorResponse", data)
    schema = specification.events.get(name)
    if schema is None:
        return ["is not an event of this version"]
    return specification.check(schema, data)


def version_of(headers: Headers, path: str, query: str) -> str:
    """Return which specification a request speaks of."""
    if path.startswith("/containers"):
        return "containers"
    if "openai-beta" not in headers and re.search("api-version=2024-0[2-4]-", query):
        return "v1"
    return "v1" if "assistants=v1" in headers.get("openai-beta", "") else "v2"


class _Answer:
    def __init__(self) -> None:
        self.status = 0
        self.headers = Headers()
        self.complete = False
        self._chunks: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = Headers(raw=message["headers"])
        elif message["type"] == "http.response.body":
            self._chunks.append(message.get("body", b""))
            self.complete = not message.get("more_body", False)
