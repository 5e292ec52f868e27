import sqlite3
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from ci_tools.errors import ConfigurationError, StoreError
from ci_tools.models import RunStep, Session
from ci_tools.settings import Settings
from ci_tools.stores.blobs import BlobStore
from ci_tools.stores.records import open_records, open_records_at
from ci_tools.stores.sqlite import _CHECKPOINT_WRITES


async def test_records_are_in_the_state_directory_and_private(
    tmp_path: Path, blobs: BlobStore, new_session: Callable[..., Session]
) -> None:
    settings = Settings(state_dir=tmp_path / "a state?%20dir")

    async with open_records(settings, blobs) as store:
        await store.add_session(new_session(), limit=1)
        found = {path.name: path.stat().st_mode & 0o777 for path in settings.state_dir.iterdir()}

    assert found == {"records.db": 0o600, "records.db-wal": 0o600, "records.db-shm": 0o600}
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700


async def test_a_write_waits_for_another_process_without_stopping_the_loop(
    tmp_path: Path, blobs: BlobStore, new_session: Callable[..., Session]
) -> None:
    path = tmp_path / "records.db"
    async with open_records_at(f"sqlite:///{path}", blobs) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        done = anyio.Event()

        async def write() -> None:
            await store.add_session(new_session(), limit=1)
            done.set()

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                assert not done.is_set()
                other.execute("COMMIT")
                await done.wait()
        other.close()

        assert len(await store.list_sessions(principal="ada")) == 1


async def test_a_cancelled_write_is_done_or_was_never_begun(
    tmp_path: Path, blobs: BlobStore, new_session: Callable[..., Session]
) -> None:
    path = tmp_path / "records.db"
    async with open_records_at(f"sqlite:///{path}", blobs) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        results: list[Session] = []

        async def write() -> None:
            results.append(await store.add_session(new_session(), limit=2))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                tasks.start_soon(write)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
                other.execute("COMMIT")
        other.close()

        assert await store.list_sessions(principal="ada") == results
        assert len(results) == 1


async def test_the_log_is_copied_into_the_file_now_and_then(
    tmp_path: Path, blobs: BlobStore
) -> None:
    path = tmp_path / "records.db"
    async with open_records_at(f"sqlite:///{path}", blobs) as store:
        for number in range(_CHECKPOINT_WRITES):
            await store.take_lease(str(number), seconds=1)
        copied = path.stat().st_size

        for number in range(2 * _CHECKPOINT_WRITES):
            await store.take_lease(str(number), seconds=2)

        assert copied > 10_000
        assert path.with_name("records.db-wal").stat().st_size < 10_000_000


async def test_nothing_of_an_erased_principal_is_left_in_any_file(
    tmp_path: Path,
    blobs: BlobStore,
    new_session: Callable[..., Session],
    new_step: Callable[[Session], RunStep],
) -> None:
    async with open_records_at(f"sqlite:///{tmp_path / 'records.db'}", blobs) as store:
        for name in ("ada", "bob"):
            session = await store.add_session(new_session(name), limit=1)
            for number in range(20):
                code = f"the secret of {name} " * 100 * number
                step = replace(new_step(session), code=code)
                await store.admit_step(step, lease="l", limit=100)

        await store.erase_principal("ada")
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"secret of bob" in kept
    assert b"secret of ada" not in kept


async def test_a_full_disk_is_a_store_error(tmp_path: Path, blobs: BlobStore) -> None:
    async with open_records_at(f"sqlite:///{tmp_path / 'records.db'}", blobs) as store:
        store._database._hot.raw.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

        with pytest.raises(StoreError):
            for number in range(10_000):
                await store.take_lease(f"{number:01000}", seconds=1)

        await store.ping()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://user:secret@host/name",
        "sqlite:////proc/nowhere/records.db",
    ],
)
async def test_a_url_that_cannot_work_is_a_configuration_error(url: str, blobs: BlobStore) -> None:
    with pytest.raises(ConfigurationError) as caught:
        async with open_records_at(url, blobs):
            pass

    assert "secret" not in str(caught.value)


async def test_a_file_that_is_no_database_is_a_configuration_error(
    tmp_path: Path, blobs: BlobStore
) -> None:
    path = tmp_path / "records.db"
    path.write_text("These are not the records that you are looking for. " * 100)

    with pytest.raises(ConfigurationError):
        async with open_records_at(f"sqlite:///{path}", blobs):
            pass


async def test_an_unreachable_postgresql_is_a_store_error(tmp_path: Path, blobs: BlobStore) -> None:
    with pytest.raises(StoreError) as caught:
        async with open_records_at(f"postgresql://u:secret@/db?host={tmp_path}", blobs):
            pass

    assert "secret" not in str(caught.value)
