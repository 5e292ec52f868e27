"""A connection to one kernel: executions, and recovery from every way in which it can break.

How this works: one task reads the WebSocket and hands each message to the exchange whose request id
it carries. When the WebSocket closes while something is pending, the task connects again with the
same `session_id`, for which the server has kept what came meanwhile, and then sends a *probe*: a
`kernel_info_request`. The kernel answers its requests in order, so what has not been answered when
the probe is, will never be. When nothing is pending, it connects again at the next request.

A kernel that was restarted answers under the same id with empty variables. Each process of a kernel
signs its messages with its own `session`; the one that we started is part of `KernelRef.channel_id`
(`<WebSocket session_id>.<signature>`), so a successor is recognised and refused.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from uuid import uuid4

import anyio
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ci_tools.errors import (
    BackendError,
    KernelDiedError,
    KernelLostError,
    LimitError,
    ServerUnavailableError,
)
from ci_tools.kernel import OutputLost, Workspace
from ci_tools.models import ErrorOutput, KernelRef, Variable
from ci_tools_jupyter.channels import Channels, open_channels
from ci_tools_jupyter.events import FILES_EXPRESSION
from ci_tools_jupyter.exchange import Exchange, Inquiry, JupyterExecution
from ci_tools_jupyter.pings import StallDetector, to_delay
from ci_tools_jupyter.server import JupyterServer
from ci_tools_jupyter.variables import list_variables
from ci_tools_jupyter.wire import (
    FrameError,
    JsonObject,
    Message,
    Request,
    decode,
    encode,
    to_execute_request,
)

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds in which a server that went away may come back."""

FIRST_DELAY = 0.05
"""Seconds before the first attempt to connect again."""

OPEN_TIMEOUT = 10.0
"""Seconds that one attempt to connect may take."""

VERIFY_TIMEOUT = 5.0
"""Seconds that a kernel has to say who it is; a busy one may be unable to."""

PROVEN_FOR = 5.0
"""Seconds of silence after which a connection is tried before code is sent over it."""

SILENCE = 4.0
"""Seconds without a message after which a pending execution's kernel is asked about by REST."""

CODE_LIMIT = 1_500_000
"""Characters of code; a server closes connections on messages above 10 MiB, and each character
may need 6 bytes."""

FRAGMENT = 1 << 18
"""Bytes of a message in one WebSocket frame; each is copied twice, which costs half as much time
with small ones, because no new memory is needed."""

SEND_TIMEOUT = 60.0
"""Seconds that a message of several frames may take; they are some megabytes at most."""

_ENDED = frozenset({"starting", "restarting", "dead"})
"""States of a kernel that has lost its variables, once it was up."""

_LOSS_ATTEMPTS = 3
"""Attempts to connect for which a server may still believe that the old connection lives."""


