from collections.abc import Iterable
from typing import Any

import anyio
import httpx2
import pytest
from openai import APIError, AsyncOpenAI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ci_tools_assistants.http import retries
from ci_tools_assistants.http.retries import (
    Answer,
    RecordedResponse,
    RepeatedResponse,
    Retries,
    remember,
)
from ci_tools_assistants.http.routing import JsonResponse
from ci_tools_assistants.storage.records import Records
from tests.adapters.assistants.api import ApiClient

AGAIN = {"x-stainless-retry-count": "1"}
ASSISTANT = {"model": "m"}


async def count_assistants(client: ApiClient) -> int:
    return len((await client.fetch("/assistants"))["data"])


async def test_a_retry_gets_the_first_answer(client: ApiClient) -> None:
    first = await client.post("/assistants", json=ASSISTANT)
    second = await client.post("/assistants", json=ASSISTANT, headers=AGAIN)

    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert await count_assistants(client) == 1


async def test_without_a_count_the_same_request_is_another_one(client: ApiClient) -> None:
    first = await client.make("/assistants", ASSISTANT)
    second = await client.make("/assistants", ASSISTANT, headers={"x-stainless-retry-count": "0"})

    assert first["id"] != second["id"]


@pytest.mark.parametrize("count", ["0", "00", "²".encode(), "9" * 5000, "-1", "one"])
async def test_a_strange_count_is_no_retry(client: ApiClient, count: str | bytes) -> None:
    headers: dict[str, Any] = {"x-stainless-retry-count": count}
    await client.make("/assistants", ASSISTANT)

    response = await client.post("/assistants", json=ASSISTANT, headers=headers)

    assert response.status_code == 200
    assert await count_assistants(client) == 2


async def test_a_retry_of_what_never_came_is_done(client: ApiClient) -> None:
    await client.make("/assistants", ASSISTANT)

    await client.make("/assistants", {"model": "other"}, headers=AGAIN)
    await client.make("/assistants?x=1", ASSISTANT, headers=AGAIN)

    assert await count_assistants(client) == 3


async def test_a_retry_of_a_deletion_is_no_error(client: ApiClient) -> None:
    made = await client.make("/assistants", ASSISTANT)
    first = await client.delete(f"/assistants/{made['id']}")

    second = await client.delete(f"/assistants/{made['id']}", headers=AGAIN)

    assert second.json() == first.json()


async def test_another_principal_does_not_get_the_answer(client: ApiClient) -> None:
    made = await client.make("/assistants", ASSISTANT)
    bob = await client.as_principal("bob")

    other = await bob.make("/assistants", ASSISTANT, headers=AGAIN)

    assert other["id"] != made["id"]


