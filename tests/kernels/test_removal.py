"""Folders of sessions go, whatever code has left in them."""

import os
import sys
from pathlib import Path

import pytest

from ci_tools_jupyter.removal import remove_tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no descriptors of folders")


def test_folders_nested_deeper_than_anybody_can_recurse_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(at)
        at = below
    os.close(at)

    remove_tree(folder)

    assert list(tmp_path.iterdir()) == []


def test_folders_closed_to_their_owner_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "data" / "closed" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    for folder in (inner, inner.parent, tmp_path / "data"):
        folder.chmod(0)

    remove_tree(tmp_path / "data")

    assert list(tmp_path.iterdir()) == []


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("kept")
    outside.chmod(0o755)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "to folder").symlink_to(outside)
    (folder / "to file").symlink_to(outside / "file")
    os.link(outside / "file", folder / "hard")
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to(tmp_path / "none")

    remove_tree(folder)

    assert not folder.exists()
    assert (outside / "file").read_text() == "kept"
    assert (outside / "folder").is_dir()
    assert outside.stat().st_mode & 0o777 == 0o755


def test_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (tmp_path / "data").symlink_to(outside)

    remove_tree(tmp_path / "data")

    assert (outside / "file").read_text() == "kept"


def test_folder_that_is_gone_is_no_matter(tmp_path: Path) -> None:
    remove_tree(tmp_path / "data" / "none")
