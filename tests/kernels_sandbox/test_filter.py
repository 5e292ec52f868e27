"""The system call filter, run by a small interpreter for both kinds of processor."""

import errno
import struct

import pytest

from ci_tools_kernels.inside import seccomp

ALLOW = 0x7FFF0000
REFUSE = 0x00050000
KILL = 0x80000000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def judge(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Return what the filter does with a call."""
    program = seccomp.assemble(machine)
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *padded)
    value = at = 0
    while True:
        code, yes, no, operand = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (value,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += yes if value == operand else no
            case 0x35:
                at += yes if value >= operand else no
            case 0x45:
                at += yes if value & operand else no
            case 0x06:
                return int(operand)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_call_on_the_list_is_refused(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    refused = {
        name: judge(machine, number)
        for name, numbers in seccomp.DENIED_CALLS.items()
        if (number := numbers[column]) is not None
    }

    assert set(refused.values()) == {REFUSE | errno.EPERM}


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_forks_are_allowed_and_new_namespaces_are_not(machine: str, clone: int) -> None:
    assert judge(machine, clone, 17) == ALLOW
    assert judge(machine, clone, 17 | 0x10000000) == REFUSE | errno.EPERM
    assert judge(machine, 435) == REFUSE | errno.ENOSYS


@pytest.mark.parametrize(("machine", "call"), [("x86_64", 41), ("aarch64", 198)])
def test_only_the_usual_kinds_of_socket_are_allowed(machine: str, call: int) -> None:
    allowed = [family for family in range(64) if judge(machine, call, family) == ALLOW]

    assert allowed == [1, 2, 10, 16]


@pytest.mark.parametrize(("machine", "ioctl"), [("x86_64", 16), ("aarch64", 29)])
def test_typing_into_terminals_is_refused(machine: str, ioctl: int) -> None:
    assert judge(machine, ioctl, 0, 0x5412) == REFUSE | errno.EPERM
    assert judge(machine, ioctl, 0, 0x541C) == REFUSE | errno.EPERM
    assert judge(machine, ioctl, 0, 0x5413) == ALLOW


def test_calls_of_another_architecture_are_fatal() -> None:
    assert judge("x86_64", 1, architecture=0x40000003) == KILL
    assert judge("x86_64", 0x40000001) == REFUSE | errno.EPERM


def test_unknown_processor_is_an_error() -> None:
    with pytest.raises(LookupError):
        seccomp.assemble("riscv64")
