"""`ci-tools kernels`: the environment that kernels run in, and kernelspecs for other servers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ci_tools import ConfigurationError, Settings
from ci_tools_jupyter.sandbox import EmbeddedKernels
from ci_tools_kernels import Report, probe, write_kernelspec
from ci_tools_kernels.environment import (
    EnvironmentBuildError,
    build_environment,
    find_python,
    is_current,
    locked,
)
from ci_tools_kernels.policy import Policy, to_policy

FOLDER = "kernel-env"
"""The environment's folder in the state directory."""

EXTENSION = "ci_tools_kernels.extension"

_LOOK_LIMIT = 60.0
"""Seconds to ask an interpreter what it has."""

_LOOK = """
import importlib.util, json, pathlib, sys
found = {}
for name in ("ipykernel", "numpy", "pandas", "matplotlib"):
    spec = importlib.util.find_spec(name)
    found[name] = None if spec is None else bool(spec.cached and pathlib.Path(spec.cached).exists())
print(json.dumps({"version": sys.version.split()[0], "packages": found}))
"""


@dataclass(frozen=True, kw_only=True)
class KernelEnvironment:
    """The environment that kernels run in, as it is."""

    folder: Path | None
    """Where we build it; None if the operator named an interpreter."""

    python: Path | None
    """Its interpreter; None if it is not there."""

    current: bool
    """Whether it was built from the list of packages that this version has."""

    named: Path | None = None
    """The interpreter that the operator named."""

    version: str = ""
    missing: tuple[str, ...] = ()
    """Of ipykernel and what kernels import ahead."""

    compiled: bool = False
    """Whether there is bytecode, which a sandbox cannot write."""


def find_environment(settings: Settings) -> KernelEnvironment:
    """Look at the environment that the settings name."""
    named = settings.kernel_python and settings.kernel_python.expanduser().absolute()
    if named is not None:
        folder, current = None, True
        python = named if named.exists() else None
    elif settings.isolation == "none":
        folder, current, python = None, True, Path(sys.executable)
    else:
        folder = settings.state_dir.absolute() / FOLDER
        python = find_python(folder)
        current = is_current(folder, requirements=settings.kernel_requirements)
    looked = _look(python) if python is not None else None
    if python is None or looked is None:
        return KernelEnvironment(folder=folder, python=None, current=False, named=named)
    version, packages = looked
    return KernelEnvironment(
        folder=folder,
        python=python,
        current=current,
        version=version,
        missing=tuple(name for name, compiled in packages.items() if compiled is None),
        compiled=all(compiled is not False for compiled in packages.values()),
    )


def find_policy(settings: Settings) -> Policy | None:
    """Return how the settings want kernels to be held; None for no sandbox."""
    kernels = EmbeddedKernels.from_settings(settings)
    return to_policy(kernels.policy) if kernels.sandboxed else None


def find_target(*, prefix: Path | None, user: bool, sys_prefix: bool) -> Path | None:
    """Return the folder for a kernelspec that a Jupyter Server looks in; None for none.

    Raises:
        ConfigurationError: More than one place was named.
    """
    if (prefix is not None) + user + sys_prefix > 1:
        raise ConfigurationError("Name one of --prefix, --user and --sys-prefix.")
    if user:
        from jupyter_core.paths import jupyter_data_dir

        return Path(jupyter_data_dir()) / "kernels"
    root = Path(sys.prefix) if sys_prefix else prefix
    return None if root is None else root.absolute() / "share" / "jupyter" / "kernels"


