"""`open_service`: the only place that wires stores, backend and service together."""

import logging
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path

import anyio

from ci_tools.engine import Engine
from ci_tools.errors import ConfigurationError
from ci_tools.extras import install_command
from ci_tools.kernel import KernelBackend
from ci_tools.limits import RateLimiter
from ci_tools.live import CLOSE_GRACE
from ci_tools.models import LOCAL, new_id
from ci_tools.service import SessionService
from ci_tools.settings import Settings
from ci_tools.upkeep import (
    keep_lease,
    renew_lease,
    sweep,
    watch_leases,
    watch_steps,
    write_unwritten,
)

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_service(
    settings: Settings | None = None, *, backend: KernelBackend | None = None
) -> AsyncIterator[SessionService]:
    """Open the stores and the backend and yield the service of the principal `local`.

    Leaving the block stops running steps, closes connections and ends the kernels that the backend
    owns (those of an embedded server; kernels on remote servers live on).

    Raises:
        ConfigurationError: A setting cannot work.
    """
    # SQLAlchemy and obstore take a third of a second to import: only who opens a service pays.
    from ci_tools.stores.blobs import open_blobs
    from ci_tools.stores.records import open_records

    settings = settings or Settings()
    make_state_dir(settings.state_dir)
    backend = backend or load_backend(settings)
    async with AsyncExitStack() as stack:
        blobs = await stack.enter_async_context(open_blobs(settings))
        records = await stack.enter_async_context(open_records(settings, blobs))
        await stack.enter_async_context(backend.open())
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            engine = Engine(
                settings=settings,
                backend=backend,
                records=records,
                blobs=blobs,
                lease=new_id("lease_"),
                tasks=tasks,
                rates=RateLimiter(settings.requests_per_minute),
            )
            await renew_lease(engine)
            records.keep_journal(engine.lease)
            for upkeep in (keep_lease, watch_leases, watch_steps, sweep):
                tasks.start_soon(upkeep, engine)
            try:
                yield SessionService(engine, LOCAL)
            except Exception as error:  # noqa: BLE001 - raised again, outside of the task group
                failure = error
            finally:
                with anyio.move_on_after(3 * CLOSE_GRACE, shield=True):
                    await _close(engine)
                tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _close(engine: Engine) -> None:
    """Stop the running steps, wait until they are stored, give up the lease."""
    engine.closing = True
    running = list(engine.running.values())
    for step in running:
        step.request_stop("closed")
    with anyio.move_on_after(CLOSE_GRACE):
        for step in running:
            await step.done.wait()
    lives = list(engine.live.values())
    for live in lives:
        live.close()
    with anyio.move_on_after(CLOSE_GRACE):
        for live in lives:
            await live.ended.wait()
    with anyio.move_on_after(CLOSE_GRACE):
        await write_unwritten(engine)
    await engine.records.release_lease(engine.lease)


def load_backend(settings: Settings) -> KernelBackend:
    """Return the backend that the settings name, by its entry point in `ci_tools.backends`."""
    found = entry_points(group="ci_tools.backends", name=settings.backend)
    if not found:
        known = ", ".join(sorted(entry_points(group="ci_tools.backends").names)) or "none"
        raise ConfigurationError(
            f"There is no backend {settings.backend!r} (installed: {known}). "
            f"Jupyter's comes with: {install_command('jupyter')}."
        )
    try:
        backend_type = next(iter(found)).load()
    except ImportError as error:
        raise ConfigurationError(
            f"The backend {settings.backend!r} lacks the package {error.name!r}: "
            f"{install_command(settings.backend)}."
        ) from error
    create: Callable[[Settings], KernelBackend] = backend_type.from_settings
    return create(settings)


def make_state_dir(path: Path) -> None:
    """Make the state directory and its folders, closed to other users.

    Raises:
        ConfigurationError: It cannot be written, or belongs to somebody else.
    """
    try:
        for folder in (path, path / "sessions", path / "spool", path / "run"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(
            f"The state directory {path} cannot be made: {error.strerror}. "
            "Set CI_TOOLS_STATE_DIR to a folder you can write."
        ) from error
    if os.name == "posix":
        if found.st_uid != os.geteuid():
            raise ConfigurationError(
                f"The state directory {path} belongs to another user. "
                "Set CI_TOOLS_STATE_DIR to a folder of your own."
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            path.chmod(0o700)
