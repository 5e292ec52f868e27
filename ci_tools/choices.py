"""What a host application may choose for one session, within what the operator allows."""

import re
from collections.abc import Mapping

from ci_tools.errors import InvalidArgumentError
from ci_tools.settings import NETWORKS, Settings

REMOTE = "remote"
"""The network, and the isolation, of sessions on a server that decides itself."""

VARIABLES_MAX = 100
"""Variables of one session."""

VARIABLES_SIZE = 32_768
"""Characters of all their names and values together."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


def choose_network(settings: Settings, *, isolation: str, wanted: str | None) -> str:
    """Return what code of a new session reaches.

    Raises:
        InvalidArgumentError: It is more than the operator allows, or not ours to decide.
    """
    if wanted is not None and wanted not in NETWORKS:
        raise InvalidArgumentError(
            f"A session's network is one of {', '.join(NETWORKS)}, not {wanted[:50]!r}."
        )
    if isolation == REMOTE:
        if wanted is not None:
            raise InvalidArgumentError(
                "On a Jupyter Server of your own, that server decides about the network."
            )
        return REMOTE
    if isolation == "none":
        if wanted not in (None, "on"):
            raise InvalidArgumentError(
                "Without a sandbox (CI_TOOLS_ISOLATION=none) code reaches what this machine does."
            )
        return "on"
    chosen = settings.kernel_network if wanted is None else wanted
    if limit_network(settings, chosen) != chosen:
        raise InvalidArgumentError(
            f"The network {chosen!r} is more than this service allows a session"
            f" ({settings.most_network!r}): its operator can set CI_TOOLS_KERNEL_NETWORK_MOST."
        )
    if chosen == "allowlist" and not settings.kernel_network_hosts:
        raise InvalidArgumentError(
            "No hosts are allowed here yet: the operator can name them in"
            " CI_TOOLS_KERNEL_NETWORK_HOSTS."
        )
    return chosen


def limit_network(settings: Settings, network: str) -> str:
    """Return the network, or less if the operator has lowered the limit since it was chosen."""
    for name in NETWORKS:
        if name in (network, settings.most_network):
            return name
    return network  # no sandbox of ours holds it


def check_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a session's variables as they are kept.

    Raises:
        InvalidArgumentError: There are too many, or one cannot be a variable.
    """
    if len(environment) > VARIABLES_MAX:
        raise InvalidArgumentError(f"A session has at most {VARIABLES_MAX} variables.")
    for name, value in environment.items():
        if _NAME.fullmatch(name) is None or "\0" in value:
            raise InvalidArgumentError(
                f"{name[:50]!r} cannot be a variable: names have letters, digits and '_', and"
                " values no null character."
            )
    if sum(len(name) + len(value) for name, value in environment.items()) > VARIABLES_SIZE:
        raise InvalidArgumentError(
            f"A session's variables have at most {VARIABLES_SIZE} characters together."
        )
    return dict(environment)
