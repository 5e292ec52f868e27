"""The entry point: `python -I main.py`, with a socket as standard input and the spec on it."""

import os
import socket
import sys
import types


def _name_package() -> None:
    # Only this folder becomes importable, under its own name, and nothing that lies beside it.
    here = os.path.dirname(os.path.abspath(__file__))
    for name, path in (("ci_tools_kernels", []), ("ci_tools_kernels.inside", [here])):
        module = types.ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module


def main() -> int:
    """Read what to do from standard input and do it."""
    _name_package()
    from ci_tools_kernels.inside import template, wire

    link = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    received = wire.receive(link)
    if received is None:
        return 1
    spec, fds = received
    if fds:
        return template.enter_from_bubblewrap(spec, fds, link)
    return template.launch(spec, link)


if __name__ == "__main__":
    sys.exit(main())
