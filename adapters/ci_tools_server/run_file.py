"""The file that tells other processes of this user about a running `ci-tools serve`.

`<state_dir>/serve.json` (mode 0600) holds the address, the process id and a secret that is made
anew at every start and stands for the principal `local`. A file that somebody else could have put
there is ignored. One left by a killed process is found out by asking /healthz, which proves that it
knows the secret: whoever listens on that port by now must not be sent it.
"""

import hmac
import http.client
import json
import os
import secrets
import stat
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


def prove_run(secret: str, challenge: str) -> str:
    """Return what only a run with that secret can answer to a challenge."""
    return hmac.new(secret.encode(), b"ci-tools run " + challenge.encode(), "sha256").hexdigest()


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
        content = json.loads(_read_own(state_dir / _NAME))
        return RunFile(
            url=str(content["url"]), pid=int(content["pid"]), secret=str(content["secret"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_own(path: Path) -> bytes:
    """Return the content of a file that nobody but this user can have written or read."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # no link, no fifo
    with os.fdopen(os.open(path, os.O_RDONLY | flags), "rb") as file:
        found = os.fstat(file.fileno())
        is_own = os.name != "posix" or (
            found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
        )
        if not is_own or not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path.name} is not a private file of this user")
        return file.read()


def _answers(run: RunFile) -> bool:
    address = urlsplit(run.url)
    # The standard library's client: it is loaded in 10 ms, and this stands before the first answer.
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=_HEALTH_TIMEOUT
    )
    try:
        challenge = secrets.token_hex(16)
        connection.request("GET", f"/healthz?challenge={challenge}")
        answer = json.loads(connection.getresponse().read(4096))
        proof = answer.get("proof") if isinstance(answer, dict) else None
        return isinstance(proof, str) and hmac.compare_digest(
            proof.encode(), prove_run(run.secret, challenge).encode()
        )
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
