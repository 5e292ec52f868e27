"""What a sandbox holds of the machine besides its processes."""

import os
from typing import Protocol
from uuid import uuid4

from ci_tools_kernels.cgroups import Controls, Group
from ci_tools_kernels.policy import Limits


class Users(Protocol):
    """What leases come from: the host."""

    controls: Controls

    def take_user(self) -> int | None:
        """Return a user id for one sandbox, or None where the service is not root."""
        ...

    def return_user(self, user: int | None) -> None:
        """Let another sandbox have this user id."""
        ...


class Lease:
    """What a sandbox holds of the host besides its processes."""

    def __init__(self, host: "Users", name: str, limits: Limits) -> None:
        self._host = host
        self.user = host.take_user()
        self.group: Group | None = None
        self.was_out_of_memory = False
        """Whether something in it was ended for want of memory; known once it is given back."""

        self.memory_counted = "memory" in host.controls.parents
        """Whether a control group counts all memory, whichever way code gets it."""

        if host.controls.parents:
            self.group = Group(host.controls, f"{os.getpid()}-{name}-{uuid4().hex[:8]}", limits)

    def give_back(self) -> None:
        """Remove the control group and free the user id."""
        if self.group is not None:
            self.was_out_of_memory = self.group.was_out_of_memory()
            self.group.remove()
        self._host.return_user(self.user)
