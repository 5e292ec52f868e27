"""The system calls that sandboxed code may not make, and the filter that refuses them.

The list is data. Everything else is allowed: the namespaces take away what calls could reach,
the filter takes away the parts of the kernel that sandboxed code has no use for.
"""

import ctypes
import errno
import platform
import struct

from ci_tools_kernels.inside.syscalls import PR_SET_NO_NEW_PRIVS, prctl, syscall

DENIED_CALLS = {
    # name: (x86_64, aarch64); None where the architecture does not have it
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
"""Refused with EPERM."""

HIDDEN_MEMORY_CALLS = {
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
}
"""Refused besides where no control group counts memory: what they give is in no process."""

_CLONE = (56, 220)
_CLONE3 = (435, 435)
_SOCKET = (41, 198)
_IOCTL = (16, 29)

ALLOWED_SOCKET_FAMILIES = (1, 2, 10, 16)
"""unix, inet, inet6 and netlink. AF_VSOCK for one is not bound to a network namespace."""

DENIED_IOCTLS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: they type into a terminal."""

_NEW_NAMESPACE = 0x7E020080
"""Every CLONE_NEW… flag of clone(2)."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32_CALLS = 0x40000000

_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000

_LOAD, _EQUALS, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
"""Offsets in `struct seccomp_data`; of the arguments, the low halves."""

_Instruction = tuple[int, int, int, int]


def assemble(machine: str | None = None, *, hidden_memory: bool = True) -> bytes:
    """Return the filter as BPF instructions for this machine.

    Without `hidden_memory`, code can have no memory that is not seen in its processes.

    Raises:
        LookupError: There is no list of calls for this kind of processor.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        raise LookupError(f"No list of system calls for {machine} processors.")
    column, architecture = _ARCHITECTURES[machine]
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUALS, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32_CALLS), (_RETURN, 0, 0, _refuse(errno.EPERM))]
    denied = DENIED_CALLS if hidden_memory else {**DENIED_CALLS, **HIDDEN_MEMORY_CALLS}
    for numbers in denied.values():
        number = numbers[column]
        if number is not None:
            program += [(_EQUALS, 0, 1, number), (_RETURN, 0, 0, _refuse(errno.EPERM))]
    # A caller that sees ENOSYS falls back to clone, whose flags a filter can read.
    program += [(_EQUALS, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _refuse(errno.ENOSYS))]
    program += [
        (_EQUALS, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST),
        (_HAS_BITS, 0, 1, _NEW_NAMESPACE),
        (_RETURN, 0, 0, _refuse(errno.EPERM)),
        (_RETURN, 0, 0, _ALLOW),
    ]
    families = ALLOWED_SOCKET_FAMILIES
    program += [(_EQUALS, 0, len(families) + 3, _SOCKET[column]), (_LOAD, 0, 0, _FIRST)]
    program += [
        (_EQUALS, len(families) - index, 0, family) for index, family in enumerate(families)
    ]
    program += [(_RETURN, 0, 0, _refuse(errno.EAFNOSUPPORT)), (_RETURN, 0, 0, _ALLOW)]
    program += [(_EQUALS, 0, len(DENIED_IOCTLS) + 3, _IOCTL[column]), (_LOAD, 0, 0, _SECOND)]
    program += [
        (_EQUALS, len(DENIED_IOCTLS) - index, 0, request)
        for index, request in enumerate(DENIED_IOCTLS)
    ]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _refuse(errno.EPERM))]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _refuse(number: int) -> int:
    return _REFUSE | number


def install(program: bytes) -> None:
    """Put this process, and all it starts, under the filter for good."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    code = ctypes.create_string_buffer(program, len(program))
    filter_block = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    syscall(number, ctypes.c_uint(1), ctypes.c_uint(0), filter_block)  # SECCOMP_SET_MODE_FILTER
