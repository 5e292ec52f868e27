"""The WebSocket of a kernel without the two waits that a stock Jupyter Server has.

A stock server sends the first replies of a fast kernel half a second late: it asks a new kernel
for a sign of life and repeats the question only after that time, although the first answer is
often lost while the subscription is still on its way. And it leaves Nagle's algorithm on, which
costs some 40 ms for every execution.
"""

import asyncio
import contextlib
from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets import Bool

FIRST_RETRY = 0.02
"""Seconds after an answer until a sign of life is asked for again; it grows from there."""

LONGEST_RETRY = 0.5
"""Seconds between questions to a kernel that is slow to start."""


class SandboxWebsocketConnection(ZMQChannelsWebsocketConnection):
    """Connects to a kernel as soon as it answers, and sends without delay."""

    limit_rate = Bool(
        False,
        config=True,
        help="Whether to drop output that comes too fast; ci-tools caps output itself.",
    )

    def connect(self) -> Any:
        """Send small messages at once from now on, and wait for the kernel."""
        with contextlib.suppress(AttributeError):  # the stream is None once the client is gone
            self.websocket_handler.set_nodelay(True)
        return super().connect()

    def nudge(self) -> "asyncio.Future[None]":
        """Return a future that is done when the kernel answers and its output arrives here."""
        if getattr(self.kernel_manager, "execution_state", None) == "busy":
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return asyncio.ensure_future(self._wait_for_life())

    async def _wait_for_life(self) -> None:
        shell = self.kernel_manager.connect_shell()
        control = self.kernel_manager.connect_control()
        iopub = self.channels["iopub"]
        answered, heard = asyncio.Event(), asyncio.Event()
        shell.on_recv(lambda _: answered.set())
        control.on_recv(lambda _: answered.set())
        iopub.on_recv(lambda _: heard.set())
        both = asyncio.ensure_future(_wait_for_both(answered, heard))
        ports = list(self.kernel_manager.ports)
        try:
            async with asyncio.timeout(self.kernel_info_timeout):
                retry = FIRST_RETRY
                asked = False
                while not both.done() and self._is_worth_asking(ports, shell, control):
                    self.session.send(control, "kernel_info_request")
                    if asked:  # a kernel may not know it on that channel
                        self.session.send(shell, "kernel_info_request")
                    asked = True
                    # The question waits for a kernel that is still starting, and each costs it
                    # time; an answer can be early for those who only begin to listen.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LONGEST_RETRY):
                            await answered.wait()
                    await asyncio.wait({both}, timeout=retry if answered.is_set() else 0)
                    retry = min(retry * 1.5, LONGEST_RETRY)
        except TimeoutError:
            self.log.warning("Kernel %s did not answer in time.", self.kernel_id)
        finally:
            both.cancel()
            for channel in (shell, control):
                if not channel.closed():
                    channel.close()
            if not iopub.closed():
                iopub.stop_on_recv()

    def _is_worth_asking(self, ports: list[int], *channels: Any) -> bool:
        return (
            self.kernel_id in self.multi_kernel_manager
            and list(self.kernel_manager.ports) == ports
            and not any(channel.closed() for channel in channels)
        )


async def _wait_for_both(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    await second.wait()
