"""The embedded Jupyter Server's process: `python -m ci_tools_jupyter.embedded_child`.

How this works: the parent writes one line of JSON to standard input and keeps that pipe open for as
long as it lives. When the pipe ends, or another process becomes our parent, or the server stops,
every process below this one is killed and the server's folder is removed. On Linux this process
adopts what its kernels leave behind, so that even daemons which user code started are found.
Secrets come through the pipe, never in arguments or variables, where user code could read them.
"""

import ctypes
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

WATCH_INTERVAL = 1.0
"""Seconds between two looks at who the parent is."""

_PR_SET_CHILD_SUBREAPER = 36

_SLOW_MODULES = ("rfc3987_syntax", "isoduration")
"""Optional modules of jsonschema, for checks that the server never makes: the first builds a
grammar when it is imported, which is two thirds of the server's whole start."""

_CLOSE_TIMEOUT = 3.0
"""Seconds to end sandboxes in order; then their processes are killed as any other."""

_KILL_ROUNDS = 10
"""Rounds of killing; processes may be forked while others are killed."""


def main() -> None:
    """Run the server that standard input describes until it, or the parent, ends."""
    options = json.loads(sys.stdin.buffer.readline())
    ready = _take_standard_output()
    clean_up = _once(lambda: _clean_up(options["folder"], options["sockets"]))
    for watch in (_watch_pipe, _watch_parent):
        threading.Thread(target=watch, args=(options["parent"], clean_up), daemon=True).start()
    _adopt_orphans()
    for name in _SLOW_MODULES:
        sys.modules[name] = None  # type: ignore[assignment] # an import of it fails from now on
    try:
        # After the watching has begun, because it takes most of a second.
        from ci_tools_jupyter.embedded_app import run_app

        run_app(options, ready)
    except BaseException:  # noqa: BLE001 - the last thing that this process does
        # The parent still waits for the line, reads the log and removes the folder.
        traceback.print_exc()
        os._exit(1)
    clean_up()


def _take_standard_output() -> int:
    """Keep standard output for the one line to the parent; let everything else go to the log."""
    ready = os.dup(1)
    os.set_inheritable(ready, False)
    os.dup2(2, 1)
    return ready


def _once(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that runs the given one for the first caller; others wait for ever."""
    lock = threading.Lock()

    def run() -> None:
        lock.acquire()
        function()

    return run


def _watch_pipe(parent: int, clean_up: Callable[[], None]) -> None:
    while sys.stdin.buffer.read(1024):
        pass
    clean_up()


def _watch_parent(parent: int, clean_up: Callable[[], None]) -> None:
    # The pipe does not end if the parent forked a process that still holds it.
    while os.name == "nt" or os.getppid() == parent:
        time.sleep(WATCH_INTERVAL)
        _reap()
    clean_up()


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    """Collect adopted processes that have ended; the server collects its own kernels."""
    app = sys.modules.get("ci_tools_jupyter.embedded_app")
    if sys.platform != "linux" or app is None or not hasattr(app, "list_own_processes"):
        return
    own = app.list_own_processes()
    for process in _list_children(recursive=False):
        with suppress(Exception):
            if process.pid not in own and process.status() == "zombie":
                os.waitpid(process.pid, os.WNOHANG)


def _list_children(*, recursive: bool) -> list[Any]:
    # Here, so that the watching begins without it.
    import psutil

    with suppress(psutil.Error):
        return psutil.Process().children(recursive=recursive)
    return []


def _clean_up(folder: str, sockets: str) -> None:
    """Kill every process below this one, remove the server's files and end."""
    _close_sandboxes()
    for _ in range(_KILL_ROUNDS):
        children = [child for child in _list_children(recursive=True) if child.is_running()]
        alive = [child for child in children if not _is_zombie(child)]
        if not alive:
            break
        for child in alive:
            with suppress(Exception):
                child.kill()
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.unlink(folder + ".json")
    shutil.rmtree(sockets, ignore_errors=True)  # perhaps not in the server's folder
    os._exit(0)


def _close_sandboxes() -> None:
    """Let the sandboxes' host give back what it holds besides processes, if there is one."""
    host = sys.modules.get("ci_tools_kernels.host")  # another package, which is only named here
    if host is None:
        return
    closing = threading.Thread(target=_close_host, args=(host,), daemon=True)
    closing.start()
    closing.join(_CLOSE_TIMEOUT)


def _close_host(host: Any) -> None:
    try:
        if host.find_host.cache_info().currsize:
            host.find_host().close()
    except Exception:  # noqa: BLE001 - the rest must be cleaned up
        traceback.print_exc()


def _is_zombie(process: Any) -> bool:
    with suppress(Exception):
        return bool(process.status() == "zombie")
    return True


if __name__ == "__main__":
    main()
