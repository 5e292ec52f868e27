"""What a template is told about one kernel."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from ci_tools_kernels.inside.filesystem import DATA, SCRATCH
from ci_tools_kernels.policy import Policy

FIRST_USER = 0x70000000
"""Where the service is root, sandboxes run as users from here on: no system assigns these."""


def kernel_spec(
    python: str,
    policy: Policy,
    *,
    data: str | None,
    user: int | None,
    key: str,
    signature_scheme: str = "hmac-sha256",
    extra_environment: Mapping[str, str] | None = None,
    cgroups: Sequence[str] = (),
    pooled: bool = False,
) -> dict[str, Any]:
    """Return what a template is told about one kernel."""
    return {
        "id": uuid4().hex,
        "cgroups": list(cgroups),
        "pooled": pooled,
        "network": policy.network,
        "data": data,
        "uid": user,
        "limits": {**asdict(policy.limits), "nice": 5, "process_memory": policy.limits.memory},
        "env": kernel_environment(python, {**(extra_environment or {}), **policy.environment}),
        "cwd": DATA,
        "connection": {"key": key, "signature_scheme": signature_scheme},
    }


def kernel_environment(python: str, extra: dict[str, str]) -> dict[str, str]:
    """Return all the variables that sandboxed code sees."""
    return {
        "HOME": SCRATCH,
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # forking wants a single thread
        "LANG": "C.UTF-8",
        "MPLCONFIGDIR": f"{SCRATCH}/.config/matplotlib",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NO_COLOR": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
        "PIP_RETRIES": "0",
        "PIP_TARGET": f"{SCRATCH}/packages",
        "PIP_TIMEOUT": "15",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHELL": "/bin/sh",
        "TERM": "dumb",
        "TZ": os.environ.get("TZ", "UTC"),
        "USER": "user",
        **extra,
    }