class JupyterKernel:
    """An open connection to one live kernel; implements `ci_tools.kernel.Kernel`.

    `run` and `watch` are its two tasks, started by the one who opened it.
    """

    def __init__(
        self,
        *,
        ref: KernelRef,
        server: JupyterServer,
        channels: Channels | None = None,
        files_expression: str | None = None,
        on_reply: Callable[[JsonObject], None] = lambda reply: None,
        explain: Callable[[ErrorOutput], ErrorOutput] = lambda error: error,
    ) -> None:
        self.ref = ref
        self.workspace: Workspace | None = None
        self._server = server
        self._on_reply = on_reply
        self._explain = explain
        self._channel_id, self._signature = split_channel_id(ref.channel_id)
        self._expressions = {FILES_EXPRESSION: files_expression} if files_expression else {}
        self._exchanges: dict[str, Exchange] = {}
        self._probes: dict[str, list[Exchange]] = {}
        self._probing = False
        self._channels = channels
        self._error: BackendError | None = None
        self._usable = anyio.Event()
        self._wanted = anyio.Event()
        self._stalling = anyio.Event()
        self._heard_at = anyio.current_time()
        self._pings = 0
        self._detector = StallDetector()
        self._over_tcp = False
        if channels is not None:
            self._adopt(channels)
            self._usable.set()

    async def open(self) -> None:
        """Wait until the kernel can be used.

        Raises:
            KernelLostError: There is no such kernel any more.
        """
        self._check()
        if self._channels is not None and self._channels.state is not State.OPEN:
            self._forget_channels()  # the reader has not noticed yet
        if self._channels is None or not self._usable.is_set():
            self._wanted.set()
            await self._wait_until_usable()
        self._check()

    async def execute(self, code: str, *, execution_id: str) -> JupyterExecution:
        """Send code; returns as soon as it is sent.

        Raises:
            KernelLostError: The kernel is gone.
            ServerUnavailableError: Its server is.
            LimitError: The code is too long.
        """
        if len(code) > CODE_LIMIT:
            raise LimitError(
                f"The code is longer than {CODE_LIMIT} characters; upload a file and run that."
            )
        if any(isinstance(exchange, JupyterExecution) for exchange in self._exchanges.values()):
            raise RuntimeError("an execution of this kernel is pending")
        execution = JupyterExecution(execution_id, on_reply=self._on_reply, explain=self._explain)
        request = to_execute_request(
            code, id=execution_id, sender=self._channel_id, expressions=self._expressions
        )
        await self._begin(execution, request)
        return execution

    async def inquire(
        self, request_type: str, content: Mapping[str, object], *, buffers: tuple[bytes, ...] = ()
    ) -> list[Message]:
        """Send a small request of our own on the shell channel and return its answers."""
        inquiry = await self.begin_inquiry(request_type, content, buffers=buffers)
        try:
            return await inquiry.wait()
        finally:
            self.forget_inquiry(inquiry)

    async def begin_inquiry(
        self, request_type: str, content: Mapping[str, object], *, buffers: tuple[bytes, ...] = ()
    ) -> Inquiry:
        """Send a small request of our own; `wait` for its answers, then `forget_inquiry`."""
        inquiry = Inquiry(uuid4().hex, replies=request_type.endswith("_request"))
        request = Request(
            channel="shell",
            id=inquiry.id,
            type=request_type,
            sender=self._channel_id,
            content=content,
            buffers=buffers,
        )
        await self._begin(inquiry, request)
        return inquiry

    def forget_inquiry(self, inquiry: Inquiry) -> None:
        """Leave what still comes for an inquiry unread."""
        self._exchanges.pop(inquiry.id, None)

    async def interrupt(self) -> None:
        """Ask the kernel to interrupt the pending execution."""
        try:
            await self._server.interrupt_kernel(self.ref.kernel_id)
        except KernelLostError as exc:
            self._end(_died(exc))
            raise KernelDiedError(str(exc)) from exc

    async def list_variables(self) -> Sequence[Variable]:
        """List the variables of an idle Python kernel, sorted by name."""
        return await list_variables(self)

    async def aclose(self) -> None:
        """Close the connection; the kernel goes on."""
        channels, self._channels = self._channels, None
        if channels is not None:
            await channels.close()

    async def run(self) -> None:
        """Read messages, and connect again when that is needed, for ever."""
        while True:
            if self._channels is not None:
                await self._read(self._channels)
                self._forget_channels()
            if not self._exchanges:
                await self._wanted.wait()
                self._wanted = anyio.Event()
            try:
                await self._reconnect()
            except BackendError as exc:
                self._end(exc)
                return

    async def watch(self) -> None:
        """Ping stalling connections, and ask about silent kernels, for ever."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._ping)
            while True:
                await anyio.sleep(SILENCE)
                if self._exchanges and anyio.current_time() - self._heard_at > SILENCE:
                    await self._ask_about_kernel()

    # --- sending

    async def _begin(self, exchange: Exchange, request: Request) -> None:
        await self._prove()
        await self.open()
        self._exchanges[exchange.id] = exchange
        self._pings = 0
        if self._detector.stalling:
            self._stalling.set()
        try:
            await self._send(request)
        except BaseException:
            self._exchanges.pop(exchange.id, None)
            raise

    async def _send(self, request: Request) -> None:
        channels = self._channels
        if channels is None:
            return
        message = encode(request, channels.subprotocol)
        try:
            if isinstance(message, bytes) and len(message) > FRAGMENT:
                # Shielded: WebSocket connections end when a message is left half sent.
                with anyio.move_on_after(SEND_TIMEOUT, shield=True) as scope:
                    await channels.send(_to_fragments(message))
                if scope.cancelled_caught:
                    channels.transport.abort()
            else:
                await channels.send(message)
        except ConnectionClosed:
            # The reader connects again; the probe tells whether the kernel got it.
            logger.debug("connection to kernel %s closed while sending", self.ref.kernel_id)

    async def _prove(self) -> None:
        """Try a connection that has been silent: a network may drop those without a word."""
        channels = self._channels
        if channels is None or anyio.current_time() - self._heard_at < PROVEN_FOR:
            return
        try:
            with anyio.fail_after(VERIFY_TIMEOUT):
                await (await channels.ping())
        except (ConnectionClosed, TimeoutError):
            channels.transport.abort()
            if self._channels is channels:
                self._forget_channels()
        else:
            self._heard_at = anyio.current_time()

    async def _wait_until_usable(self) -> None:
        """Wait for a connection over which the kernel has said who it is, or is too busy to."""
        with anyio.move_on_after(PATIENCE + VERIFY_TIMEOUT):
            while not self._usable.is_set():
                with anyio.move_on_after(VERIFY_TIMEOUT):
                    await self._usable.wait()
                if self._channels is not None:
                    return

    # --- receiving

    async def _read(self, channels: Channels) -> None:
        try:
            while True:
                self._dispatch(await channels.recv(), channels.subprotocol)
        except ConnectionClosed:
            logger.debug("connection to kernel %s closed", self.ref.kernel_id)

    def _dispatch(self, data: bytes | str, subprotocol: str | None) -> None:
        self._heard_at = anyio.current_time()
        self._pings = 0
        try:
            frame = decode(data, subprotocol)
            exchange = self._exchanges.get(frame.parent_id)
            if exchange is not None:
                self._hand_over(exchange, frame.to_message())
            elif frame.parent_id in self._probes:
                self._take_probe(frame.to_message())
            elif not frame.parent_id:
                self._take_notice(frame.to_message())
        except FrameError as exc:
            logger.warning("kernel %s sent %s", self.ref.kernel_id, exc)

    def _hand_over(self, exchange: Exchange, message: Message) -> None:
        if self._over_tcp and not self._detector.stalling:
            self._detector.note(message.sent_at, time.time())
            if self._detector.stalling:
                self._stalling.set()
        exchange.take(message)
        if exchange.done:
            del self._exchanges[exchange.id]

    def _take_notice(self, message: Message) -> None:
        """Take a message that belongs to no request: it may say that the kernel has ended."""
        if message.type != "status":
            return
        state = message.content.get("execution_state")
        # A kernel also says once that it starts; that of ours may still be on the way.
        own = state == "starting" and message.sender == self._signature
        if state in ("starting", "restarting", "dead") and not own:
            self._end(_died(message.content.get("reason")))

    def _take_probe(self, message: Message) -> None:
        exchanges = self._probes[message.parent_id]
        if message.type == "kernel_info_reply":
            if message.sender != self._signature:
                self._end(
                    KernelLostError(f"Kernel {self.ref.kernel_id} was restarted by its server.")
                )
                return
            self._usable.set()
            if message.channel == "shell":
                self._probing = False
                for exchange in exchanges:
                    exchange.settle_reply()
        elif message.content.get("execution_state") == "idle":
            for exchange in exchanges:
                exchange.settle_outputs()
        for exchange in exchanges:
            if exchange.done:
                self._exchanges.pop(exchange.id, None)

    # --- recovery

    async def _reconnect(self) -> None:
        """Connect and probe.

        Raises:
            KernelLostError: The kernel is gone or another one answers in its place.
            ServerUnavailableError: The server did not come back in time.
        """
        give_up_at = anyio.current_time() + PATIENCE
        delay = FIRST_DELAY
        attempt = 0
        while True:
            if self._exchanges:
                await anyio.sleep(delay)
            attempt += 1
            try:
                if await self._try_to_connect(attempt):
                    return
            except ServerUnavailableError as exc:
                if self._server.has_ended():
                    raise KernelLostError(
                        f"{self._server.address.name} ended, and its kernels with it."
                    ) from exc
                if anyio.current_time() + delay > give_up_at:
                    raise
                if not self._exchanges:
                    await anyio.sleep(delay)
            delay = min(delay * 2, 5.0)

    async def _try_to_connect(self, attempt: int) -> bool:
        state = await self._server.get_kernel(self.ref.kernel_id)
        if state.state in _ENDED:
            raise KernelLostError(
                f"Kernel {self.ref.kernel_id} ended (its server says {state.state!r})."
            )
        if self._exchanges and state.connections > 0:
            # The server keeps messages only while nobody is connected. It may not have noticed
            # yet that the old connection is gone; later, somebody else is connected.
            if attempt <= _LOSS_ATTEMPTS:
                return False
            self._report_loss()
        self._adopt(
            await open_channels(
                self._server, self.ref.kernel_id, self._channel_id, timeout=OPEN_TIMEOUT
            )
        )
        await self._probe()
        return True

    def _adopt(self, channels: Channels) -> None:
        self._channels = channels
        self._over_tcp = channels.over_tcp
        self._detector = StallDetector(stalling=not channels.acknowledges)

    async def _probe(self) -> None:
        """Ask the kernel who it is, behind all it has to do and (if it can) beside that."""
        behind, beside = uuid4().hex, uuid4().hex
        self._probing = True
        self._probes = {behind: list(self._exchanges.values()), beside: []}
        for channel, id in (("control", beside), ("shell", behind)):
            await self._send(
                Request(channel=channel, id=id, type="kernel_info_request", sender=self._channel_id)
            )

    def _forget_channels(self) -> None:
        self._channels = None
        if self._usable.is_set():
            self._usable = anyio.Event()

    def _report_loss(self) -> None:
        for exchange in self._exchanges.values():
            if isinstance(exchange, JupyterExecution):
                exchange.put(
                    OutputLost(
                        message="The connection to the Jupyter Server was interrupted; output of"
                        " that time may be missing."
                    )
                )

    async def _ask_about_kernel(self) -> None:
        """Find out by REST whether a silent kernel still works on what is pending."""
        try:
            state = await self._server.get_kernel(self.ref.kernel_id)
        except KernelLostError as exc:
            self._end(_died(exc))
        except BackendError:
            logger.debug("cannot ask about kernel %s", self.ref.kernel_id)
        else:
            if state.state in _ENDED:
                self._end(_died())
            elif state.state == "idle" and self._exchanges and not self._probing:
                await self._probe()

    def _end(self, error: BackendError) -> None:
        """Fail what is pending and everything later."""
        if self._error is not None:
            return
        self._error = error
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.fail(_died(error) if isinstance(error, KernelLostError) else error)
        self._usable.set()

    def _check(self) -> None:
        if isinstance(self._error, KernelDiedError):
            raise KernelLostError(str(self._error)) from self._error
        if self._error is not None:
            raise self._error

    # --- pings

    async def _ping(self) -> None:
        while True:
            await self._stalling.wait()
            while self._exchanges and self._detector.stalling:
                channels = self._channels
                if channels is not None:
                    try:
                        await channels.ping()
                    except ConnectionClosed:
                        logger.debug("connection to kernel %s closed", self.ref.kernel_id)
                self._pings += 1
                await anyio.sleep(to_delay(self._pings))
            self._stalling = anyio.Event()


def join_channel_id(channel: str, signature: str) -> str:
    """Return what `KernelRef.channel_id` holds: our channel and the kernel's signature."""
    return f"{channel}.{signature}"


def split_channel_id(channel_id: str) -> tuple[str, str]:
    """Return our channel and the kernel's signature."""
    channel, _, signature = channel_id.partition(".")
    return channel, signature


def _to_fragments(message: bytes) -> Iterator[memoryview]:
    view = memoryview(message)
    for start in range(0, len(view), FRAGMENT):
        yield view[start : start + FRAGMENT]


def _died(reason: object = None) -> KernelDiedError:
    detail = f" {reason}" if reason else ""
    return KernelDiedError(f"The kernel ended before it replied.{detail}")
