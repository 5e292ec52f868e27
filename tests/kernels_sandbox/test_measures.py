"""Control groups and usage, on folders that stand in for the system's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci_tools_kernels import Limits, Policy
from ci_tools_kernels.cgroups import Controls, Group, claim_group, find_controls
from ci_tools_kernels.policy import to_config, to_policy
from ci_tools_kernels.usage import Usage, measure_deleted, measure_folder


def test_delegated_group_of_version_2_is_used(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text("0::/user.slice/mine\n")
    own = tmp_path / "root" / "user.slice" / "mine"
    own.mkdir(parents=True)
    (tmp_path / "root" / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("memory pids\n")

    controls = find_controls(proc=tmp_path / "proc", root=tmp_path / "root")

    assert controls.version == 2
    assert dict(controls.parents) == {"memory": own, "pids": own}


def test_group_that_is_not_delegated_is_explained(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text("0::/\n")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "cgroup.controllers").write_text("cpu memory pids\n")

    controls = find_controls(proc=tmp_path / "proc", root=tmp_path / "root")

    assert controls.parents == {}
    assert "Delegate=yes" in controls.reasons["memory"]


def make_tree(tmp_path: Path, own: str) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(f"0::/{own}\n")
    folder = tmp_path / "root" / own
    folder.mkdir(parents=True)
    (tmp_path / "root" / "cgroup.controllers").write_text("cpu memory pids\n")
    return folder


def test_group_above_is_used_where_the_service_is_in_a_leaf(tmp_path: Path) -> None:
    own = make_tree(tmp_path, "user.slice/mine/leaf")
    (own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")

    controls = find_controls(proc=tmp_path / "proc", root=tmp_path / "root")

    assert set(controls.parents.values()) == {own.parent}
    assert controls.reasons == {}


def test_group_of_somebody_else_is_not_divided(tmp_path: Path) -> None:
    own = make_tree(tmp_path, "user.slice/mine")
    (own / "cgroup.controllers").write_text("cpu memory pids\n")
    (own / "cgroup.subtree_control").write_text("")

    claim_group(proc=tmp_path / "proc", root=tmp_path / "root")

    assert (own / "cgroup.subtree_control").read_text() == ""
    assert sorted(path.name for path in own.iterdir()) == [
        "cgroup.controllers",
        "cgroup.subtree_control",
    ]


def test_limits_are_written_before_anybody_joins(tmp_path: Path) -> None:
    controls = Controls(
        version=2, parents=dict.fromkeys(("memory", "pids", "cpu"), tmp_path), reasons={}
    )

    group = Group(controls, "x", Limits(memory=1000, processes=10, cpus=1.5))

    folder = tmp_path / "ci-tools-x"
    assert group.entries == [str(folder / "cgroup.procs")]
    assert (folder / "memory.max").read_text() == "1000"
    assert (folder / "pids.max").read_text() == "10"
    assert (folder / "cpu.max").read_text() == "150000 100000"


def test_version_1_is_joined_by_the_only_thread_which_is_faster(tmp_path: Path) -> None:
    folder = tmp_path / "ci-tools-x"
    controls = Controls(version=1, parents={"pids": tmp_path}, reasons={})
    group = Group(controls, "x", Limits(processes=10))
    (folder / "tasks").touch()
    (folder / "cgroup.procs").touch()

    assert group.entries == [str(folder / "tasks")]


def test_folder_is_added_up_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 8192)
    os.link(folder / "a", folder / "b")
    (folder / "link").symlink_to(tmp_path / "big")

    usage = measure_folder(str(folder), most_files=100)

    assert usage.files == 3
    assert 8192 <= usage.size < 100_000


def test_folders_nested_too_deep_are_noticed(tmp_path: Path) -> None:
    at = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    assert measure_folder(str(tmp_path), most_files=1000).too_deep


def test_missing_folder_uses_nothing(tmp_path: Path) -> None:
    assert measure_folder(str(tmp_path / "none"), most_files=1) == Usage(0, 0)


def test_deleted_file_that_is_open_counts(tmp_path: Path) -> None:
    with (tmp_path / "hidden").open("wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        (tmp_path / "hidden").unlink()

        size = measure_deleted([os.getpid()], tmp_path.stat().st_dev)

    assert size >= 1 << 20


def test_policy_survives_its_kernelspec() -> None:
    policy = Policy(network="on", limits=Limits(memory=5), preload=("numpy",), pool=3)

    assert to_policy(to_config(policy)) == policy


def test_word_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="memroy"):
        to_policy({"limits": {"memroy": 1}})


WITHOUT_POSIX = """
import ctypes, os, platform, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
for name in [name for name in dir(os) if name.startswith("O_")]:
    if name not in ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_EXCL", "O_APPEND", "O_TRUNC"):
        delattr(os, name)
import asyncio, multiprocessing, subprocess, tempfile  # what is real here, before it is not
del os.geteuid
sys.platform, platform.system = "win32", lambda: "Windows"
from ci_tools_kernels import probe
print(probe().isolation, probe().problem)
"""


def test_machine_without_linux_is_told_so() -> None:
    said = subprocess.check_output([sys.executable, "-c", WITHOUT_POSIX], text=True)

    assert said.startswith("None Sandboxed kernels need Linux, and this is Windows")
    assert "ubblewrap" not in said
