import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ci_tools_server.run_file import (
    RunFile,
    find_run,
    new_secret,
    prove_run,
    remove_run_file,
    write_run_file,
)


@contextmanager
def running(secret: str) -> Iterator[RunFile]:
    """A server that answers /healthz as the run with the secret `secret`."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            challenge = self.path.partition("challenge=")[2]
            body = json.dumps({"status": "ok", "proof": prove_run(secret, challenge)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield RunFile(url=f"http://127.0.0.1:{server.server_port}", pid=1, secret=secret)
        finally:
            server.shutdown()
            thread.join()


def test_a_running_service_is_found_by_its_file(tmp_path: Path) -> None:
    with running("one") as run:
        assert write_run_file(tmp_path, run)

        assert find_run(tmp_path) == run


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")
def test_only_the_owner_can_read_the_secret(tmp_path: Path) -> None:
    with running("one") as run:
        write_run_file(tmp_path, run)

    assert stat.S_IMODE((tmp_path / "serve.json").stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="modes and fifos are POSIX")
def test_a_file_that_somebody_else_may_have_put_there_is_ignored(tmp_path: Path) -> None:
    with running("one") as run:
        write_run_file(tmp_path, run)
        path = tmp_path / "serve.json"

        path.chmod(0o644)
        assert find_run(tmp_path) is None

        path.chmod(0o600)
        path.rename(tmp_path / "elsewhere.json")
        path.symlink_to(tmp_path / "elsewhere.json")
        assert find_run(tmp_path) is None

        path.unlink()
        os.mkfifo(path, 0o600)
        assert find_run(tmp_path) is None


def test_a_file_left_by_a_killed_service_is_ignored(tmp_path: Path) -> None:
    with running("one") as run:
        write_run_file(tmp_path, run)

    assert find_run(tmp_path) is None


def test_a_stranger_on_the_same_port_is_not_taken_for_the_service(tmp_path: Path) -> None:
    with running("stranger") as stranger:
        write_run_file(tmp_path, RunFile(url=stranger.url, pid=1, secret="ours"))

        assert find_run(tmp_path) is None


def test_a_second_service_does_not_take_over_the_file(tmp_path: Path) -> None:
    with running("one") as first, running("two") as second:
        write_run_file(tmp_path, first)

        assert not write_run_file(tmp_path, second)
        remove_run_file(tmp_path, second)
        assert find_run(tmp_path) == first


def test_a_stopped_service_removes_its_file(tmp_path: Path) -> None:
    with running("one") as run:
        write_run_file(tmp_path, run)

        remove_run_file(tmp_path, run)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "x"}', '{"url": 1, "pid": "x"}'])
def test_a_broken_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / "serve.json").write_text(content)

    assert find_run(tmp_path) is None


def test_every_run_has_its_own_secret() -> None:
    assert new_secret() != new_secret()
