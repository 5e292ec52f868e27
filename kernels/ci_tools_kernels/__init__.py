"""Kernels for any Jupyter Server: sandboxed, limited, and forked from a warm template.

A Jupyter Server uses them through a kernelspec (`write_kernelspec`) and this distribution's
kernel provisioner; nothing here knows the rest of ci-tools.
"""

from ci_tools_kernels.policy import Limits, Policy

__all__ = ["Limits", "Policy"]
