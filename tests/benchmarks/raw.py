"""The baseline: a kernel of its own, driven by jupyter_client over ZMQ, with nothing else."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager

START_LIMIT = 60.0
"""Seconds that a kernel may take to answer first."""

QUIET = ["--log-level=ERROR"]
"""Arguments of the kernels, which warn about TCP on stderr otherwise."""

REPLY_LIMIT = 120.0
"""Seconds that one message may take."""


class RawKernel:
    """A kernel behind the blocking client, as fast as a single Python client gets."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self.text = ""
        """What the last execution wrote to its streams."""

    def execute(self, code: str) -> float:
        """Run code until it has replied and is idle; return the seconds to the first output."""
        started = perf_counter()
        request = self._client.execute(code)
        first = 0.0
        texts: list[str] = []
        while True:
            message = self._client.get_iopub_msg(timeout=REPLY_LIMIT)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "stream":
                first = first or perf_counter() - started
                texts.append(message["content"]["text"])
            elif (
                message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            ):
                break
        while True:
            reply = self._client.get_shell_msg(timeout=REPLY_LIMIT)
            if reply["parent_header"].get("msg_id") == request:
                break
        self.text = "".join(texts)
        return first


@contextmanager
def open_raw_kernel() -> Iterator[RawKernel]:
    """Start a kernel and its blocking client; both end with the block."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(extra_arguments=QUIET)
    try:
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=START_LIMIT)
            yield RawKernel(client)
        finally:
            client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)


class AsyncRawKernel:
    """A kernel behind the async client, so that one process can drive several."""

    def __init__(self, client: AsyncKernelClient) -> None:
        self._client = client

    async def execute(self, code: str) -> None:
        """Run code until it has replied and is idle."""
        request = self._client.execute(code)
        while True:
            message = await self._client.get_iopub_msg(timeout=REPLY_LIMIT)
            if (
                message["parent_header"].get("msg_id") == request
                and message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
            ):
                break
        while True:
            reply = await self._client.get_shell_msg(timeout=REPLY_LIMIT)
            if reply["parent_header"].get("msg_id") == request:
                return


@asynccontextmanager
async def open_async_raw_kernel() -> AsyncIterator[AsyncRawKernel]:
    """Start a kernel and its async client; both end with the block."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(extra_arguments=QUIET)
    try:
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=START_LIMIT)
            yield AsyncRawKernel(client)
        finally:
            client.stop_channels()
    finally:
        await manager.shutdown_kernel(now=True)
