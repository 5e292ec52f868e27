"""The tools and the middleware with the lowest versions that the extras allow."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from tests.adapters.assistants.clients.environments import install_packages

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LOWEST = HERE / "requirements-lowest.txt"

CHOSEN = "local and not on_the_streams and not synchronous_streams"
"""LangGraph before 1.2 has no stream of tool output."""


def test_tools_work_with_the_lowest_versions() -> None:
    folder = install_packages("langchain-lowest", LOWEST, "--no-deps")

    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN),
            *(str(HERE / "test_tools.py"), str(HERE / "test_middleware.py")),
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
        for requirement in map(Requirement, [*extras["langchain"], *extras["agents"]])
        if requirement.name in ("langchain-core", "langchain", "langgraph")
    }
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", LOWEST.read_text(), re.MULTILINE))

    assert all(tested[name].startswith(floor) for name, floor in floors.items())