def install(
    settings: Settings,
    *,
    requirements: Path | None,
    python: Path | None,
    target: Path | None,
    force: bool,
) -> None:
    """Build the environment if it is not current; write a kernelspec for it to `target`.

    With `python` that interpreter is taken as it is, and nothing is built.

    Raises:
        ConfigurationError: It cannot be built, or the interpreter has no ipykernel.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if python is None:
        python = settings.kernel_python
    if python is None:
        folder = settings.state_dir.absolute() / FOLDER
        python = _build(console, folder, requirements or settings.kernel_requirements, force)
        if requirements is not None and requirements != settings.kernel_requirements:
            console.print(
                "So that services know it as current, set"
                f" CI_TOOLS_KERNEL_REQUIREMENTS={escape(str(requirements.absolute()))}"
            )
    else:
        python = python.expanduser().absolute()
        looked = _look(python)
        if looked is None or looked[1]["ipykernel"] is None:
            raise ConfigurationError(
                f"{python} is no interpreter with ipykernel: {python} -m pip install ipykernel"
            )
        console.print(f"Kernels run with {escape(str(python))}")
    if target is not None:
        written = write_kernelspec(target, python=str(python), policy=find_policy(settings))
        console.print(f"Wrote the kernelspec {escape(str(written))}")
        console.print(
            "Its Jupyter Server needs code-interpreter-tools\\[jupyter] beside it; for commands and"
            f" fast starts also: jupyter server extension enable {EXTENSION}"
        )


def show_status(settings: Settings) -> int:
    """Print the isolation in force and the environment; return 1 if kernels cannot start."""
    console = Console(highlight=False, soft_wrap=True)
    environment = find_environment(settings)
    policy = find_policy(settings)
    report = None if policy is None else probe(policy, folder=settings.state_dir)
    console.print(f"[bold]environment[/]: {escape(describe(environment))}")
    if advice := advise(environment):
        console.print(f"  → {escape(advice)}")
    if report is None:
        console.print("[bold]isolation[/]: none, as CI_TOOLS_ISOLATION says")
        return 0 if environment.python else 1
    console.print(f"[bold]isolation[/]: {escape(report.isolation or 'cannot be had here')}")
    if report.problem:
        console.print(f"  → {escape(report.problem)}")
    for limit, text in list_mechanisms(report):
        console.print(f"  {limit}: {escape(text)}")
    return 0 if environment.python and report.isolation else 1


def describe(environment: KernelEnvironment) -> str:
    """Say what the environment is, in a line."""
    if environment.python is None:
        if environment.folder is None:
            return f"{environment.named} is not there, or no Python that can be started"
        return f"not built in {environment.folder}"
    parts = [f"Python {environment.version} at {environment.python}"]
    if not environment.current:
        parts.append("built from another list of packages")
    parts.append("bytecode compiled" if environment.compiled else "bytecode not compiled")
    if environment.missing:
        parts.append(f"without {', '.join(environment.missing)}")
    return "; ".join(parts)


def advise(environment: KernelEnvironment) -> str:
    """Say what to do about the environment; empty if it is as it should be."""
    if environment.python is None and environment.folder is None:
        return "Set CI_TOOLS_KERNEL_PYTHON to a Python that has ipykernel, or unset it."
    if environment.python is None:
        return "ci-tools kernels install (a minute or more; else the first session waits for it)"
    if not environment.current:
        return "ci-tools kernels install"
    if environment.missing:
        missing = " ".join(environment.missing)
        return f"{environment.python} -m pip install {missing}"
    if not environment.compiled:
        return f"{environment.python} -m compileall -q {environment.python.parent.parent / 'lib'}"
    return ""


def list_mechanisms(report: Report) -> list[tuple[str, str]]:
    """Return each limit and the mechanism that holds it, with the reason if it is a lesser one."""
    return [
        (item.limit, f"{item.mechanism} ({item.reason})" if item.reason else item.mechanism)
        for item in report.mechanisms
    ]


def _build(console: Console, folder: Path, requirements: Path | None, force: bool) -> Path:
    if requirements is not None and not requirements.is_file():
        raise ConfigurationError(f"There is no requirements file {requirements}.")
    with locked(folder):
        python = find_python(folder)
        if python is not None and not force and is_current(folder, requirements=requirements):
            console.print(f"The environment in {escape(str(folder))} is current.")
            return python
        started = time.monotonic()
        with console.status("Building the environment for kernels …") as status:
            try:
                python = build_environment(
                    folder, requirements=requirements, report=_reporter(console, status.update)
                )
            except (EnvironmentBuildError, OSError) as error:
                raise ConfigurationError(
                    f"The environment for kernels could not be built: {error}"
                ) from error
    seconds = time.monotonic() - started
    console.print(f"Built {escape(str(folder))} in {seconds:.0f} s; start services again to use it")
    return python


def _reporter(console: Console, update: Callable[[str], None]) -> Callable[[str], None]:
    def report(line: str) -> None:
        if console.is_terminal:
            update(escape(line[:100]))
        elif not line.startswith(("Collecting", "Downloading")):
            console.print(escape(line[:200]))

    return report


def _look(python: Path) -> tuple[str, dict[str, bool | None]] | None:
    """Return an interpreter's version, and of each package whether it is compiled; None: absent."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _LOOK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOOK_LIMIT,
            check=True,
        )
        answer = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return answer["version"], answer["packages"]
