"""Things that sandboxed code must not be able to do.

Each attempt is Python that prints `ESCAPED` when it works and `held` when it does not. Where it
must work outside of a sandbox, that is tested too: else it would prove nothing.
"""

from dataclasses import dataclass

PRELUDE = """
import ctypes, os, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(action):
    try:
        result = action()
    except (Exception, SystemExit) as exc:
        print("held", type(exc).__name__, exc)
    else:
        print("ESCAPED" if result else "held", repr(result)[:200])
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True
"""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    name: str
    code: str
    works_outside: bool = True
    """Whether it works as an ordinary user, without a sandbox."""


# {host_file}, {host_pid}, {other_folder}, {tcp_port}, {unix_path}, {abstract_name} and
# {run_dir} are filled in with real things of the machine that the tests run on.
ATTEMPTS = [
    Attempt(name="read a file of the host", code='attempt(lambda: open("{host_file}").read())'),
    Attempt(name="list the host's folder", code='attempt(lambda: os.listdir("{host_folder}"))'),
    Attempt(
        name="read another session's file",
        code='attempt(lambda: open("{other_folder}/secret.txt").read())',
    ),
    Attempt(
        name="follow a link out of /mnt/data",
        code=(
            'os.symlink("{host_file}", "{data}/link")\n'
            'attempt(lambda: open("{data}/link").read())\nos.unlink("{data}/link")'
        ),
    ),
    Attempt(
        name="hard-link another session's file",
        code='attempt(lambda: os.link("{other_folder}/secret.txt", "{data}/hard") or True)',
    ),
    Attempt(
        name="climb out of /mnt/data",
        code='attempt(lambda: open("{data}/../other/secret.txt").read())',
    ),
    Attempt(
        name="read the service's environment",
        code='attempt(lambda: "CI_TOOLS_TEST_SECRET" in open("/proc/{host_pid}/environ").read())',
    ),
    Attempt(
        name="find a secret in the environment",
        code='attempt(lambda: "CI_TOOLS_TEST_SECRET" in os.environ)',
    ),
    Attempt(name="see other processes", code='attempt(lambda: os.path.exists("/proc/{host_pid}"))'),
    Attempt(
        name="see a process name of the host",
        code=(
            "attempt(lambda: [p for p in os.listdir('/proc') if p.isdigit() and"
            " open(f'/proc/{{p}}/comm').read() == open('/proc/1/comm').read() and int(p) > 1"
            " and b'pytest' in open(f'/proc/{{p}}/cmdline', 'rb').read()])"
        ),
        works_outside=False,
    ),
    Attempt(name="signal a process", code="attempt(lambda: os.kill({host_pid}, 0) is None)"),
    Attempt(
        name="look at the first process through /proc",
        code='attempt(lambda: os.listdir("/proc/1/fd"))',
        works_outside=False,
    ),
    Attempt(
        name="write to the first process",
        code='attempt(lambda: open("/proc/1/mem", "r+b"))',
        works_outside=False,
    ),
    Attempt(
        name="write into the Python environment",
        code=(
            "import json as module\n"
            'attempt(lambda: open(os.path.dirname(module.__file__) + "/x", "w") and True)'
        ),
        works_outside=False,
    ),
    Attempt(
        name="write to /usr",
        code='attempt(lambda: open("/usr/ci-tools-x", "w") and True)',
        works_outside=False,
    ),
    Attempt(
        name="write to /etc",
        code='attempt(lambda: open("/etc/ci-tools-x", "w") and True)',
        works_outside=False,
    ),
    Attempt(
        name="write to a kernel setting",
        code='attempt(lambda: open("/proc/sys/kernel/hostname", "w").write("x"))',
        works_outside=False,
    ),
    Attempt(
        name="read the kernel's settings of the disk",
        code='attempt(lambda: os.listdir("/sys/block"))',
    ),
    Attempt(
        name="connect to a TCP port of the host",
        code='attempt(lambda: socket.create_connection(("127.0.0.1", {tcp_port}), 2) and True)',
    ),
    Attempt(
        name="connect to a unix socket of the host",
        code="s = socket.socket(socket.AF_UNIX)\nattempt(lambda: s.connect('{unix_path}') is None)",
    ),
    Attempt(
        name="connect to an abstract socket of the host",
        code="s = socket.socket(socket.AF_UNIX)\n"
        "attempt(lambda: s.connect('\\x00{abstract_name}') is None)",
    ),
    Attempt(
        name="reach the network",
        code=(
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            "attempt(lambda: s.connect(('192.0.2.1', 53)) is None)"
        ),
        works_outside=False,  # the machine that tests run on may have no network
    ),
    Attempt(
        name="see the host's network interfaces",
        code="attempt(lambda: [name for _, name in socket.if_nameindex() if name != 'lo'])",
        works_outside=False,
    ),
    Attempt(
        name="open a socket to the hypervisor",
        code="attempt(lambda: socket.socket(40, socket.SOCK_STREAM) and True)",
        works_outside=False,
    ),
    Attempt(
        name="open a raw packet socket",
        code="attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW) and True)",
        works_outside=False,
    ),
    Attempt(
        name="open a kernel crypto socket",
        code="attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET) and True)",
        works_outside=False,
    ),
    Attempt(
        name="make a user namespace",
        code="attempt(lambda: libc.unshare(0x10000000) == 0)",
    ),
    Attempt(
        name="make a user namespace by clone",
        code=(
            "pid = libc.syscall(56 if os.uname().machine == 'x86_64' else 220,"
            " ctypes.c_ulong(0x10000000 | 17), None, None, None, None)\n"
            "if pid == 0: os._exit(0)\n"
            "attempt(lambda: pid > 0 and os.waitpid(pid, 0))"
        ),
    ),
    Attempt(
        name="mount a file system",
        code='attempt(lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)',
        works_outside=False,
    ),
    Attempt(
        name="unmount /proc/sys",
        code='attempt(lambda: libc.umount2(b"/proc/sys", 2) == 0)',
        works_outside=False,
    ),
    Attempt(
        name="change the root",
        code='attempt(lambda: os.chroot("/tmp") is None)',
        works_outside=False,
    ),
    Attempt(name="trace a child", code="attempt(lambda: libc.ptrace(0, 0, 0, 0) == 0)"),
    Attempt(
        name="trace the first process",
        code="attempt(lambda: libc.ptrace(16, 1, 0, 0) == 0)",
        works_outside=False,
    ),
    Attempt(
        name="use a kernel keyring",
        code="attempt(lambda: call({keyctl}, ctypes.c_int(0), ctypes.c_int(-3), ctypes.c_int(1)))",
    ),
    Attempt(
        name="load a BPF program",
        code="attempt(lambda: libc.syscall({bpf}, 99, None, 0) == -1 and ctypes.get_errno() == 22)",
        works_outside=False,
    ),
    Attempt(
        name="set up io_uring",
        code="attempt(lambda: call(425, ctypes.c_uint(1), ctypes.create_string_buffer(120)))",
        works_outside=False,
    ),
    Attempt(
        name="count performance events",
        code="attempt(lambda: call({perf}, ctypes.create_string_buffer(128), 0, -1, -1, 0))",
        works_outside=False,
    ),
    Attempt(
        name="make a device",
        code="attempt(lambda: os.mknod('/tmp/ci-tools-disk', 0o60666, os.makedev(8, 0)) is None)",
        works_outside=False,
    ),
    Attempt(
        name="open a disk",
        code=(
            "attempt(lambda: [p for p in os.listdir('/dev') if p not in"
            " 'null zero full random urandom shm pts ptmx fd stdin stdout stderr tty core"
            " console'.split()])"
        ),
    ),
    Attempt(
        name="become root",
        code="attempt(lambda: os.setuid(0) is None)",
        works_outside=False,
    ),
    Attempt(
        name="gain rights from a setuid program",
        code=(
            "attempt(lambda: [line for line in open('/proc/self/status')"
            " if line.startswith(('CapEff', 'CapPrm', 'CapAmb'))"
            " and int(line.split()[1], 16)])"
        ),
        works_outside=False,
    ),
    Attempt(
        name="run without a filter",
        code=(
            "attempt(lambda: 'Seccomp:\\t2' not in open('/proc/self/status').read()"
            " or 'NoNewPrivs:\\t1' not in open('/proc/self/status').read())"
        ),
    ),
    Attempt(
        name="type into a terminal",
        code=(
            "import fcntl, pty\nmaster, slave = pty.openpty()\n"
            "attempt(lambda: fcntl.ioctl(slave, 0x5412, b'x') and True)"
        ),
        works_outside=False,
    ),
    Attempt(
        name="import what runs the sandbox",
        code="attempt(lambda: __import__('ci_tools_kernels'))",
        works_outside=False,
    ),
    Attempt(
        name="find what runs the sandbox in memory",
        code="attempt(lambda: [name for name in sys.modules if name.startswith('ci_tools')])",
        works_outside=False,
    ),
    Attempt(
        name="raise a limit",
        code=(
            "import resource\nattempt(lambda: resource.setrlimit(resource.RLIMIT_NPROC,"
            " (100000, 100000)) is None)"
        ),
        works_outside=False,
    ),
]
