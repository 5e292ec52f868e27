"""What an operator decides about kernels: limits, network, environment, what is preloaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

MEGABYTE = 1 << 20
"""Bytes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one session may use. Sizes are bytes."""

    memory: int = 2048 * MEGABYTE
    """Of all its processes together, where a control group can be had; else of each process."""

    processes: int = 256
    """Processes and threads."""

    cpus: float = 2.0
    """Processors' worth of time, where a control group can be had."""

    disk: int = 1024 * MEGABYTE
    """Of everything in /mnt/data."""

    files: int = 100_000
    """Files and directories in /mnt/data, and in /tmp."""

    file_size: int = 1024 * MEGABYTE
    """Of one file."""

    scratch: int = 256 * MEGABYTE
    """Of /tmp and of /dev/shm, which are memory."""

    open_files: int = 4096
    """File descriptors of one process."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How kernels of one kernelspec are run."""

    isolation: Literal["auto", "namespaces", "bubblewrap"] = "auto"
    """`auto` is the best that this machine allows. Without a sandbox there is no policy either:
    that is a stock kernelspec."""

    network: bool = False
    """Whether code shares the machine's network; otherwise it has only its own loopback."""

    limits: Limits = field(default_factory=Limits)

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that code sees. Nothing of the server's own environment is passed on."""

    preload: tuple[str, ...] = ("numpy", "pandas", "matplotlib.pyplot")
    """Modules that the template imports; what is not installed is passed over."""

    pool: int = 0
    """Kernels that are kept ready, each with the template's imports done and no session yet."""


def to_policy(config: Mapping[str, Any]) -> Policy:
    """Read the `config` of a kernelspec's `kernel_provisioner`.

    Raises:
        ValueError: There is a name that means nothing here.
    """
    known = {item.name for item in fields(Policy)}
    limits = dict(config.get("limits", {}))
    unknown = (set(config) - known) | (set(limits) - {item.name for item in fields(Limits)})
    if unknown:
        raise ValueError(f"Unknown in the kernelspec's provisioner: {', '.join(sorted(unknown))}.")
    values = {**config, "limits": Limits(**limits)}
    if "preload" in config:
        values["preload"] = tuple(config["preload"])
    return Policy(**values)


def to_config(policy: Policy) -> dict[str, Any]:
    """Return the policy as a kernelspec's provisioner `config`."""
    return {**asdict(policy), "preload": list(policy.preload)}
