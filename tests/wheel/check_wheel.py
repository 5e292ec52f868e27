"""Build the sdist and the wheel, then install and use that wheel in a new environment.

First without extras (the core alone), then with those of the README. Everything happens in a
temporary directory outside of the tree, so nothing can come from the checkout by accident.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

MCP_PACKAGES = (
    "ci_tools",
    "ci_tools_jupyter",
    "ci_tools_kernels",
    "ci_tools_mcp",
    "ci_tools_server",
)
"""What works with the extra `mcp` alone."""

PACKAGES = (*MCP_PACKAGES, "ci_tools_assistants", "ci_tools_client", "langchain_ci_tools")

WHEEL_FILES = (
    *(f"{package}/__init__.py" for package in PACKAGES),
    *(f"{package}/py.typed" for package in PACKAGES),
    "ci_tools/stores/migrations/env.py",
    "ci_tools/stores/migrations/versions/",
    "ci_tools_assistants/storage/migrations/env.py",
    "ci_tools_assistants/storage/migrations/versions/",
    "ci_tools_assistants/files/supported_files.csv",
    "ci_tools_server/demo/data/mauna_loa_co2.csv",
)
"""What must be in the wheel; a name with a slash at its end is a folder with at least one file."""

SDIST_FILES = ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "docs/", "tests/")
"""The same for the sdist."""

LIMIT = 600
"""Seconds for one command."""


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Run a command; return its stdout.

    Raises:
        SystemExit: It failed; what it printed is shown.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}\nexit {done.returncode}")
    return done.stdout


def find_missing(names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Return what of `expected` is not in an archive's `names`."""
    return [
        want
        for want in expected
        if not any(name.startswith(want) if want.endswith("/") else name == want for name in names)
    ]


def check_contents(wheel: Path, sdist: Path) -> None:
    """Check that both archives hold what they must, and the wheel nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.split("/", 1)[-1] for name in archive.getnames()]
    missing = find_missing(in_wheel, WHEEL_FILES) + find_missing(in_sdist, SDIST_FILES)
    if missing:
        raise SystemExit(f"missing from the archives: {', '.join(missing)}")
    tops = {name.split("/", 1)[0] for name in in_wheel}
    foreign = {top for top in tops if top not in PACKAGES and not top.endswith(".dist-info")}
    if foreign:
        raise SystemExit(f"the wheel also installs {', '.join(sorted(foreign))}")
    print(f"{wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size // 1024} kB")


def main() -> None:
    """Build, look inside, install, use."""
    with tempfile.TemporaryDirectory(prefix="ci-tools-wheel-") as name:
        folder = Path(name).resolve()
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        (sdist,) = folder.glob("*.tar.gz")
        check_contents(wheel, sdist)

        venv.create(folder / "venv", with_pip=True)
        bin_folder = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        python = bin_folder / "python"
        env = {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "CI_TOOLS_STATE_DIR": str(folder / "state"),
            "CI_TOOLS_KERNEL_PYTHON": str(python),  # building its own takes minutes
        }
        pip = (python, "-m", "pip", "install", "--quiet", "--no-compile")

        run(*pip, wheel, cwd=folder)
        print(run(python, "-I", HERE / "use_core.py", cwd=folder, env=env), end="")

        run(*pip, f"{wheel}[mcp,data]", cwd=folder)
        print(run(python, "-I", HERE / "use_mcp.py", *MCP_PACKAGES, cwd=folder, env=env), end="")
        print(run(bin_folder / "ci-tools", "--version", cwd=folder, env=env), end="")
        print(run(bin_folder / "ci-tools", "doctor", cwd=folder, env=env), end="")
        run(bin_folder / "ci-tools", "demo", cwd=folder, env=env)
        made = sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".ipynb"))
        if {Path(name).suffix for name in made} != {".png", ".ipynb"}:
            raise SystemExit(f"the demo wrote {made}, not a plot and a notebook")
        print(f"demo from the wheel wrote {', '.join(made)}")

        run(*pip, f"{wheel}[assistants,langchain]", cwd=folder)
        print(run(python, "-I", HERE / "use_faces.py", cwd=folder, env=env), end="")


if __name__ == "__main__":
    main()
