"""The kernel manager that reports a started kernel at once."""

from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_events import EventLogger
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from ci_tools_kernels.starts import PromptKernelManager


def make_manager(kernelspecs: Path, name: str) -> PromptKernelManager:
    specs = KernelSpecManager(kernel_dirs=[str(kernelspecs)])
    return PromptKernelManager(kernel_name=name, kernel_spec_manager=specs)


async def test_started_kernel_is_ready_and_restarts(kernelspecs: Path, tmp_path: Path) -> None:
    manager = make_manager(kernelspecs, "sandbox")
    (tmp_path / "mine").mkdir()
    await manager.start_kernel(cwd=str(tmp_path / "mine"))
    try:
        started = manager.ready.done() and await manager.is_alive()
        await manager.restart_kernel(now=True)
        restarted = manager.ready.done() and await manager.is_alive()
    finally:
        await manager.shutdown_kernel(now=True)

    assert started
    assert restarted


async def test_start_that_fails_says_why(kernelspecs: Path, tmp_path: Path) -> None:
    manager = make_manager(kernelspecs, "sandbox")
    assert manager.kernel_spec is not None
    manager.kernel_spec.metadata["kernel_provisioner"]["config"] = {"memroy": 1}

    with pytest.raises(ValueError, match="memroy"):
        await manager.start_kernel(cwd=str(tmp_path))

    assert isinstance(manager.ready.exception(), ValueError)


def test_schemas_of_events_are_read_once_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    register = EventLogger.register_event_schema

    def count(logger: EventLogger, schema: object) -> None:
        read.append(schema)
        register(logger, schema)  # type: ignore[arg-type]

    monkeypatch.setattr(EventLogger, "register_event_schema", count)
    app = ServerApp()
    app.init_event_logger()
    kernels = AsyncMappingKernelManager(parent=app)  # type: ignore[no-untyped-call]
    before = len(read)

    first, second = (PromptKernelManager(parent=kernels) for _ in range(2))

    assert first.event_logger is second.event_logger is app.event_logger
    assert len(read) == before + 1
    assert first.core_event_schema_paths == [read[-1]]
