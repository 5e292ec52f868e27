"""Tools, middleware and sandbox with the lowest and the newest versions of what they need."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.adapters.assistants.clients.environments import install_packages

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LOWEST = HERE / "requirements-lowest.txt"
LOWEST_DEEPAGENTS = HERE / "requirements-lowest-deepagents.txt"


@pytest.mark.parametrize(
    ("name", "files", "chosen"),
    [
        # LangGraph before 1.2 has no stream of tool output.
        (
            "lowest",
            ("test_tools.py", "test_middleware.py"),
            "local and not on_the_streams and not synchronous_streams",
        ),
        # The first versions of deepagents 0.7 still glob folders, with relative paths.
        ("lowest-deepagents", ("test_sandbox.py",), "not test_globs"),
        ("newest", ("test_tools.py", "test_middleware.py", "test_sandbox.py"), "not remote"),
    ],
)
def test_all_works_with_other_versions(name: str, files: tuple[str, ...], chosen: str) -> None:
    required = HERE / f"requirements-{name}.txt"
    folder = install_packages(f"langchain-{name}", required, "--no-deps")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen),
            *(str(HERE / file) for file in files),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d\d passed", done.stdout)


def test_lowest_versions_are_those_of_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    floors = {
        requirement.name: next(one.version for one in requirement.specifier if one.operator == ">=")
        for requirement in map(
            Requirement, [*extras["langchain"], *extras["agents"], *extras["deepagents"]]
        )
        if requirement.name in ("langchain-core", "langchain", "langgraph", "deepagents")
    }
    pins = LOWEST.read_text() + LOWEST_DEEPAGENTS.read_text()
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", pins, re.MULTILINE))

    assert all(tested[name].startswith(floor) for name, floor in floors.items())