async def test_a_retry_waits_for_the_first_request(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = anyio.Event(), anyio.Event()
    add = Records.add
    answers: list[Any] = []

    async def add_slowly(self: Records, *args: Any, **kwargs: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await add(self, *args, **kwargs)

    async def post(headers: dict[str, str]) -> None:
        answers.append(await client.make("/assistants", ASSISTANT, headers=headers))

    monkeypatch.setattr(Records, "add", add_slowly)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, {})
            await begun.wait()
            tasks.start_soon(post, AGAIN)
            await anyio.lowlevel.checkpoint()
            go_on.set()

    assert answers[0] == answers[1]
    assert await count_assistants(client) == 1


async def test_a_retry_of_a_failure_is_done(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Records, "add", fail)
        assert (await client.post("/assistants", json=ASSISTANT)).status_code == 500

    await client.make("/assistants", ASSISTANT, headers=AGAIN)


async def test_a_key_makes_a_request_happen_once(client: ApiClient) -> None:
    key = {"Idempotency-Key": "key-1"}
    first = await client.make("/assistants", ASSISTANT, headers=key)

    second = await client.make("/assistants", ASSISTANT, headers=key)
    other = await client.make("/assistants", ASSISTANT, headers={"Idempotency-Key": "key-2"})
    bob = await client.as_principal("bob")
    foreign = await bob.make("/assistants", {"model": "other"}, headers=key)

    assert second == first
    assert len({first["id"], other["id"], foreign["id"]}) == 3


async def test_a_key_is_for_one_request_only(client: ApiClient) -> None:
    key = {"Idempotency-Key": "key-1"}
    await client.make("/assistants", ASSISTANT, headers=key)

    status, error = await client.refused(
        "POST", "/assistants", json={"model": "other"}, headers=key
    )

    assert (status, error["type"]) == (400, "idempotency_error")


class LossyTransport(httpx2.AsyncBaseTransport):
    """Delivers every request, and loses the answer to the first one of each."""

    def __init__(self, client: ApiClient) -> None:
        self.inner = httpx2.ASGITransport(client.app)
        self.lost: set[str] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self.inner.handle_async_request(request)
        if request.method == "POST" and request.url.path not in self.lost:
            self.lost.add(request.url.path)
            raise httpx2.ReadError("The connection was closed.")
        return response


async def test_a_key_makes_an_upload_happen_once(client: ApiClient) -> None:
    async def upload(content: bytes) -> httpx2.Response:
        return await client.post(
            "/files",
            files={"file": ("a.csv", content)},
            data={"purpose": "assistants"},
            headers={"Idempotency-Key": "the key", **AGAIN},
        )

    first = await upload(b"abc")
    again = await upload(b"abc")
    other = await upload(b"abcdef")
    without_key = await client.upload("a.csv", b"abc")

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    listed = [file["id"] for file in (await client.fetch("/files"))["data"]]
    assert listed == [without_key, first.json()["id"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_the_official_client_loses_answers_and_nothing_is_there_twice(
    client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    official = AsyncOpenAI(
        api_key=client.headers["Authorization"].split()[1],
        base_url="http://api.test/v1",
        http_client=httpx2.AsyncClient(transport=LossyTransport(client)),
    )
    async with official:
        assistant = await official.beta.assistants.create(model="m")
        thread = await official.beta.threads.create()
        await official.beta.threads.messages.create(thread.id, role="user", content="x")
        stream = await official.beta.threads.runs.create(
            thread.id, assistant_id=assistant.id, stream=True
        )
        events: list[str] = []
        with pytest.raises(APIError, match="not configured"):
            async for event in stream:
                events.append(event.event)

    assert (events[0], events[-1]) == ("thread.run.created", "thread.run.failed")
    for path in (
        "/assistants",
        "/threads",
        f"/threads/{thread.id}/messages",
        f"/threads/{thread.id}/runs",
    ):
        assert len((await client.fetch(path))["data"]) == 1


# Single parts


def make_request(body: bytes = b"") -> Request:
    return Request(
        {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": []}
    )


async def test_answers_are_forgotten_after_their_time() -> None:
    time = 0.0
    known = Retries(clock=lambda: time)
    identity = known.identify(make_request(), b"", principal="ada")
    assert identity is not None
    remember(JsonResponse({}), known.begin(identity))
    again = retries.Identity(identity.key, identity.digest, 60, True)

    assert await known.find(again) is not None
    time = 61.0

    assert await known.find(again) is None


async def test_the_memory_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_TOTAL_LIMIT", 100_000)
    monkeypatch.setattr(retries, "_COUNT_EVERY", 10)
    known = Retries()
    identities = []
    for number in range(200):
        identity = known.identify(make_request(), str(number).encode(), principal="ada")
        assert identity is not None
        identities.append(retries.Identity(identity.key, identity.digest, 60, True))
        remember(JsonResponse("x" * 10_000), known.begin(identity))

    kept = [identity for identity in identities if await known.find(identity) is not None]

    assert 1 <= len(kept) <= 20
    assert kept[-1] == identities[-1]


class Stream(Response):
    """A response of several pieces, which goes on when told to."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self.pieces = list(pieces)
        self.go_on = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def read(response: Response) -> bytes:
    body: list[bytes] = []

    async def send(message: Message) -> None:
        body.append(message.get("body", b""))

    await response({"type": "http"}, anyio.sleep_forever, send)  # type: ignore[arg-type]
    return b"".join(body)


async def test_a_stream_whose_client_has_gone_is_read_to_its_end() -> None:
    answer, stream = Answer(b""), Stream([b"one", b"two"])
    received: list[bytes] = []

    async def leave() -> Message:
        await started.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        received.append(message.get("body", b""))
        started.set()

    started = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(RecordedResponse(stream, answer), {"type": "http"}, leave, send)
            assert await answer.wait_start()
            await anyio.wait_all_tasks_blocked()
            stream.go_on.set()
        repeated = await read(RepeatedResponse(answer))

    assert received[:2] == [b"", b"one"]
    assert repeated == b"onetwo"


async def test_a_repetition_follows_a_stream_that_goes_on() -> None:
    answer, stream = Answer(b""), Stream([b"one", b"two"])
    bodies: list[bytes] = []

    async def repeat() -> None:
        await answer.wait_start()
        bodies.append(await read(RepeatedResponse(answer)))

    async def first() -> None:
        bodies.append(await read(RecordedResponse(stream, answer)))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            tasks.start_soon(repeat)
            await anyio.wait_all_tasks_blocked()
            stream.go_on.set()

    assert bodies == [b"onetwo", b"onetwo"]


async def test_a_stream_that_is_too_large_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "_ANSWER_LIMIT", 4)
    answer, stream = Answer(b""), Stream([b"one", b"two"])
    stream.go_on.set()

    body = await read(RecordedResponse(stream, answer))

    assert body == b"onetwo"
    assert answer.is_void
    assert not await answer.wait_start()
