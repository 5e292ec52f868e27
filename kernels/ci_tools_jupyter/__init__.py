"""Kernels on Jupyter Servers: an embedded one, remote ones, Kernel and Enterprise Gateways."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci_tools_jupyter.backend import JupyterBackend

__all__ = ["JupyterBackend"]


def __getattr__(name: str) -> Any:
    # On first use, because the embedded server's child process imports this package too and needs
    # neither the backend nor its client libraries.
    if name == "JupyterBackend":
        from ci_tools_jupyter.backend import JupyterBackend

        return JupyterBackend
    raise AttributeError(name)
