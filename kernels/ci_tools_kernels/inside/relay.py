"""From a port on the sandbox's loopback to the filtering proxy outside of it.

Programs want a proxy at an address with a port. What is outside can be reached over a unix socket
only, as the sandbox has a network of its own with nothing in it. This process joins the two.
"""

import asyncio
import os
import signal
import socket
from contextlib import suppress

from ci_tools_kernels.inside.filesystem import PROXY
from ci_tools_kernels.inside.syscalls import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, close_fds, prctl

SOCKET = "s"
"""The name of the proxy's socket in its folder."""

PORT = 3128
"""Where programs find the proxy, at 127.0.0.1."""

_CHUNK = 1 << 16


def start() -> None:
    """Listen, and go on in a process of its own."""
    listener = socket.create_server(("127.0.0.1", PORT), backlog=128)
    if os.fork():
        listener.close()
        return
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_DUMPABLE, 0)
        close_fds([listener.fileno()])
        asyncio.run(_serve(listener))
    finally:
        os._exit(1)


async def _serve(listener: socket.socket) -> None:
    async with await asyncio.start_server(_relay, sock=listener) as server:
        await server.serve_forever()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        to_proxy = await asyncio.open_unix_connection(f"{PROXY}/{SOCKET}")
    except OSError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, to_proxy[1]), _copy(to_proxy[0], writer))
    for end in (writer, to_proxy[1]):
        end.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(_CHUNK):
            target.write(chunk)
            await target.drain()
    with suppress(OSError):
        target.write_eof()
