"""Project quotas: on a real file system that has them, and where there are none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ci_tools_kernels.quotas import QuotaError, Quotas, find_obstacle
from tests.kernels_sandbox.rig import is_root
from tests.kernels_sandbox.with_quotas import UNABLE

HERE = Path(__file__).parent

SIZE = 512 << 20
"""Bytes of the file system; the image has holes."""

TIMEOUT = 600
"""Seconds for all cases."""


@pytest.mark.skipif(not is_root(), reason="only root may mount a file system")
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_quota_holds_the_disk_limit(kind: str, tmp_path: Path) -> None:
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    done = subprocess.run(
        [
            sys.executable,
            str(HERE / "with_quotas.py"),
            *(kind, str(image), str(folder), "--"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--basetemp={tmp_path}/tests", str(HERE / "quota_cases.py")),
        ],
        env={**os.environ, "QUOTA_FOLDER": str(folder)},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    if done.returncode == UNABLE:
        pytest.skip(done.stdout.strip())

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


def test_folder_without_quotas_is_explained(tmp_path: Path) -> None:
    if find_obstacle(str(tmp_path)) is None:
        pytest.skip("the file system for temporary files has project quotas")
    obstacle = str(find_obstacle(str(tmp_path)))

    assert "project quotas" in obstacle
    assert str(tmp_path) in obstacle or not is_root()
    assert not Quotas().may_limit(str(tmp_path))
    assert Quotas().find_used(str(tmp_path)) is None
    with pytest.raises(QuotaError):
        Quotas().limit(str(tmp_path), size=1 << 20, files=5)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_there_is_explained(tmp_path: Path) -> None:
    assert "cannot be looked at" in str(find_obstacle(str(tmp_path / "none")))
