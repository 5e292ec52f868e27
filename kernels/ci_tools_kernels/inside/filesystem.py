"""The files that sandboxed code sees: a read-only root prepared once, and what each session adds.

How this works: the template builds the root in its own mount namespace, out of read-only binds of
the system and the Python environment. A session's process gets a copy of that namespace, adds its
own /proc, /tmp, /dev/shm, /dev/pts and /mnt/data, makes the prepared root its root and detaches
the host's.
"""

import os
import stat
import sysconfig
from collections.abc import Sequence
from functools import cache

from ci_tools_kernels.inside.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_REC,
    MS_SLAVE,
    bind,
    clone_mount,
    mount,
    pivot_root,
    place_mount,
    restrict_mount,
)

DATA = "/mnt/data"
"""Where a session's files are, for the code in it."""

SCRATCH = "/tmp"  # noqa: S108 -- private to the sandbox
"""The folder for temporary files and the home inside; gone with the kernel."""

PACKAGES = f"{DATA}/.packages"
"""Where pip puts packages in a session, as its prefix: they last as long as its files."""

PROXY = "/run/proxy"
"""Where the filtering proxy's socket is, in a sandbox that has one."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- private to the sandbox

WRITABLE = ("/mnt", SCRATCH, "/dev", "/proc")
"""Where Landlock lets sandboxed code write, as far as mounts and modes let it."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Where the system's programs are: visible, read-only."""

ETC = (
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "magic",
    "mime.types",
    "pki",
    "protocols",
    "services",
    "ssl",
    "timezone",
)
"""What of /etc is visible: nothing that describes this machine or its users."""

_WRITTEN = {
    "passwd": "user:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "user:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "hostname": "sandbox\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
}

_DEVICES = ("null", "zero", "full", "random", "urandom")

_HIDDEN_PROC: tuple[str, ...] = (
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "sched_debug",
    "sysrq-trigger",
)
_HIDDEN_PROC += ("timer_list", "latency_stats", "config.gz", "mounts.host", "vmallocinfo")
_FROZEN_PROC = ("sys", "bus", "fs", "irq", "acpi", "scsi", "driver", "tty", "asound")

_READ_ONLY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
_SHIELDED = MS_NOSUID | MS_NODEV


@cache
def find_packages() -> str:
    """Return the folder below `PACKAGES` that this interpreter's pip installs modules into."""
    scheme = sysconfig.get_preferred_scheme("prefix")
    return sysconfig.get_path("purelib", scheme, {"base": PACKAGES, "platbase": PACKAGES})


def keep_mounts_private() -> None:
    """Let the host's later mounts appear in this mount namespace, and none of ours outside it."""
    mount("none", "/", "", MS_SLAVE | MS_REC)


def build_root(root: str, environments: Sequence[str]) -> None:
    """Prepare the read-only root at the empty directory `root`.

    `environments` are the directories, outside the system's, that Python is made of.
    """
    mount("tmpfs", root, "tmpfs", _SHIELDED, "mode=0755,size=1m")
    for path in SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path):
            _show(root, path)
    os.mkdir(root + "/etc", 0o755)
    for name in ETC:
        _show(root, f"/etc/{name}")
    for name, text in _WRITTEN.items():
        _create(f"{root}/etc/{name}", text)
    for path in environments:
        if not any(path.startswith(f"{system}/") for system in SYSTEM):
            _show(root, path)
    _build_devices(root)
    for path in ("/proc", SCRATCH, PROXY, "/var", "/mnt", DATA):
        os.makedirs(root + path, 0o755, exist_ok=True)  # an environment may be below one
    if not os.path.lexists(f"{root}/var{SCRATCH}"):
        os.symlink(SCRATCH, f"{root}/var{SCRATCH}")
    restrict_mount(root, MOUNT_ATTR_RDONLY)


def _build_devices(root: str) -> None:
    os.mkdir(f"{root}/dev", 0o755)
    for name in _DEVICES:
        _create(f"{root}/dev/{name}", "")
        bind(f"/dev/{name}", f"{root}/dev/{name}", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
    for name in ("shm", "pts"):
        os.mkdir(f"{root}/dev/{name}", 0o755)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        os.symlink(target, f"{root}/dev/{name}")


def _show(root: str, path: str) -> None:
    source = os.path.realpath(path)
    if not os.path.exists(source):
        return
    if os.path.isdir(source):
        os.makedirs(root + path, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(root + path), 0o755, exist_ok=True)
        _create(root + path, "")
    bind(source, root + path, _READ_ONLY)


def _create(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enter_root(
    root: str,
    *,
    data: str | None,
    idmap_fd: int | None,
    network: bool,
    scratch_bytes: int,
    scratch_files: int,
    data_bytes: int,
    proxy: str | None,
) -> None:
    """Add what is one session's own, and make `root` the root.

    Without a `data` directory, /mnt/data is kept in memory, at most `data_bytes` of it.
    """
    mount("proc", f"{root}/proc", "proc", _SHIELDED | MS_NOEXEC)
    for name in _HIDDEN_PROC:
        if os.path.exists(f"{root}/proc/{name}"):
            bind(f"{root}/dev/null", f"{root}/proc/{name}", MOUNT_ATTR_RDONLY, recursive=False)
    for name in _FROZEN_PROC:
        if os.path.isdir(f"{root}/proc/{name}"):
            bind(f"{root}/proc/{name}", f"{root}/proc/{name}", _READ_ONLY, recursive=False)
    scratch = f"mode=1777,size={scratch_bytes},nr_inodes={scratch_files}"
    _mount_scratch(root + SCRATCH, scratch)
    mount("tmpfs", root + SHARED_MEMORY, "tmpfs", _SHIELDED | MS_NOEXEC, scratch)
    options = "newinstance,ptmxmode=0666,mode=0620"
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    if network:
        for name in ("hosts", "resolv.conf"):
            bind(os.path.realpath(f"/etc/{name}"), f"{root}/etc/{name}", _READ_ONLY)
    if proxy is not None:
        bind(proxy, root + PROXY, _READ_ONLY | MOUNT_ATTR_NOEXEC, recursive=False)
    if data is None:
        options = f"mode=1777,size={data_bytes},nr_inodes={scratch_files}"
        mount("tmpfs", root + DATA, "tmpfs", _SHIELDED, options)
    else:
        attach_data(root, data, idmap_fd=idmap_fd)
    os.chdir(root)
    pivot_root()


def _mount_scratch(place: str, options: str) -> None:
    """Mount the scratch folder, and in it again the environments that are below that path."""
    names = os.listdir(place)
    kept = {name: clone_mount(os.path.join(place, name), _READ_ONLY) for name in names}
    mount("tmpfs", place, "tmpfs", _SHIELDED, options)
    for name, tree in kept.items():
        os.mkdir(os.path.join(place, name), 0o755)
        place_mount(tree, os.path.join(place, name))
        os.close(tree)


def attach_data(root: str, data: str, *, idmap_fd: int | None) -> None:
    """Show the session's directory `data` at /mnt/data below `root`."""
    tree = clone_data(data, idmap_fd=idmap_fd)
    try:
        place_mount(tree, root + DATA)
    finally:
        os.close(tree)


def clone_data(data: str, *, idmap_fd: int | None) -> int:
    """Return a mount of the session's directory `data`, to be placed."""
    if not stat.S_ISDIR(os.lstat(data).st_mode):
        raise NotADirectoryError(f"{data} is not a directory.")
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    return clone_mount(data, attributes, recursive=False, idmap_fd=idmap_fd)
