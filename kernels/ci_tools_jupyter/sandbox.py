"""What the operator decided about kernels on the embedded server, and the environment they run in.

The sandbox itself is another package, which knows nothing of ours. It is named here, and never
imported: a Jupyter Server finds it by its kernelspec and its extension.
"""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from ci_tools.errors import ConfigurationError, ServerUnavailableError
from ci_tools.models import ErrorOutput
from ci_tools.settings import Settings

logger = logging.getLogger(__name__)

NONE = "none"
"""The isolation without a sandbox."""

SANDBOXED = "python3"
"""The one kernelspec of an embedded server with a sandbox."""

BUILDER = "ci_tools_kernels.environment"
"""The module that builds an environment for kernels: `python -m … <folder> [<requirements>]`. It
prints the interpreter last, and at once if the environment is there."""

MOST_FILES = 100_000
"""Files and folders in a session's folder."""

_NO_SPACE = re.compile(r"\[Errno (27|28|122)\]")  # EFBIG, ENOSPC, EDQUOT
_LINE_LIMIT = 65536


@dataclass(frozen=True, kw_only=True)
class EmbeddedKernels:
    """How the embedded server runs kernels."""

    isolation: str
    python: Path | None = None
    """None for the environment in the state directory, or without a sandbox our own interpreter."""

    requirements: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Of the sandbox: its usual network, limits, pool and preloaded modules."""

    @property
    def sandboxed(self) -> bool:
        """Whether there is to be a sandbox."""
        return self.isolation != NONE

    @classmethod
    def from_settings(cls, settings: Settings) -> "EmbeddedKernels":
        """Return what the settings say."""
        return cls(
            isolation=settings.isolation,
            python=_absolute(settings.kernel_python),
            requirements=_absolute(settings.kernel_requirements),
            environment={
                name: value.get_secret_value()
                for name, value in settings.kernel_environment.items()
            },
            policy={
                "isolation": settings.isolation,
                "network": settings.kernel_network,
                "hosts": list(settings.kernel_network_hosts),
                "limits": {
                    "memory": settings.kernel_memory,
                    "processes": settings.kernel_processes,
                    "cpus": settings.kernel_cpus,
                    "disk": settings.kernel_disk,
                    "files": MOST_FILES,
                    "file_size": settings.kernel_file_size,
                },
                "pool": settings.kernel_pool,
                "pool_most": settings.kernel_pool_most,
                "preload": list(settings.kernel_preload),
            },
        )

    async def find_python(self, state_dir: Path, *, report: Callable[[str], None]) -> str:
        """Return the interpreter of kernels; its environment is built if it is missing.

        `report` is called with what is being done then, which takes minutes.

        Raises:
            ConfigurationError: The chosen interpreter does not exist.
            ServerUnavailableError: The environment could not be built.
        """
        if self.python is not None:
            if not self.python.exists():
                raise ConfigurationError(
                    f"There is no interpreter {self.python}: check CI_TOOLS_KERNEL_PYTHON."
                )
            return str(self.python)
        if not self.sandboxed:
            return sys.executable
        return await _build_environment(state_dir / "kernel-env", self.requirements, report)

    def explain(self, error: ErrorOutput) -> ErrorOutput:
        """Add to an error that says that there is no space how much there is."""
        limits = self.policy.get("limits")
        if not self.sandboxed or limits is None or _NO_SPACE.search(error.message) is None:
            return error
        said = (
            f"Limits of this session: /mnt/data holds {limits['disk'] >> 20} MB and"
            f" {limits['files']} files, one file {limits['file_size'] >> 20} MB."
            " /tmp is smaller, and in memory."
        )
        return replace(error, traceback=f"{error.traceback}\n{said}")

    def to_options(self, python: str) -> dict[str, Any]:
        """Return what the embedded server's process is told."""
        return {
            "sandboxed": self.sandboxed,
            "python": python,
            "environment": dict(self.environment),
            "policy": dict(self.policy),
        }


def _absolute(path: Path | None) -> Path | None:
    # Links are not followed: an environment's interpreter is one, and is known by its name.
    return None if path is None else path.expanduser().absolute()


async def _build_environment(
    folder: Path, requirements: Path | None, report: Callable[[str], None]
) -> str:
    command = [sys.executable, "-P", "-m", BUILDER, str(folder)]
    if requirements is not None:
        command.append(str(requirements))
    last = ""
    # In a process of its own, which a service that stops can end. It writes a line for each thing
    # that it does.
    async with await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = BufferedByteReceiveStream(process.stdout)
            with suppress(anyio.IncompleteRead, anyio.EndOfStream):
                while True:
                    line = await lines.receive_until(b"\n", _LINE_LIMIT)
                    last = line.decode(errors="replace").strip() or last
                    if not os.path.isabs(last):  # the interpreter
                        logger.info("environment for kernels: %s", last)
                        report(last)
            status = await process.wait()
        except BaseException:
            _end(process)
            raise
    if status != 0:
        raise ServerUnavailableError(
            f"The environment for kernels could not be built in {folder}: {last[:500]}"
            " Run `ci-tools kernels install` to see more, or set CI_TOOLS_KERNEL_PYTHON to an"
            " interpreter that has ipykernel."
        )
    return last


def _end(process: anyio.abc.Process) -> None:
    """End the builder and the installer that it runs; what they leave is not taken for whole."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
