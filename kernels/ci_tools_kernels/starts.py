"""Kernel managers that report a started kernel at once.

jupyter_client sleeps 10 ms in every start, so that its own tests can see the state before. A
kernel from the pool is there in less than that.
"""

import asyncio
from typing import Any

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_client.manager import KernelManager
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager

_start: Any = getattr(KernelManager._async_start_kernel, "__wrapped__", None)
"""The start without the decorator that sleeps; None if jupyter_client has changed that."""


class _PromptStart(AsyncIOLoopKernelManager):
    """Comes between the server's manager, which announces starts, and the one that starts."""

    async def _async_start_kernel(self, **kwargs: Any) -> None:
        if _start is None:
            await super()._async_start_kernel(**kwargs)
            return
        # What the decorator does, but for the sleep.
        if self._attempted_start or not self._ready:
            self._ready = asyncio.get_running_loop().create_future()
        try:
            await _start(self, **kwargs)
        except Exception as exc:
            self._ready.set_exception(exc)
            self.log.error("Kernel %s could not be started: %s", self.kernel_id, exc)
            raise
        if self.owns_kernel:
            self._ready.set_result(None)

    start_kernel: Any = _async_start_kernel


class PromptKernelManager(ServerKernelManager, _PromptStart):
    """For `MappingKernelManager.kernel_manager_class`: stock, but for the sleep."""
