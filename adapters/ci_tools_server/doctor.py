"""`ci-tools doctor`: what works on this machine, what is missing, and what to do."""

import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
from rich.console import Console
from rich.markup import escape

from ci_tools import CIToolsError, SessionService, Settings, StepStatus, open_service
from ci_tools.extras import install_command
from ci_tools_kernels import probe
from ci_tools_server.kernels import (
    KernelEnvironment,
    advise,
    describe,
    find_environment,
    find_policy,
    list_mechanisms,
)
from ci_tools_server.logs import configure_logs
from ci_tools_server.run_file import find_run

_STEP_LIMIT = 60.0
"""Seconds that a kernel has to start and answer."""

_NETWORKS = {
    "none": "no network",
    "allowlist": "with a list of allowed hosts",
    "on": "with the network of this machine",
}

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, what is so, and what to do about it."""

    state: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    advice: str = ""


def examine(settings: Settings) -> int:
    """Print every finding as it is made; return 1 if one is a failure, else 0."""
    configure_logs("error")
    console = Console(highlight=False, soft_wrap=True)
    failed = False

    def show(finding: Finding) -> None:
        nonlocal failed
        failed = failed or finding.state == "fail"
        colour = _COLOURS[finding.state]
        console.print(
            f"[{colour}]{finding.state:4}[/] [bold]{finding.subject}[/]: {escape(finding.text)}"
        )
        if finding.advice:
            console.print(f"     → {escape(finding.advice)}")

    async def run() -> None:
        for finding in (*_look_at_installation(), _look_at_state_dir(settings)):
            show(finding)
        environment = await anyio.to_thread.run_sync(find_environment, settings)
        if settings.jupyter_url is None:  # with it, no code runs on this machine
            for finding in _look_at_kernels(environment, settings):
                show(finding)
        async for finding in _look_at_service(settings, embedded=environment.python is not None):
            show(finding)
        for finding in await anyio.to_thread.run_sync(_look_at_models, settings):
            show(finding)

    anyio.run(run)
    return 1 if failed else 0


def _look_at_installation() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding(state="ok", subject="Python", text=f"{version} at {sys.executable}")
    if _is_compiled():
        yield Finding(state="ok", subject="bytecode", text="compiled: processes start fast")
    else:
        yield Finding(
            state="warn",
            subject="bytecode",
            text="not compiled: the first start takes seconds, and each one without write access",
            advice=f"{sys.executable} -m compileall -q {Path(__file__).parents[1]}",
        )


def _look_at_kernels(environment: KernelEnvironment, settings: Settings) -> Iterator[Finding]:
    """Say what kernels on this machine run in, and what holds them."""
    policy = find_policy(settings)
    # Nobody builds an interpreter that was named; an environment of ours is made when it is wanted.
    is_lost = environment.python is None and environment.folder is None
    yield Finding(
        state="fail" if is_lost else "warn" if advise(environment) else "ok",
        subject="kernel environment",
        text=describe(environment),
        advice=advise(environment),
    )
    if policy is None:
        yield Finding(
            state="warn",
            subject="isolation",
            text="none: code runs with your rights, and can read and change your files",
            advice="Unset CI_TOOLS_ISOLATION, or run code that you trust.",
        )
        return
    report = probe(policy, folder=settings.state_dir)
    if report.isolation is None:
        yield Finding(
            state="fail",
            subject="isolation",
            text="no sandbox can be made here",
            advice=report.problem or "",
        )
        return
    yield Finding(
        state="warn" if report.problem else "ok",
        subject="isolation",
        text=f"{report.isolation}, {_NETWORKS[policy.network]}",
        advice=report.problem or "",
    )
    for limit, text in list_mechanisms(report):
        yield Finding(state="ok", subject=f"limit of {limit}", text=text)


def _is_compiled() -> bool:
    for name in ("ci_tools_server", "mcp", "pydantic"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.cached is None or not Path(spec.cached).exists():
            return False
    return True


def _look_at_state_dir(settings: Settings) -> Finding:
    path = settings.state_dir
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        return Finding(
            state="fail",
            subject="state directory",
            text=f"{path}: {error.strerror or error}",
            advice="Set CI_TOOLS_STATE_DIR to a directory that you can write.",
        )
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        return Finding(
            state="warn",
            subject="state directory",
            text=f"{path} can be read by others (mode {mode:o})",
            advice=f"chmod 700 {path}",
        )
    return Finding(state="ok", subject="state directory", text=str(path))


async def _look_at_service(settings: Settings, *, embedded: bool) -> AsyncIterator[Finding]:
    """Look at the service, and at the embedded server if that need not build anything first."""
    run = await anyio.to_thread.run_sync(find_run, settings.state_dir)
    if run is not None:
        text = f"running at {run.url} (process {run.pid}): `ci-tools mcp` joins it"
    else:
        text = "not running: `ci-tools mcp` runs code by itself"
    yield Finding(state="ok", subject="ci-tools serve", text=text)
    findings: list[Finding] = []
    # Findings are collected: this is a generator, and must not yield inside of the service's tasks.
    with _as_failure(
        findings, "database and files", "Check CI_TOOLS_DATABASE_URL and CI_TOOLS_OBJECT_STORE_URL."
    ):
        async with open_service(settings) as service:
            await _look_at_stores(service, findings)
            await _look_at_servers(service, findings, embedded=embedded)
    for finding in findings:
        yield finding


def _look_at_models(settings: Settings) -> list[Finding]:
    """Say which models runs can have. None is asked anything: that costs money."""
    subject = "Assistants API"
    try:
        # Imported here: it takes a second, and an installation without it is complete too.
        from ci_tools_assistants.models import ModelNotConfigured, ModelRegistry
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ci_tools"):
            raise
        text = f"not installed: {install_command('assistants')}"
        return [Finding(state="ok", subject=subject, text=text)]
    if not settings.models:
        text = "has no model: runs fail, all else works"
        advice = (
            "Set CI_TOOLS_MODELS, for example to "
            """'{"default": {"use": "openai:qwen3", "base_url": "http://127.0.0.1:8000/v1"}}'"""
        )
        return [Finding(state="warn", subject=subject, text=text, advice=advice)]
    findings = []
    registry = ModelRegistry(settings.models)
    for name, entry in settings.models.items():
        try:
            registry.resolve(name)
        except ModelNotConfigured as error:
            findings.append(Finding(state="fail", subject=f"model {name!r}", text=str(error)))
        else:
            text = f"{entry.use} can be used (it was not asked)"
            findings.append(Finding(state="ok", subject=f"model {name!r}", text=text))
    return findings


async def _look_at_stores(service: SessionService, findings: list[Finding]) -> None:
    await service.ready()
    settings = service.settings
    database = "SQLite in the state directory" if settings.database_url is None else "as configured"
    store = "the state directory" if settings.object_store_url is None else "as configured"
    findings.append(Finding(state="ok", subject="database", text=f"answers ({database})"))
    with _as_failure(
        findings,
        "object store",
        "Check CI_TOOLS_OBJECT_STORE_URL, CI_TOOLS_OBJECT_STORE_OPTIONS and the bucket's rights.",
    ):
        # A store opens without a word to its server: only a file tells whether it works.
        file_id = (await service.uploads.add("doctor.txt", b"")).id
        assert file_id is not None  # every kept file has one
        try:
            async with service.uploads.open(file_id) as chunks:
                async for _ in chunks:
                    pass
        finally:
            with anyio.CancelScope(shield=True):
                await service.uploads.delete(file_id)
        text = f"keeps and returns a file ({store})"
        findings.append(Finding(state="ok", subject="object store", text=text))


async def _look_at_servers(
    service: SessionService, findings: list[Finding], *, embedded: bool
) -> None:
    servers = [name for name in service.list_servers() if embedded or name != "embedded"]
    usable: set[str] = set()
    for server in servers:
        subject = f"Jupyter Server {server!r}"
        advice = (
            f"{sys.executable} -m {install_command('mcp')}"
            if server == "embedded"
            else "Check its address, its token, and that it runs."
        )
        with _as_failure(findings, subject, advice):
            kernels = [spec.name for spec in await service.list_kernelspecs(server)]
            text = f"answers; kernels: {', '.join(kernels)}"
            findings.append(Finding(state="ok", subject=subject, text=text))
            usable.add(server)
    if service.list_servers()[0] not in usable:
        return  # the step would fail for the reason that has been told, or build the environment
    with _as_failure(findings, "run code", "Look at the failure above, and at the kernel's log."):
        await _run_a_step(service, findings)


async def _run_a_step(service: SessionService, findings: list[Finding]) -> None:
    session = await service.create_session(name="doctor")
    try:
        step = await service.run_code(session.id, "print(6 * 7)", timeout=_STEP_LIMIT)
        session = await service.get_session(session.id)
    finally:
        with anyio.CancelScope(shield=True):
            await service.close_session(session.id)
    if step.status is StepStatus.COMPLETED:
        text = (
            f"a kernel on {session.server!r} started and answered (isolation: {session.isolation})"
        )
        findings.append(Finding(state="ok", subject="run code", text=text))
    else:
        text = step.error.message if step.error else step.status.value
        findings.append(Finding(state="fail", subject="run code", text=text))


@contextmanager
def _as_failure(findings: list[Finding], subject: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (CIToolsError, OSError) as error:
        findings.append(Finding(state="fail", subject=subject, text=str(error), advice=advice))
