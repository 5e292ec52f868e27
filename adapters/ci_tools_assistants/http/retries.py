"""Requests that come a second time get the first one's answer.

How this works: the official clients repeat a POST whose answer did not arrive, without an
`Idempotency-Key`; all that tells a repetition is a count in `x-stainless-retry-count`. So every
answer to a request that changes something is remembered for a minute under what the request was,
and a repetition is given it, or waits for it. A run's stream is remembered piece by piece; when its
client goes it is read on for that minute, so that the repetition gets all of it. Nothing of this is
shared between processes.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.http.routing import JsonResponse
from ci_tools_assistants.runs.streams import EventResponse

RETRY_TIME = 60.0
"""Seconds in which a repetition without a key gets the first answer."""

KEY_TIME = 24 * 3600.0
"""Seconds in which one with an `Idempotency-Key` does, if memory lasts."""

_ANSWER_LIMIT = 4 << 20
"""Bytes of one answer that is remembered."""

_TOTAL_LIMIT = 64 << 20
"""Bytes of all of them."""

_COUNT_LIMIT = 20_000
"""Answers that are remembered."""

_COUNT_EVERY = 64
"""Answers after which the bytes of all of them are counted again."""

_ENTRY_COST = 1000
"""Bytes that an answer takes beside its body."""

_NOT_REPEATED = frozenset({"x-request-id", "openai-processing-ms", "content-length"})
"""Headers that belong to one answer only."""

_PASSING = frozenset({401, 408, 409, 429})
"""Errors after which trying again makes sense."""

_COUNT = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)
"""A count of retries that is not 0."""

_OTHER_BODY = (
    "Keys for idempotent requests can only be used with the same parameters they were first used "
    "with. Try using a key other than '{key}' if you meant to execute a different request."
)


class Answer:
    """An answer while it is being made, and after."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.size = 0
        self.is_done = False
        self.is_void = False
        """It cannot be repeated: it failed, or became too large."""
        self._changed = anyio.Event()

    def take(self, message: Message) -> None:
        """Remember a piece of the answer."""
        if self.is_void:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name, value)
                for name, value in message["headers"]
                if name.decode("latin-1") not in _NOT_REPEATED
            ]
        elif body := message.get("body", b""):
            self.chunks.append(body)
            self.size += len(body)
            if self.size > _ANSWER_LIMIT:
                self.void()
                return
        self._tell()

    def finish(self) -> None:
        """Note that this was all."""
        self.is_done = True
        self._tell()

    def void(self) -> None:
        """Forget it: who waits for it has to do the work."""
        self.is_void = self.is_done = True
        self.chunks = []
        self._tell()

    async def wait(self, known: int) -> None:
        """Return when there is more than `known` pieces, or the end."""
        while len(self.chunks) <= known and not self.is_done:
            await self._changed.wait()

    async def wait_start(self) -> bool:
        """Wait for the status; tell whether there is an answer to repeat."""
        while not self.status and not self.is_done:
            await self._changed.wait()
        return not self.is_void and self.status > 0

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


@dataclass(frozen=True)
class Identity:
    """What a request is known by."""

    key: str
    """The `Idempotency-Key` with its principal, or the digest of the request."""

    digest: bytes
    lifetime: float
    is_repetition: bool
    """Whether the first answer is wanted, if there is one."""


