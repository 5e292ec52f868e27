"""The file that tells other processes of this user about a running `ci-tools serve`.

`<state_dir>/serve.json` (mode 0600) holds the address, the process id and a secret that is made
anew at every start and stands for the principal `local`. A file left by a killed process is found
out by asking /healthz, which answers with the id of the run.
"""

import hashlib
import http.client
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

_NAME = "serve.json"

_HEALTH_TIMEOUT = 0.5
"""Seconds that a running service on this machine has to answer /healthz."""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A running `ci-tools serve`: where it is and the secret that opens it."""

    url: str
    pid: int
    secret: str

    @property
    def id(self) -> str:
        """A name of this run that can be shown to anybody."""
        return run_id(self.secret)


def run_id(secret: str) -> str:
    """Return the public name of the run with that secret."""
    return hashlib.sha256(b"ci-tools run " + secret.encode()).hexdigest()[:16]


def new_secret() -> str:
    """Return a secret for one run."""
    return "run_" + secrets.token_urlsafe(32)


def write_run_file(state_dir: Path, run: RunFile) -> bool:
    """Announce `run`; return False, doing nothing, while another live run is announced."""
    if find_run(state_dir) is not None:
        return False
    path = state_dir / _NAME
    part = state_dir / f"{_NAME}.{run.pid}"
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(run), file)
    os.replace(part, path)
    return True


def remove_run_file(state_dir: Path, run: RunFile) -> None:
    """Withdraw `run` if it is the one that is announced."""
    if _read(state_dir) == run:
        (state_dir / _NAME).unlink(missing_ok=True)


def find_run(state_dir: Path) -> RunFile | None:
    """Return the run that is announced in `state_dir` and answers, or None."""
    run = _read(state_dir)
    return run if run is not None and _answers(run) else None


def _read(state_dir: Path) -> RunFile | None:
    try:
        content = json.loads((state_dir / _NAME).read_text(encoding="utf-8"))
        return RunFile(
            url=str(content["url"]), pid=int(content["pid"]), secret=str(content["secret"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answers(run: RunFile) -> bool:
    address = urlsplit(run.url)
    # The standard library's client: it is loaded in 10 ms, and this stands before the first answer.
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=_HEALTH_TIMEOUT
    )
    try:
        connection.request("GET", "/healthz")
        answer = json.loads(connection.getresponse().read(4096))
        return isinstance(answer, dict) and answer.get("run") == run.id
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
