import urllib.request
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import pytest

from ci_tools.models import RunStep, Session, StepStatus, new_id
from ci_tools.stores.blobs import BlobStore, create_store
from ci_tools.stores.records import RecordStore, open_records_at

NewStep = Callable[[Session], RunStep]
S3_KEYS = {"access_key_id": "id", "secret_access_key": "secret", "region": "us-east-1"}

OpenStore = Callable[[], AbstractAsyncContextManager[RecordStore]]


async def _create_database(server: str) -> str:
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def databases() -> dict[str, str]:
    """The database of PostgreSQL that tests share, made by the first one."""
    return {}


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'records.db'}"
    return await _create_database(request.getfixturevalue("postgresql"))


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path, databases: dict[str, str]) -> str:
    """The URL of a database without records."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'records.db'}"
    if "url" not in databases:
        databases["url"] = await _create_database(request.getfixturevalue("postgresql"))
        return databases["url"]
    connection = await asyncpg.connect(databases["url"])
    if await connection.fetchval("SELECT to_regclass('sessions')"):
        await connection.execute(
            "TRUNCATE sessions, steps, leases, files, placements, tokens, tickets, loose_objects"
        )
    await connection.close()
    return databases["url"]


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not our imports
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def make_bucket(s3: str) -> str:
    """Make a bucket at the S3 server's address, and return its name."""
    bucket = f"bucket-{uuid4().hex}"
    create = urllib.request.Request(f"{s3}/{bucket}", method="PUT")
    urllib.request.urlopen(create).close()
    return bucket


@pytest.fixture
def blobs() -> BlobStore:
    return BlobStore(create_store("memory:///", {}))


@pytest.fixture
def open_store(url: str, blobs: BlobStore) -> OpenStore:
    return partial(open_records_at, url, blobs)


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[RecordStore]:
    async with open_store() as store:
        yield store


@pytest.fixture
def new_session() -> Callable[..., Session]:
    """Make sessions that are not stored."""

    def make(principal: str = "ada", name: str | None = None) -> Session:
        return Session(
            id=new_id("sess_"),
            principal=principal,
            name=name,
            server="embedded",
            kernelspec="python3",
            isolation="none",
            created_at=0,
            last_used_at=0,
        )

    return make


@pytest.fixture
def new_step() -> NewStep:
    """Make steps that are not stored."""

    def make(session: Session) -> RunStep:
        return RunStep(
            id=new_id("step_"),
            session_id=session.id,
            principal=session.principal,
            code="1 + 1",
            status=StepStatus.QUEUED,
            epoch=0,
            timeout=60,
            created_at=0,
        )

    return make


@pytest.fixture
async def session(store: RecordStore, new_session: Callable[..., Session]) -> Session:
    """A stored session of `ada`."""
    return await store.add_session(new_session(), limit=10)
