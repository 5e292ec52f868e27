"""What a template is told about one kernel."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import uuid4

from ci_tools_kernels.inside.filesystem import DATA, PACKAGES, SCRATCH
from ci_tools_kernels.inside.relay import PORT
from ci_tools_kernels.policy import Policy

FIRST_USER = 0x70000000
"""Where the service is root, sandboxes run as users from here on: no system assigns these."""


NO_INDEX = "http://this-session-has-no-network.invalid/"
"""What pip names when it fails in a shell command of a session without network."""


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
    memory_counted: bool = False,
    pooled: bool = False,
    proxy: str | None = None,
) -> dict[str, Any]:
    """Return what a template is told about one kernel.

    `proxy` is the folder with its socket. `memory_counted` says that one of the control groups
    counts all memory, whichever way code gets it.
    """
    return {
        "id": uuid4().hex,
        "cgroups": list(cgroups),
        "pooled": pooled,
        "network": policy.network == "on",
        "proxy": proxy,
        "hosts": list(policy.hosts) if proxy else [],
        "data": data,
        "uid": user,
        "limits": {
            **asdict(policy.limits),
            "nice": 5,
            "process_memory": policy.limits.memory,
            "memory_counted": memory_counted,
        },
        "env": kernel_environment(python, policy, extra_environment or {}),
        "cwd": DATA,
        "connection": {"key": key, "signature_scheme": signature_scheme},
    }


def kernel_environment(python: str, policy: Policy, extra: Mapping[str, str]) -> dict[str, str]:
    """Return all the variables that sandboxed code sees; the policy's own come last."""
    threads = str(max(1, min(int(policy.limits.cpus), os.cpu_count() or 1)))
    return {
        "HOME": SCRATCH,
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # forking wants a single thread
        "LANG": "C.UTF-8",
        "MPLCONFIGDIR": f"{SCRATCH}/.config/matplotlib",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "NO_COLOR": "1",
        "OPENBLAS_NUM_THREADS": threads,
        # Threads that wait for work spin 2^n cycles before they sleep: the usual 26 take a
        # processor from every kernel that starts, and from its neighbours after each sum.
        "OPENBLAS_THREAD_TIMEOUT": "20",
        "OMP_NUM_THREADS": threads,
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin:{PACKAGES}/bin",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",  # it would be in memory
        "PIP_RETRIES": "0",
        "PIP_PREFIX": PACKAGES,
        "PIP_TIMEOUT": "15",
        **({"PIP_INDEX_URL": NO_INDEX} if policy.network == "none" else {}),
        **(_proxy_variables() if policy.network == "allowlist" else {}),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SHELL": "/bin/sh",
        "TERM": "dumb",
        "TZ": os.environ.get("TZ", "UTC"),
        "USER": "user",
        **extra,
        **policy.environment,
    }


def _proxy_variables() -> dict[str, str]:
    address = f"http://127.0.0.1:{PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    own = "localhost,127.0.0.1,::1"
    return {**dict.fromkeys(names, address), "NO_PROXY": own, "no_proxy": own}
