"""What an operator decides about kernels: limits, network, environment, what is preloaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias, get_args

from ci_tools_kernels.allowlist import Allowlist

MEGABYTE = 1 << 20
"""Bytes."""

Network: TypeAlias = Literal["none", "allowlist", "on"]
"""What code reaches: its own loopback; the hosts of a list, through a proxy; all that the machine
does, its loopback and its neighbours included."""


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

    network: Network = "none"
    """What code reaches besides its own loopback."""

    hosts: tuple[str, ...] = ()
    """The hosts that code reaches with the network `allowlist`, as `ci_tools_kernels.allowlist`
    describes them."""

    limits: Limits = field(default_factory=Limits)

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that code sees. Nothing of the server's own environment is passed on."""

    preload: tuple[str, ...] = ("numpy", "pandas", "matplotlib.pyplot")
    """Modules that the template imports; what is not installed is passed over."""

    pool: int = 0
    """Kernels that are kept ready, each with the template's imports done and no session yet; with
    0 none is, whatever is wanted."""

    pool_most: int = 16
    """Kernels that are kept ready after so many were wanted at once, while there is memory."""


def to_policy(config: Mapping[str, Any]) -> Policy:
    """Read the `config` of a kernelspec's `kernel_provisioner`.

    Raises:
        ValueError: There is a name or a value that means nothing here.
    """
    known = {item.name for item in fields(Policy)}
    limits = dict(config.get("limits", {}))
    unknown = (set(config) - known) | (set(limits) - {item.name for item in fields(Limits)})
    if unknown:
        raise ValueError(f"Unknown in the kernelspec's provisioner: {', '.join(sorted(unknown))}.")
    values = {**config, "limits": Limits(**limits)}
    for name in ("preload", "hosts"):
        if name in config:
            values[name] = tuple(config[name])
    if values.get("network", "none") not in get_args(Network):
        raise ValueError(f"A network is one of {', '.join(get_args(Network))}.")
    Allowlist(values.get("hosts", ()))
    return Policy(**values)


def to_config(policy: Policy) -> dict[str, Any]:
    """Return the policy as a kernelspec's provisioner `config`."""
    return {**asdict(policy), "preload": list(policy.preload), "hosts": list(policy.hosts)}


def choose(policy: Policy, choice: Mapping[str, Any]) -> Policy:
    """Return the policy with the `network` and the `environment` that were chosen for one kernel.

    Raises:
        ValueError: There is a name or a value that means nothing here.
    """
    unknown = set(choice) - {"network", "environment"}
    if unknown:
        raise ValueError(f"Unknown in the choice for a kernel: {', '.join(sorted(unknown))}.")
    network = choice.get("network") or policy.network
    if network not in get_args(Network):
        raise ValueError(f"A network is one of {', '.join(get_args(Network))}.")
    environment = {**policy.environment, **choice.get("environment", {})}
    return replace(policy, network=network, environment=environment)
