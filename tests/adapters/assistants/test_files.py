"""The endpoints of files and uploads, over ASGI and with the official client's own encoding."""

import hashlib
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import Api, AssistantsApp
from ci_tools_assistants.files import uploads
from ci_tools_assistants.files.upkeep import expire
from ci_tools_assistants.objects import Kind, Object

KEYS = {"key-ada": "ada", "key-eve": "eve"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A client of the API, and what is behind it."""

    def __init__(self, http: httpx2.AsyncClient, api: Api) -> None:
        self.http = http
        self.api = api

    async def upload(
        self, filename: str = "a.csv", content: bytes = b"1,2\n", /, **fields: str
    ) -> httpx2.Response:
        data = {"purpose": "assistants", **fields}
        return await self.http.post("/v1/files", data=data, files={"file": (filename, content)})

    async def make(
        self, filename: str = "a.csv", content: bytes = b"1,2\n", /, **more: str
    ) -> Object:
        response = await self.upload(filename, content, **more)
        assert response.status_code == 200, response.text
        made: Object = response.json()
        return made


@asynccontextmanager
async def open_world(tmp_path: Path, **more: object) -> AsyncIterator[World]:
    settings = Settings.model_validate({"state_dir": tmp_path / "state", **more})

    async def find_principal(key: str) -> str | None:
        return KEYS.get(key)

    app = AssistantsApp(find_principal)
    async with (
        open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service,
        app.open(service, settings) as api,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://localhost",
            headers={"Authorization": "Bearer key-ada"},
        ) as http,
    ):
        yield World(http, api)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


def error_of(response: httpx2.Response, status: int) -> Object:
    assert response.status_code == status, response.text
    error: Object = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# Upload


async def test_an_uploaded_file_is_described_and_comes_back(world: World) -> None:
    made = await world.make("data.csv", b"a,b\n1,2\n")

    assert {key: made[key] for key in made if key not in ("id", "created_at")} == {
        "object": "file",
        "bytes": 8,
        "filename": "data.csv",
        "purpose": "assistants",
        "status": "processed",
    }
    assert made["id"].startswith("file-")
    assert (await world.http.get(f"/v1/files/{made['id']}")).json() == made
    content = await world.http.get(f"/v1/files/{made['id']}/content")
    assert content.content == b"a,b\n1,2\n"
    assert content.headers["content-type"] == "text/csv; charset=utf-8"
    assert content.headers["content-disposition"].startswith('attachment; filename="data.csv"')


@pytest.mark.parametrize(
    "filename",
    [
        "größe 1.csv",
        "日本語.txt",
        'quo"te.txt',
        "100%.txt",
        "my%20file.txt",
        "a;b='c'.txt",
        "noext",
    ],
)
async def test_a_files_name_comes_back_as_it_was(world: World, filename: str) -> None:
    made = await world.make(filename)

    content = await world.http.get(f"/v1/files/{made['id']}/content")

    assert made["filename"] == filename
    assert "filename*=UTF-8''" in content.headers["content-disposition"]
    assert content.headers["content-disposition"].isascii()


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data"])
async def test_every_purpose_is_taken(world: World, purpose: str) -> None:
    made = await world.make(purpose=purpose)

    assert made["purpose"] == purpose
    assert ("expires_at" in made) == (purpose == "batch")


async def test_evals_are_shown_as_user_data(world: World) -> None:
    assert (await world.make(purpose="evals"))["purpose"] == "user_data"


async def test_what_is_missing_or_wrong_in_the_form_is_named(world: World) -> None:
    http, file = world.http, {"file": ("a.csv", b"1")}

    no_purpose = await http.post("/v1/files", files=file)
    wrong = await world.upload(purpose="fun")
    no_file = await http.post(
        "/v1/files", files={"other": (None, b"x")}, data={"purpose": "assistants"}
    )
    bare = await http.post("/v1/files", data={"purpose": "assistants"})
    unknown = await world.upload(colour="red")
    short = await world.upload(
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}
    )

    assert error_of(no_purpose, 400)["param"] == "purpose"
    assert error_of(wrong, 400)["param"] == "purpose"
    assert error_of(no_file, 400)["type"] == "invalid_request_error"
    assert "multipart" in error_of(bare, 400)["message"]
    assert error_of(unknown, 400)["param"] == "colour"
    assert error_of(short, 400)["param"] == "expires_after.seconds"
    assert (await http.get("/v1/files")).json()["data"] == []
    assert await _stored_bytes(world) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
        b"no form at all",
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--x--\r\n',
        b"--x\r\n: \r\n\r\n--x--",
    ],
)
async def test_a_broken_form_is_a_bad_request(world: World, body: bytes) -> None:
    response = await world.http.post(
        "/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )

    error_of(response, 400)
    assert await _stored_bytes(world) == 0


async def test_the_file_may_come_before_the_purpose_in_pieces(world: World) -> None:
    content = bytes(range(256)) * 1000 + b"\r\n--x\r\n--"
    form = (
        b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        + content
        + b'\r\n--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants'
        + b"\r\n--xyz--\r\n"
    )

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(form), 777):
            yield form[start : start + 777]

    response = await world.http.post(
        "/v1/files",
        content=pieces(),
        headers={"Content-Type": "multipart/form-data; boundary=xyz"},
    )

    made = response.json()
    assert made["bytes"] == len(content)
    got = await world.http.get(f"/v1/files/{made['id']}/content")
    assert got.content == content


async def test_a_file_over_the_limit_is_refused_and_not_kept(tmp_path: Path) -> None:
    async with open_world(tmp_path, file_limit=1000) as world:
        await world.make("a.csv", b"x" * 1000)
        refused = await world.upload("a.csv", b"x" * 1001)
        declared = await world.http.post(
            "/v1/files",
            content=b"",
            headers={
                "Content-Type": "multipart/form-data; boundary=x",
                "Content-Length": str(100_000_000),
            },
        )
        listed = (await world.http.get("/v1/files")).json()["data"]
        stored = await _stored_bytes(world)

    assert error_of(refused, 413)["code"] == "file_too_large"
    assert error_of(declared, 413)["code"] == "file_too_large"
    assert len(listed) == 1
    assert stored == 1000


async def test_an_empty_file_is_taken(world: World) -> None:
    made = await world.make("a.csv", b"")

    got = await world.http.get(f"/v1/files/{made['id']}/content")

    assert (made["bytes"], got.content, got.headers["content-length"]) == (0, b"", "0")


# List, look, delete


async def test_files_are_listed_by_purpose_in_pages(world: World) -> None:
    ids = [(await world.make(f"{number}.csv"))["id"] for number in range(5)]
    other = (await world.make(purpose="vision"))["id"]

    async def ids_of(**query: str | int) -> list[str]:
        found = (await world.http.get("/v1/files", params=query)).json()
        return [file["id"] for file in found["data"]]

    assert await ids_of() == [other, *ids[::-1]]
    assert await ids_of(purpose="assistants", order="asc") == ids
    assert await ids_of(purpose="batch") == []
    assert await ids_of(limit=2, after=ids[3]) == [ids[2], ids[1]]
    page = (await world.http.get("/v1/files", params={"limit": 2})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (other, ids[4], True)
    for limit in ("0", "10001", "x"):
        response = await world.http.get("/v1/files", params={"limit": limit})
        assert error_of(response, 400)["param"] == "limit"


async def test_another_principals_files_do_not_exist(world: World) -> None:
    made = await world.make()
    eve = {"Authorization": "Bearer key-eve"}

    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        response = await world.http.request(method, f"/v1/files/{made['id']}{path}", headers=eve)
        message = error_of(response, 404)["message"]
        assert message == f"No file found with id '{made['id']}'."
    assert (await world.http.get("/v1/files", headers=eve)).json()["data"] == []


async def test_deleting_a_file_detaches_it_everywhere(world: World) -> None:
    file, other = await world.make("a.csv"), await world.make("b.csv")
    resources = {"code_interpreter": {"file_ids": [file["id"], other["id"]]}}
    body = {"model": "m", "tools": [{"type": "code_interpreter"}], "tool_resources": resources}
    assistant = (await world.http.post("/v1/assistants", json=body)).json()
    attachment = {"file_id": file["id"], "tools": [{"type": "code_interpreter"}]}
    message = {"role": "user", "content": "look", "attachments": [attachment]}
    thread = (await world.http.post("/v1/threads", json={"messages": [message]})).json()

    deleted = (await world.http.delete(f"/v1/files/{file['id']}")).json()

    assert deleted == {"id": file["id"], "object": "file", "deleted": True}
    assistant = (await world.http.get(f"/v1/assistants/{assistant['id']}")).json()
    assert assistant["tool_resources"] == {"code_interpreter": {"file_ids": [other["id"]]}}
    private = await world.api.records.get_private(Kind.THREAD, thread["id"], principal="ada")
    assert file["id"] not in str(private)
    thread = (await world.http.get(f"/v1/threads/{thread['id']}")).json()
    assert thread["tool_resources"]["code_interpreter"] == {"file_ids": []}
    messages = (await world.http.get(f"/v1/threads/{thread['id']}/messages")).json()
    assert messages["data"][0]["attachments"] == [attachment]
    error_of(await world.http.get(f"/v1/files/{file['id']}"), 404)
    error_of(await world.http.delete(f"/v1/files/{file['id']}"), 404)
    assert await _stored_bytes(world) == 4


async def test_an_expired_file_is_gone_and_then_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await world.make(
        **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    )
    assert made["expires_at"] == made["created_at"] + 3600
    await _expire_by_hand(world, Kind.FILE, made["id"])

    error_of(await world.http.get(f"/v1/files/{made['id']}"), 404)
    error_of(await world.http.get(f"/v1/files/{made['id']}/content"), 404)
    await expire(world.api.service, world.api.records)

    assert (await world.http.get("/v1/files")).json()["data"] == []
    assert await _stored_bytes(world) == 0


async def test_a_file_of_another_face_is_known_by_its_id(world: World) -> None:
    service = world.api.service.act_as("ada")
    session = await service.create_session()
    file = await service.upload_file(session.id, "there.csv", b"1,2")

    found = (await world.http.get(f"/v1/files/{file.id}")).json()
    content = await world.http.get(f"/v1/files/{file.id}/content")
    deleted = await world.http.delete(f"/v1/files/{file.id}")
    again = await world.http.get(f"/v1/files/{file.id}")

    assert (found["filename"], found["purpose"], found["bytes"]) == ("there.csv", "user_data", 3)
    assert content.content == b"1,2"
    assert deleted.json()["deleted"] is True
    error_of(again, 404)


# Download


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=0-999", 206, b"0123456789"),
        ("bytes=10-", 416, b""),
        ("bytes=3-1", 200, b"0123456789"),
        ("lines=1", 200, b"0123456789"),
    ],
)
async def test_a_part_of_a_file_is_answered(
    world: World, asked: str, status: int, content: bytes
) -> None:
    made = await world.make("a.csv", b"0123456789")

    response = await world.http.get(f"/v1/files/{made['id']}/content", headers={"Range": asked})

    assert (response.status_code, response.content) == (status, content)


async def test_a_download_is_never_a_page_of_this_site(world: World) -> None:
    made = await world.make("page.html", b"<script>alert(1)</script>")

    headers = (await world.http.get(f"/v1/files/{made['id']}/content")).headers

    assert headers["content-disposition"].startswith("attachment")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize(
    ("filename", "content", "media_type"),
    [
        ("a.txt", "grüße".encode(), "text/plain; charset=utf-8"),
        ("a.txt", "grüße".encode("latin-1"), "text/plain"),
        ("a.txt", "grüße, Welt".encode("utf-16"), "text/plain; charset=utf-16"),
        ("a.png", b"\x89PNG", "image/png"),
        ("a.PDF", b"%PDF", "application/pdf"),
        ("a.cs", b"class A {}", "text/x-csharp; charset=utf-8"),
        ("a.xyz", b"", "application/octet-stream"),
        (
            "a.xlsx",
            b"PK",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        ),
    ],
)
async def test_a_download_has_its_type(
    world: World, filename: str, content: bytes, media_type: str
) -> None:
    made = await world.make(filename, content)

    response = await world.http.get(f"/v1/files/{made['id']}/content")

    assert response.headers["content-type"] == media_type
    assert response.content == content


async def test_a_composed_name_is_kept_as_it_was_sent(world: World) -> None:
    name = unicodedata.normalize("NFD", "größe.csv")

    assert (await world.make(name))["filename"] == name


# Uploads in parts


async def begin(world: World, size: int, **more: object) -> Object:
    body = {
        "filename": "big.csv",
        "purpose": "assistants",
        "bytes": size,
        "mime_type": "text/csv",
        **more,
    }
    response = await world.http.post("/v1/uploads", json=body)
    assert response.status_code == 200, response.text
    upload: Object = response.json()
    return upload


async def add(world: World, upload: Object, content: bytes) -> httpx2.Response:
    path = f"/v1/uploads/{upload['id']}/parts"
    return await world.http.post(path, files={"data": ("blob", content)})


async def finish(world: World, upload: Object, *part_ids: str, **more: str) -> httpx2.Response:
    path = f"/v1/uploads/{upload['id']}/complete"
    return await world.http.post(path, json={"part_ids": list(part_ids), **more})


async def test_parts_become_a_file_in_the_order_that_is_named(world: World) -> None:
    upload = await begin(world, 6)
    second = (await add(world, upload, b"def")).json()
    first = (await add(world, upload, b"abc")).json()
    unused = (await add(world, upload, b"xyz")).json()

    digest = hashlib.md5(b"abcdef").hexdigest()
    done = (await finish(world, upload, first["id"], second["id"], md5=digest)).json()

    assert upload["status"] == "pending" and "file" not in upload
    assert upload["expires_at"] == upload["created_at"] + 3600
    assert set(first) == {"id", "object", "created_at", "upload_id"}
    assert unused["id"].startswith("part_")
    assert {**upload, "status": "completed"} == {k: done[k] for k in done if k != "file"}
    assert done["file"]["filename"] == "big.csv"
    content = await world.http.get(f"/v1/files/{done['file']['id']}/content")
    assert content.content == b"abcdef"
    assert await _stored_bytes(world) == 6


async def test_a_part_may_be_a_plain_field(world: World) -> None:
    upload = await begin(world, 3)
    form = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nabc\r\n--x--\r\n'

    part = await world.http.post(
        f"/v1/uploads/{upload['id']}/parts",
        content=form,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )

    assert (await finish(world, upload, part.json()["id"])).status_code == 200


async def test_an_upload_that_does_not_fit_stays_pending(world: World) -> None:
    upload = await begin(world, 6)
    part = (await add(world, upload, b"abc")).json()["id"]

    short = await finish(world, upload, part)
    twice = await finish(world, upload, part, part)
    foreign = await finish(world, upload, part, "part_none")
    rest = (await add(world, upload, b"def")).json()["id"]
    wrong = await finish(world, upload, part, rest, md5="0" * 32)
    done = await finish(world, upload, part, rest)
    again = await finish(world, upload, part, rest)
    late = await add(world, upload, b"x")

    assert "3 bytes" in error_of(short, 400)["message"]
    assert error_of(twice, 400)["param"] == "part_ids"
    error_of(foreign, 404)
    assert error_of(wrong, 400)["param"] == "md5"
    assert done.status_code == 200
    assert "completed" in error_of(again, 400)["message"]
    error_of(late, 400)
    assert await _stored_bytes(world) == 6


async def test_a_cancelled_upload_leaves_nothing(world: World) -> None:
    upload = await begin(world, 6)
    await add(world, upload, b"abc")

    cancelled = await world.http.post(f"/v1/uploads/{upload['id']}/cancel")

    assert cancelled.json() == {**upload, "status": "cancelled"}
    error_of(await world.http.post(f"/v1/uploads/{upload['id']}/cancel"), 400)
    error_of(await add(world, upload, b"def"), 400)
    assert await _stored_bytes(world) == 0


async def test_an_expired_upload_loses_its_parts(world: World) -> None:
    upload = await begin(world, 3)
    part = (await add(world, upload, b"abc")).json()
    await _expire_by_hand(world, Kind.UPLOAD, upload["id"])

    refused = await finish(world, upload, part["id"])
    await expire(world.api.service, world.api.records)

    assert "expired" in error_of(refused, 400)["message"]
    stored = await world.api.records.get(Kind.UPLOAD, upload["id"], principal="ada")
    assert stored["status"] == "expired"
    assert await _stored_bytes(world) == 0


async def test_limits_of_uploads_are_held(tmp_path: Path) -> None:
    async with open_world(tmp_path, file_limit=1000) as world:
        body = {"filename": "a", "purpose": "batch", "bytes": 1001, "mime_type": "text/plain"}
        large = await world.http.post("/v1/uploads", json=body)
        small = await begin(world, 10)
        refused = await add(world, small, b"x" * 1001)
        wrong = await world.http.post("/v1/uploads", json={**body, "purpose": "fun"})
        stored = await _stored_bytes(world)

    assert error_of(large, 413)["param"] == "bytes"
    error_of(refused, 413)
    assert error_of(wrong, 400)["param"] == "purpose"
    assert stored == 0


async def test_an_upload_takes_no_more_parts_than_can_be_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PARTS_LIMIT", 3)
    upload = await begin(world, 0)
    taken = [await add(world, upload, b"") for _ in range(3)]

    refused = await add(world, upload, b"")
    none = await finish(world, upload)

    assert [response.status_code for response in taken] == [200] * 3
    assert error_of(refused, 400)["code"] == "too_many_parts"
    assert none.json()["file"]["bytes"] == 0


async def test_parts_that_come_together_find_no_more_room_than_there_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_LIMIT", 10)
    upload = await begin(world, 10)
    responses: list[httpx2.Response] = []

    async def send() -> None:
        responses.append(await add(world, upload, b"x" * 10))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(send)

    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200] * 3 + [413] * 5
    assert await _stored_bytes(world) == 30


async def _stored_bytes(world: World) -> int:
    load = await world.api.service.measure_load()
    return load.stored_bytes


async def _expire_by_hand(world: World, kind: Kind, id: str) -> None:
    await world.api.records.change(
        kind, id, lambda item: {**item, "expires_at": item["created_at"]}, principal="ada"
    )
