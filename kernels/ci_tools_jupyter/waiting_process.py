"""A process that has made a kernel's imports, and waits to be told which kernel it is.

It is run by file path, in the kernel's environment: it needs ipykernel, and nothing of ours.
Standard input brings one line of JSON, `{"cwd", "env", "arguments"}`, or ends: then so does this.
"""

import importlib
import json
import os
import sys
from contextlib import suppress


def main() -> None:
    """Import, wait, and be a kernel."""
    folder, preload = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:]
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != folder]
    # ipykernel sets it, but after pyplot is imported it would be too late.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    import ipykernel_launcher  # type: ignore[import-untyped]
    from ipykernel.kernelapp import IPKernelApp

    for name in preload:
        with suppress(ImportError):  # what is missing here is missing in the kernel, which says so
            importlib.import_module(name)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    start = json.loads(line)
    os.environ.clear()
    os.environ.update(start["env"])
    os.chdir(start["cwd"])
    sys.argv = [str(ipykernel_launcher.__file__), *start["arguments"]]
    IPKernelApp.launch_instance()


if __name__ == "__main__":
    main()
