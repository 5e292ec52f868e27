"""All of this directory's tests again, as a user with no rights at all."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import ci_tools_kernels
from tests.kernels_sandbox.rig import is_root

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("test_*.py") if path.name != Path(__file__).name)
TIMEOUT = 240
"""Seconds for all the tests of one file."""


@pytest.mark.skipif(not is_root(), reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize("file", FILES)
def test_sandbox_holds_for_an_ordinary_user(file: str) -> None:
    packages = Path(ci_tools_kernels.__file__).parents[1]
    reachable = [sys.prefix, sys.base_prefix, str(packages), str(HERE.parents[1])]
    # That user may not write where the data of a coverage tool goes.
    inherited = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 65534, 65534)
        done = subprocess.run(
            [
                sys.executable,
                str(HERE / "as_nobody.py"),
                *reachable,
                "--",
                sys.executable,
                *("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={home}/tests"),
                str(HERE / file),
            ],
            env={**inherited, "HOME": home, "TMPDIR": home, "XDG_RUNTIME_DIR": home},
            cwd=HERE.parents[1],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout or "skipped" in done.stdout
