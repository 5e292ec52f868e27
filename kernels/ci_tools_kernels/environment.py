"""The environment that kernels run in, apart from the service's: a documented list of packages.

`ci-tools kernels install` builds it; so does the first start of the embedded server without one,
by `python -m ci_tools_kernels.environment <folder> [<requirements>]`.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where there are no sandboxed kernels
    fcntl = None

PACKAGES = (
    "beautifulsoup4==4.15.0",
    "ipykernel==7.4.0",
    "lxml==6.1.3",
    "matplotlib==3.11.2",
    "numpy==2.4.6",
    "openpyxl==3.1.5",
    "pandas==3.1.1",
    "pdfplumber==0.11.10",
    "pillow==13.0.0",
    "pyarrow==26.0.1",
    "pypdf==7.1.0",
    "python-docx==1.2.0",
    "python-pptx==1.0.2",
    "reportlab==5.1.0",
    "scikit-learn==1.9.1",
    "scipy==1.17.1",
    "seaborn==0.13.2",
    "statsmodels==0.15.0",
    "sympy==1.14.0",
    "tabulate==0.10.0",
)
"""What every kernel environment has, pinned; tested together."""

MARKER = "ci-tools-kernel-environment.json"
"""A file in the environment that says what it was built from; it is written last."""

INSTALL_TIMEOUT = 3600.0
"""Seconds for all downloads and the compilation of bytecode."""


class EnvironmentBuildError(RuntimeError):
    """The environment for kernels could not be built; the message ends with the installer's."""


def find_python(folder: Path) -> Path | None:
    """Return the interpreter of the environment in `folder`; None if it is not there or broken."""
    python = folder / "bin" / "python"
    return python if python.exists() and (folder / MARKER).exists() else None


def is_current(folder: Path, *, requirements: Path | None = None) -> bool:
    """Tell whether the environment was built from this list, these requirements and this Python."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return bool(marker == _describe(requirements))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from building in `folder` meanwhile; waits for one that does."""
    # It may be the first to make the state directory, which is closed to other users.
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_environment(
    folder: Path,
    *,
    requirements: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Path:
    """Build the environment in `folder`, replacing what is there; return its interpreter.

    `requirements` is the operator's own list, in addition. `report` gets a line for each thing
    that is done. Blocks for minutes: packages are downloaded, and compiled to bytecode, which a
    sandbox could not write.

    Raises:
        EnvironmentBuildError: Something could not be installed.
    """
    description = _describe(requirements)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    report(f"Creating an environment for kernels in {folder}")
    _run([sys.executable, "-m", "venv", str(folder)], report)
    python = folder / "bin" / "python"
    wanted = [*PACKAGES, *(("-r", str(requirements)) if requirements else ())]
    report(f"Installing {len(PACKAGES)} packages (some minutes)")
    _run([str(python), "-m", "pip", "install", "--no-input", "--compile", *wanted], report)
    report("Preparing fonts")
    _run([str(python), "-c", "import matplotlib.pyplot"], report)
    (folder / MARKER).write_text(json.dumps(description))
    report("Ready")
    return python


def _describe(requirements: Path | None) -> dict[str, str]:
    extra = requirements.read_bytes() if requirements else b""
    return {
        "packages": hashlib.sha256("\n".join(PACKAGES).encode() + extra).hexdigest(),
        "python": sys.version.split()[0],
    }


def _run(command: list[str], report: Callable[[str], None]) -> None:
    # Bytecode is wanted even where the service itself runs without.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "MPLBACKEND": "agg"}
    environment.pop("PYTHONPATH", None)
    tail: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-20:], line]
            if line.startswith(("Collecting", "Downloading", "Installing")):
                report(line.strip())
    if process.returncode != 0:
        raise EnvironmentBuildError(f"{' '.join(command[:4])} failed:\n{''.join(tail)}")


def main(arguments: Sequence[str]) -> int:
    """Build the environment if there is none yet, and print its interpreter last.

    Another process that wants the same waits for the first.
    """
    folder = Path(arguments[0])
    requirements = Path(arguments[1]) if len(arguments) > 1 else None
    with locked(folder):
        python = find_python(folder)
        if python is not None and not is_current(folder, requirements=requirements):
            _print("It is out of date: run `ci-tools kernels install`.")
        try:
            python = python or build_environment(folder, requirements=requirements, report=_print)
        except (EnvironmentBuildError, OSError) as exc:
            _print(str(exc))
            return 1
    _print(str(python))
    return 0


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - whoever started this reads it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
