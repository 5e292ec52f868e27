import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from ci_tools.errors import NotFoundError, StoreError
from ci_tools.models import File, Session, new_id
from ci_tools.stores.blobs import BlobStore, create_store
from ci_tools.stores.multipart import Bucket, find_bucket, to_query
from ci_tools.stores.records import RecordStore, open_records_at
from tests.ci_tools.stores.conftest import S3_KEYS, make_bucket


def new_file(session_id: str | None = None) -> File:
    return File(
        id=new_id("file-"),
        principal="ada",
        session_id=session_id,
        path="a.csv",
        size=3,
        sha256=None,
        media_type="text/csv",
        modified_at=0,
    )


async def write_and_die(url: str, lease: str, store_url: str, options: dict[str, str]) -> None:
    """Have a process killed while it writes an object."""
    script = str(Path(__file__).with_name("_writer.py"))
    command = [sys.executable, script, url, lease, store_url, json.dumps(options)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            await BufferedByteReceiveStream(process.stdout).receive_until(b"writing\n", 100)
        process.kill()
        await process.wait()


@pytest.fixture
def journal(store: RecordStore) -> Iterator[RecordStore]:
    """A record store that keeps the journal of its object store, as `mine`."""
    store.keep_journal("mine")
    yield store


async def test_what_a_killed_process_was_writing_is_deleted(empty_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    await write_and_die(empty_url, "theirs", folder.as_uri(), {})
    blobs = BlobStore(create_store(folder.as_uri(), {}))
    async with open_records_at(empty_url, blobs) as store:
        store.keep_journal("mine")
        left = [path for path in folder.rglob("*") if path.is_file()]
        while_it_may_live = await store.claim_garbage(age=0)
        await store.release_lease("theirs")
        while_it_is_young = await store.claim_garbage(age=600)
        [key] = await store.claim_garbage(age=0)
        await blobs.sweep(key)
        again = await store.claim_garbage(age=0)

    assert [path.name for path in left] == [f"{key.rsplit('/')[-1]}#1"]
    assert (while_it_may_live, while_it_is_young, again) == ([], [], [])
    assert [path for path in folder.rglob("*") if path.is_file()] == []


async def test_an_upload_to_s3_that_was_never_completed_is_aborted(empty_url: str, s3: str) -> None:
    bucket = make_bucket(s3)
    store_url, options = f"s3://{bucket}/a/prefix", {"endpoint": s3, **S3_KEYS}
    await write_and_die(empty_url, "theirs", store_url, options)
    blobs = BlobStore(create_store(store_url, options))
    async with open_records_at(empty_url, blobs) as store:
        await store.release_lease("theirs")
        begun = list_uploads(s3, bucket)
        [key] = await store.claim_garbage(age=0)
        await blobs.sweep(key)

    assert begun == [f"a/prefix/{key}"]
    assert list_uploads(s3, bucket) == []


def list_uploads(s3: str, bucket: str) -> list[str | None]:
    with urllib.request.urlopen(f"{s3}/{bucket}?uploads") as answer:
        uploads = ElementTree.fromstring(answer.read()).findall("{*}Upload")
    return [upload.findtext("{*}Key") for upload in uploads]


async def test_an_object_is_no_garbage_while_a_record_names_it(
    journal: RecordStore, blobs: BlobStore, session: Session
) -> None:
    key = await blobs.put_bytes(b"abc", principal="ada")
    file, _ = await journal.put_file(new_file(), key=key, limit=100)

    named = await journal.claim_garbage(age=0)
    await journal.delete_file(file.id or "", principal="ada")
    # The process is killed before it deletes the bytes.
    unnamed = await journal.claim_garbage(age=0)

    assert (named, unnamed) == ([], [key])
    await blobs.delete([key])
    assert await journal.claim_garbage(age=0) == []


async def test_what_was_taken_for_garbage_gets_no_record(
    journal: RecordStore, blobs: BlobStore
) -> None:
    key = await blobs.put_bytes(b"abc", principal="ada")
    assert await journal.claim_garbage(age=0) == [key]

    with pytest.raises(StoreError):
        await journal.put_file(new_file(), key=key, limit=100)
    await blobs.sweep(key)
    with pytest.raises(StoreError):
        await journal.put_file(new_file(), key=key, limit=100)

    assert await journal.stored_bytes(principal="ada") == 0


async def test_what_cannot_be_deleted_now_is_deleted_later(
    journal: RecordStore, blobs: BlobStore, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await blobs.put_bytes(b"abc", principal="ada")
    await journal.put_file(new_file(session.id), key=key, limit=100)

    async def fail(*args: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched, pytest.raises(StoreError):
        patched.setattr("ci_tools.stores.blobs.obstore.delete_async", fail)
        await blobs.delete(await journal.delete_session(session.id, principal="ada"))
    [found] = await journal.claim_garbage(age=0)
    await blobs.sweep(found)

    assert found == key
    with pytest.raises(NotFoundError):
        await blobs.size(key)


async def test_an_object_that_could_not_be_written_is_looked_at_again(
    journal: RecordStore, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*args: object, **more: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched, suppress(StoreError):
        patched.setattr("ci_tools.stores.blobs.obstore.put_async", fail)
        await blobs.put_bytes(b"abc", principal="ada")

    assert len(await journal.claim_garbage(age=0)) == 1


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ({"lifecycle": ""}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            {"prefix": "J", "max-keys": "2"},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_requests_are_signed_as_in_the_examples_of_s3(
    query: dict[str, str], signature: str
) -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html#example-signature-calculations
    bucket = Bucket(
        url="https://examplebucket.s3.amazonaws.com",
        region="us-east-1",
        key_id="AKIAIOSFODNN7EXAMPLE",
        secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )

    headers = bucket.sign(
        "GET", f"{bucket.url}/?{to_query(query)}", datetime(2013, 5, 24, tzinfo=UTC)
    )

    assert headers["authorization"].endswith(f"Signature={signature}")


def test_a_bucket_is_known_by_options_or_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert find_bucket({"bucket": "b"}) is None

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    found = find_bucket({"bucket": "b", "region": "eu-west-1"})
    assert found is not None
    assert (found.url, found.key_id) == ("https://s3.eu-west-1.amazonaws.com/b", "id")
    own = {"bucket": "b", "endpoint": "http://b.x/", "virtual_hosted_style_request": True}
    assert find_bucket(own) == Bucket(
        url="http://b.x", region="us-east-1", key_id="id", secret="secret"
    )
