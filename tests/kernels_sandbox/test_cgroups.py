"""Control groups of version 2, on a real tree where this machine has one with controllers."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_tools_kernels.cgroups import CONTROLLERS, OWN_GROUP
from tests.kernels_sandbox.rig import is_root

ROOT = Path("/sys/fs/cgroup")

GIVEN = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
"""The files of a group that systemd gives to the user whom it delegates it to."""

FIND = """
import json
from ci_tools_kernels.cgroups import claim_group, find_controls, Group
from ci_tools_kernels import Limits
before = find_controls()
claim_group()
controls = find_controls()
own = open("/proc/self/cgroup").read().split("::")[1].strip()
made = {}
if controls.parents:
    group = Group(controls, "0-x-y", Limits(memory=64 << 20, processes=20, cpus=0.5))
    folder = group._folders[0]
    for name in ("memory.max", "pids.max", "cpu.max"):
        made[name] = (folder / name).read_text().strip()
    open(group.entries[0], "w").close()
    group.remove()
    made["left"] = folder.exists()
print(json.dumps([
    sorted(set(before.parents)), {k: str(v) for k, v in controls.parents.items()}, own, made
]))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of its own that has the controllers and passes none on."""
    if not is_root():
        pytest.skip("only root may make a control group to try it in")
    there = ROOT / "cgroup.controllers"
    if not there.exists() or not set(CONTROLLERS) <= set(there.read_text().split()):
        pytest.skip("this machine has no control groups of version 2 with these controllers")
    enabled = (ROOT / "cgroup.subtree_control").read_text().split()
    missing = [f"+{name}" for name in CONTROLLERS if name not in enabled]
    if missing:
        (ROOT / "cgroup.subtree_control").write_text(" ".join(missing))
    folder = ROOT / f"ci-tools-tests-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in (folder / OWN_GROUP, folder):
        if path.exists():
            path.rmdir()


def run_in(group: Path, *, user: int) -> list[object]:
    """Run `FIND` in a group, as a user, and return what it says."""
    import json

    join = f'echo 0 > {group}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", join, "sh"]
    if user:
        packages = str(Path(__file__).parents[2])
        reach = [sys.prefix, sys.base_prefix, packages, "--"]
        command += [sys.executable, str(Path(__file__).with_name("as_nobody.py")), *reach]
    done = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(FIND)],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert isinstance(said, list)
    return said


@pytest.mark.parametrize("user", [0, 65534])
def test_delegated_group_is_divided_and_limits_hold_in_it(group: Path, user: int) -> None:
    name = "trusted.delegate" if user == 0 else "user.delegate"
    os.setxattr(group, name, b"1")
    for path in (group, *(group / file for file in GIVEN)):
        os.chown(path, user, user)

    before, parents, own, made = run_in(group, user=user)

    assert before == ([] if user else sorted(CONTROLLERS))
    assert parents == dict.fromkeys(CONTROLLERS, str(group))
    assert own == f"/{group.name}/{OWN_GROUP}"
    assert made == {
        "memory.max": str(64 << 20),
        "pids.max": "20",
        "cpu.max": "50000 100000",
        "left": False,
    }


def test_group_that_is_not_delegated_is_left_alone(group: Path) -> None:
    before, parents, own, _ = run_in(group, user=65534)

    assert (before, parents, own) == ([], {}, f"/{group.name}")
    assert not (group / OWN_GROUP).exists()