class Retries:
    """The answers of the last while; the memory they take is bounded."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: OrderedDict[str, tuple[Answer, float]] = OrderedDict()
        self._begun = 0

    def identify(
        self, request: Request, content: bytes | None, *, principal: str
    ) -> Identity | None:
        """Return what a request is known by; None for one that changes nothing.

        Of a body that has not been read, which `content` is None for, only the length is known: it
        takes a key to tell a repetition.

        Raises:
            ApiError: 400: its key was used for another request.
        """
        key = request.headers.get("idempotency-key")
        if request.method not in ("POST", "DELETE") or (content is None and key is None):
            return None
        if content is None:
            content = request.headers.get("content-length", "").encode("latin-1")
        digest = _digest(request, content, principal)
        if key is None:
            count = request.headers.get("x-stainless-retry-count", "0")
            return Identity(digest.hex(), digest, RETRY_TIME, _COUNT.fullmatch(count) is not None)
        name = f"{principal}\n{key}"
        found = self._answers.get(name)
        if found is not None and found[0].digest != digest and found[1] > self._clock():
            raise ApiError(
                400, _OTHER_BODY.format(key=key[:200]), type="idempotency_error", code=None
            )
        return Identity(name, digest, KEY_TIME, True)

    async def find(self, identity: Identity) -> Answer | None:
        """Return the first answer to a repetition, as soon as it has begun."""
        if not identity.is_repetition:
            return None
        answer, until = self._answers.get(identity.key, (None, 0.0))
        if answer is None or until <= self._clock() or not await answer.wait_start():
            return None
        return answer

    def begin(self, identity: Identity) -> Answer:
        """Return a new answer, to be remembered from now on."""
        self._make_room()
        answer = Answer(identity.digest)
        self._answers[identity.key] = (answer, self._clock() + identity.lifetime)
        self._answers.move_to_end(identity.key)
        return answer

    def _make_room(self) -> None:
        """Forget what is too old, and the oldest of what is too much."""
        moment = self._clock()
        self._begun += 1
        if self._begun % _COUNT_EVERY == 0:
            self._drop(self._excess())
        while self._answers:
            answer, until = next(iter(self._answers.values()))
            if until > moment and not answer.is_void and len(self._answers) < _COUNT_LIMIT:
                break
            self._answers.popitem(last=False)

    def _excess(self) -> int:
        sizes = (answer.size + _ENTRY_COST for answer, _ in self._answers.values())
        return sum(sizes) - _TOTAL_LIMIT

    def _drop(self, size: int) -> None:
        while size > 0 and self._answers:
            _, (answer, _) = self._answers.popitem(last=False)
            size -= answer.size + _ENTRY_COST


class RecordedResponse(Response):
    """A response that is remembered while it is sent."""

    def __init__(self, response: Response, answer: Answer) -> None:
        # Not the constructor of the parent class: this has no content of its own.
        self.status_code = response.status_code
        self.raw_headers = response.raw_headers
        self.background = None
        self._response = response
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a stream whose client has gone is read on for a while."""
        answer, gone, useless = self._answer, anyio.Event(), anyio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not answer.is_void:
                await anyio.sleep(RETRY_TIME)
            useless.set()

        async def wait_for_end() -> Message:
            await useless.wait()
            return {"type": "http.disconnect"}

        async def send_and_remember(message: Message) -> None:
            answer.take(message)
            if not gone.is_set():
                await send(message)
            elif answer.is_void:
                useless.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                await self._response(scope, wait_for_end, send_and_remember)
                answer.finish()
                tasks.cancel_scope.cancel()
        finally:
            if not answer.is_done:
                answer.void()


class RepeatedResponse(Response):
    """The answer to an earlier request, as far as it is there and then as it comes."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = answer.status
        self.raw_headers = [*answer.headers, (b"idempotent-replayed", b"true")]
        self.background = None
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        answer, sent = self._answer, 0
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        while True:
            await answer.wait(sent)
            pieces = answer.chunks[sent:]
            sent += len(pieces)
            is_last = answer.is_done and sent >= len(answer.chunks)
            await send(
                {
                    "type": "http.response.body",
                    "body": b"".join(pieces),
                    "more_body": not is_last,
                }
            )
            if is_last:
                return


def remember(response: Response, answer: Answer) -> Response:
    """Return a response that is remembered; an error that may pass is not."""
    if response.status_code >= 500 or response.status_code in _PASSING:
        answer.void()
        return response
    if isinstance(response, EventResponse):
        return RecordedResponse(response, answer)
    if type(response) not in (JsonResponse, Response):
        answer.void()  # a stream of something that may have to end when its reader leaves
        return response
    headers = response.raw_headers
    answer.take({"type": "http.response.start", "status": response.status_code, "headers": headers})
    answer.take({"type": "http.response.body", "body": bytes(response.body)})
    answer.finish()
    return response


def _digest(request: Request, content: bytes, principal: str) -> bytes:
    headers: Mapping[str, str] = Headers(scope=request.scope)
    parts = (
        principal,
        request.method,
        request.scope["path"],
        request.scope["query_string"].decode("latin-1"),
        headers.get("openai-beta", ""),
    )
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() + b"\0")
    digest.update(content)
    return digest.digest()
