"""What waits for a kernel's answers: executions and small requests of our own; without I/O."""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from ci_tools.errors import BackendError, ServerUnavailableError
from ci_tools.kernel import ExecutionDone, KernelEvent
from ci_tools.models import ErrorOutput
from ci_tools_jupyter.events import to_done, to_event, to_reply_events
from ci_tools_jupyter.wire import JsonObject, Message


class Exchange(Protocol):
    """A request that has been sent and is not answered whole yet."""

    id: str
    done: bool

    def take(self, message: Message) -> None:
        """Take a message that belongs to the request."""
        ...

    def fail(self, error: BackendError) -> None:
        """End it: nothing more will come."""
        ...

    def settle_reply(self) -> None:
        """Note that no reply can come any more: the kernel has replied to a later request."""
        ...

    def settle_outputs(self) -> None:
        """Note that no output can come any more: the kernel has been idle after a later request."""
        ...


class JupyterExecution:
    """Code that a kernel has been given; implements `ci_tools.kernel.Execution`."""

    def __init__(
        self,
        id: str,
        *,
        on_reply: Callable[[JsonObject], None] = lambda reply: None,
        explain: Callable[[ErrorOutput], ErrorOutput] = lambda error: error,
    ) -> None:
        self.id = id
        self.done = False
        self._on_reply = on_reply
        self._explain = explain
        self._events: deque[KernelEvent] = deque()
        self._arrived = anyio.Event()
        self._error: BackendError | None = None
        self._reply: JsonObject | None = None
        self._idle = False
        self._failed = False

    async def receive(self) -> KernelEvent:
        """Wait for the next event.

        Raises:
            KernelDiedError: The kernel ended before it replied.
            ServerUnavailableError: The server is gone and did not come back in time.
        """
        while not self._events:
            if self._error is not None:
                raise self._error
            if self.done:
                raise RuntimeError("the execution is over")
            await self._arrived.wait()
        event = self._events.popleft()
        if not self._events and not self.done:
            self._arrived = anyio.Event()
        return event

    def take(self, message: Message) -> None:
        """Take a message that belongs to this execution."""
        if message.channel == "shell":
            if message.type == "execute_reply":
                self._reply = message.content
        elif message.type == "status":
            self._idle = self._idle or message.content.get("execution_state") == "idle"
        else:
            event = to_event(message)
            if event is None:
                return
            if isinstance(event, ErrorOutput):
                self._failed = True
                event = self._explain(event)
            self.put(event)
            return
        if self._reply is not None and self._idle:
            self._finish(self._reply)

    def put(self, event: KernelEvent) -> None:
        """Add an event."""
        self._events.append(event)
        self._arrived.set()

    def fail(self, error: BackendError) -> None:
        """Raise `error` in `receive` after the events so far."""
        if not self.done:
            self.done = True
            self._error = error
            self._arrived.set()

    def settle_reply(self) -> None:
        """End as `unknown` if there has been no reply."""
        if self._reply is None and not self.done:
            self.done = True
            self.put(ExecutionDone(status="unknown"))

    def settle_outputs(self) -> None:
        """Count as idle: only the sign of it can be missing."""
        self._idle = True
        if self._reply is not None:
            self._finish(self._reply)

    def _finish(self, reply: JsonObject) -> None:
        if self.done:
            return
        self.done = True
        self._on_reply(reply)
        self._events.extend(to_reply_events(reply, failed=self._failed))
        self.put(to_done(reply))


class Inquiry:
    """A small request of our own; `wait` for its answers."""

    def __init__(self, id: str, *, replies: bool) -> None:
        self.id = id
        self.done = False
        self.messages: list[Message] = []
        self._replied = not replies
        self._idle = False
        self._error: BackendError | None = None
        self._over = anyio.Event()

    async def wait(self) -> list[Message]:
        """Wait for the reply and the kernel to be idle; return all messages but status.

        Raises:
            BackendError: The kernel or the connection was lost first.
        """
        await self._over.wait()
        if self._error is not None:
            raise self._error
        return self.messages

    def take(self, message: Message) -> None:
        """Take a message that belongs to this request."""
        if message.type == "status":
            self._idle = self._idle or message.content.get("execution_state") == "idle"
        else:
            self.messages.append(message)
            self._replied = self._replied or message.type.endswith("_reply")
        if self._replied and self._idle:
            self._end()

    def fail(self, error: BackendError) -> None:
        """Raise `error` in `wait`."""
        if not self.done:
            self._error = error
            self._end()

    def settle_reply(self) -> None:
        """Fail if there has been no reply."""
        if not self._replied:
            self.fail(_lost())

    def settle_outputs(self) -> None:
        """Fail: an answer may be missing."""
        self.fail(_lost())

    def _end(self) -> None:
        self.done = True
        self._over.set()


def _lost() -> ServerUnavailableError:
    return ServerUnavailableError("The connection to the kernel was lost in between; try again.")
