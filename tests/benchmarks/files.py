"""How long 512 MiB take into a session and out of it, and how much memory the service needs."""

import hashlib
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from time import perf_counter

import anyio
import psutil

from ci_tools import SessionService
from tests.benchmarks.measure import Row, interleave, to_row
from tests.benchmarks.ours import embedded_service, remote_service, scratch_folder

SIZE = 512 << 20
"""Bytes."""

CHUNK = 1 << 20
"""Bytes that are read and handed over at once."""

SAMPLE_INTERVAL = 0.005
"""Seconds between two looks at the memory."""


def make_source(folder: Path) -> tuple[Path, str]:
    """Write a file that does not compress; return it and its SHA-256."""
    source, digest = folder / "source.bin", hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(SIZE // CHUNK):
            chunk = os.urandom(CHUNK)
            digest.update(chunk)
            file.write(chunk)
    return source, digest.hexdigest()


async def read_chunks(source: Path) -> AsyncIterator[bytes]:
    """Stream a file as an upload over HTTP would come."""
    async with await anyio.open_file(source, "rb") as file:
        while chunk := await file.read(CHUNK):
            yield chunk


@contextmanager
def watched_memory() -> Iterator[Callable[[], float]]:
    """Watch this process's resident memory; the yielded call returns its growth in MB."""
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(SAMPLE_INTERVAL):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lambda: (peak - before) / 1e6
    finally:
        stop.set()
        thread.join()


def time_commands(*commands: tuple[str | Path, ...]) -> float:
    """Return the seconds that commands take one after the other."""
    started = perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - started


async def measure_upload(
    name: str,
    opened: Callable[[Path], AbstractAsyncContextManager[SessionService]],
    *,
    rounds: int,
    hashed: bool,
) -> list[Row]:
    """Measure uploads against one `cp`, or (`hashed`) two and a `sha256sum`."""
    with scratch_folder() as folder:
        source, digest = make_source(folder)
        async with opened(folder) as service:
            session = await service.create_session()

            async def run() -> float:
                started = perf_counter()
                file = await service.upload_file(session.id, "big.bin", read_chunks(source))
                seconds = perf_counter() - started
                assert file.sha256 == digest
                await service.delete_file(session.id, "big.bin")
                return seconds

            async def run_cp() -> float:
                copies = (folder / "first.bin", folder / "second.bin")
                commands: list[tuple[str | Path, ...]] = [("cp", source, copies[0])]
                if hashed:
                    commands += [("cp", source, copies[1]), ("sha256sum", source)]
                seconds = await anyio.to_thread.run_sync(lambda: time_commands(*commands))
                for copy in copies:
                    copy.unlink(missing_ok=True)
                return seconds

            ours, raw = await interleave([run, run_cp], rounds=rounds)
    return [to_row(name, ours, "s", raw)]


async def measure_upload_embedded(name: str, *, rounds: int) -> list[Row]:
    """Measure uploads to the embedded server."""
    return await measure_upload(name, embedded_service, rounds=rounds, hashed=True)


async def measure_upload_remote(name: str, *, rounds: int) -> list[Row]:
    """Measure uploads to a stock server."""
    return await measure_upload(name, remote_service, rounds=rounds, hashed=False)


async def measure_memory(name: str, *, rounds: int) -> list[Row]:
    """Measure how much this process, with the service in it, grows at most during uploads."""
    growths: list[float] = []
    for opened in (embedded_service, remote_service):
        with scratch_folder() as folder:
            source, _ = make_source(folder)
            async with opened(folder) as service:
                session = await service.create_session()
                await service.upload_file(session.id, "small.bin", b"first use loads modules")
                for _ in range(rounds):
                    with watched_memory() as growth:
                        await service.upload_file(session.id, "big.bin", read_chunks(source))
                        growths.append(growth())
    return [to_row(name, max(growths), "MB")]


async def measure_download_remote(name: str, *, rounds: int) -> list[Row]:
    """Measure downloads from a stock server into a file, against one `cp`."""
    with scratch_folder() as folder:
        source, digest = make_source(folder)
        async with remote_service(folder) as service:
            session = await service.create_session()
            await service.upload_file(session.id, "big.bin", read_chunks(source))
            target = folder / "target.bin"

            async def run() -> float:
                started = perf_counter()
                with target.open("wb") as file:
                    async with service.open_file(session.id, "big.bin") as chunks:
                        async for chunk in chunks:
                            file.write(chunk)
                seconds = perf_counter() - started
                with target.open("rb") as written:
                    assert hashlib.file_digest(written, "sha256").hexdigest() == digest
                target.unlink()
                return seconds

            async def run_cp() -> float:
                seconds = await anyio.to_thread.run_sync(
                    lambda: time_commands(("cp", source, target))
                )
                target.unlink()
                return seconds

            ours, raw = await interleave([run, run_cp], rounds=rounds)
    return [to_row(name, ours, "s", raw)]


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "upload_512mb_rss": measure_memory,
    "upload_512mb_embedded": measure_upload_embedded,
    "upload_512mb_remote": measure_upload_remote,
    "download_512mb_remote": measure_download_remote,
}
