"""Run a command beside a file system with project quotas, started as root.

    python with_quotas.py <kind> <image> <folder> -- command…

The image is an empty file; `folder` shows it, in a mount namespace of its own: when the command is
over nothing is mounted. The status is 77 where this machine cannot do it, which is said.
"""

import os
import shutil
import subprocess
import sys

from ci_tools_kernels.inside.syscalls import CLONE_NEWNS, MS_REC, MS_SLAVE, mount, unshare

UNABLE = 77

MAKERS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-O", "quota,project"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}


def main() -> None:
    """Make the file system, mount it, and run the command."""
    kind, image, folder = sys.argv[1:4]
    program, *options = MAKERS[kind]
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        _give_up(f"{program} is not installed")
    subprocess.run([str(found), *options, image], check=True, stdout=subprocess.DEVNULL)
    unshare(CLONE_NEWNS)
    mount("none", "/", "", MS_SLAVE | MS_REC)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", "loop,prjquota", image, folder], capture_output=True, text=True
    )
    if done.returncode != 0:
        _give_up(
            f"{kind} with prjquota cannot be mounted here: this Linux has no quotas"
            " (CONFIG_QFMT_V2, CONFIG_XFS_QUOTA), or this root may not mount"
        )
    at = sys.argv.index("--")
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])


def _give_up(reason: str) -> None:
    print(reason)
    sys.exit(UNABLE)


if __name__ == "__main__":
    main()
