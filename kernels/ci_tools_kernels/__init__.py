"""Kernels for any Jupyter Server: sandboxed, limited, and forked from a warm template.

A Jupyter Server uses them through a kernelspec (`write_kernelspec`) and this distribution's
kernel provisioner; nothing here knows the rest of ci-tools.
"""

from ci_tools_kernels.kernelspec import write_kernelspec
from ci_tools_kernels.policy import Limits, Policy
from ci_tools_kernels.probe import IsolationError, Mechanism, Report, probe

__all__ = [
    "IsolationError",
    "Limits",
    "Mechanism",
    "Policy",
    "Report",
    "probe",
    "write_kernelspec",
]
