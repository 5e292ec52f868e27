"""Scripts of other clients, run beside the tests in a folder of their own."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.adapters.assistants.clients.environments import Environment

SCRIPT_LIMIT = 120
"""Seconds that a script may take."""


def run_script(
    script: Path, folder: Path, environment: Environment, variables: Mapping[str, str]
) -> str:
    """Run a copy of a script in `folder` and return what it printed."""
    copy = Path(shutil.copy(script, folder))
    if environment.modules.name == "node_modules":
        link = folder / "node_modules"
        if not link.exists():
            link.symlink_to(environment.modules)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    done = subprocess.run(
        [*environment.command, copy.name, *environment.arguments],
        cwd=folder,
        env={**kept, **environment.variables, **variables},
        capture_output=True,
        text=True,
        timeout=SCRIPT_LIMIT,
    )
    assert done.returncode == 0, f"{script.name}\n{done.stdout}\n{done.stderr}"
    return done.stdout
