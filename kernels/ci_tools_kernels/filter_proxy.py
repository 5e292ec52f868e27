"""The filtering proxy's process: `python -m ci_tools_kernels.filter_proxy`.

It reads one line of JSON from standard input, `{"socket": "<path>", "hosts": ["..."]}`, listens on
that unix socket, and ends when its standard input does. The proxy is proxy.py; what is ours is the
plugin that decides.
"""

import json
import logging
import os
import signal
import sys
import threading

from proxy import entry_point
from proxy.http.exception import HttpRequestRejected
from proxy.http.parser import HttpParser
from proxy.http.proxy import HttpProxyBasePlugin

from ci_tools_kernels.allowlist import Allowlist, HostRefusedError
from ci_tools_kernels.inside.syscalls import PR_SET_PDEATHSIG, prctl

FORBIDDEN, BAD_GATEWAY = 403, 502
"""The HTTP status for a host that is refused, and for one that is not there."""

_allowed: list[Allowlist] = []
"""The one list of this process. Plugins are made by proxy.py, which passes them nothing of ours."""


class AllowedHosts(HttpProxyBasePlugin):
    """Lets requests pass to the hosts of the list."""

    _target: tuple[str, int, str] = ("", 0, "")

    def before_upstream_connection(self, request: HttpParser) -> HttpParser | None:
        """Look the host up, or refuse it with the reason as the answer."""
        try:
            host, port = _to_text(request.host), request.port or 0
            self._target = (host, port, _allowed[0].resolve(host, port))
        except HostRefusedError as exc:
            raise _refuse(FORBIDDEN, "This host is not allowed in this session", exc) from exc
        except OSError as exc:
            raise _refuse(BAD_GATEWAY, "This host is not known", exc) from exc
        return request

    def resolve_dns(self, host: str, port: int) -> tuple[str, None]:
        """Return the address that was checked; proxy.py asks last thing before it connects.

        Raises:
            HostRefusedError: It asks for another host, which was not.
        """
        if self._target[:2] != (host, port):
            raise HostRefusedError(f"{host} was not checked.")
        return self._target[2], None


def _to_text(host: bytes | None) -> str:
    try:
        return (host or b"").decode("ascii")
    except UnicodeDecodeError as exc:
        raise HostRefusedError("The host's name is not ASCII.") from exc


def _refuse(status: int, reason: str, why: Exception) -> HttpRequestRejected:
    body = f"{why}\n".encode()
    return HttpRequestRejected(status_code=status, reason=reason.encode(), body=body)


def _end_with_input(fd: int) -> None:
    # Not through sys.stdin: processes that are forked meanwhile would wait for its lock.
    while os.read(fd, 1):
        pass
    os._exit(0)


def main() -> None:
    """Run the proxy."""
    request = json.loads(sys.stdin.buffer.readline())
    _allowed.append(Allowlist(request["hosts"]))
    # Its own processes would outlive it.
    os.register_at_fork(after_in_child=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    threading.Thread(target=_end_with_input, args=(os.dup(0),), daemon=True).start()
    logging.disable(logging.WARNING)  # hosts that code asks for are nobody's business
    os.umask(0)  # the socket is for all users; its folder is not
    sys.argv[1:] = [
        *("--unix-socket-path", request["socket"], "--num-acceptors", "1", "--num-workers", "1"),
        # A thread for each connection: one that waits for its host does not hold up the others.
        "--threaded",
    ]
    sys.argv += ["--plugins", f"{AllowedHosts.__module__}.{AllowedHosts.__name__}"]
    entry_point()


if __name__ == "__main__":
    # proxy.py imports the plugin by its name, so this module must be the one with that name.
    from ci_tools_kernels import filter_proxy

    filter_proxy.main()
